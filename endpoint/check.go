package endpoint

import (
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/firewall"
)

// Clone is a copy that shares nothing with s.
func (s Spec) Clone() Spec {
	s.Aliases, s.Links = slices.Clone(s.Aliases), maps.Clone(s.Links)
	s.Addresses, s.LinkLocal, s.MAC = slices.Clone(s.Addresses), slices.Clone(s.LinkLocal), slices.Clone(s.MAC)
	s.Publish, s.Exposed = slices.Clone(s.Publish), slices.Clone(s.Exposed)
	s.Sysctls, s.Labels, s.Options = maps.Clone(s.Sysctls), maps.Clone(s.Labels), maps.Clone(s.Options)
	return s
}

// Clone is a copy that shares nothing with i.
func (i Info) Clone() Info {
	i.Spec, i.Addresses, i.MAC, i.Ports = i.Spec.Clone(), slices.Clone(i.Addresses), slices.Clone(i.MAC), slices.Clone(i.Ports)
	return i
}

// Clone is a copy that shares nothing with p.
func (p Ports) Clone() Ports {
	p.Publish, p.Exposed = slices.Clone(p.Publish), slices.Clone(p.Exposed)
	return p
}

// Check refuses, as InvalidArgument, a binding that ParsePort would not make: no protocol, no container port, ranges that do not fit,
// a host address with a zone.
func (b PortBinding) Check() error {
	why := b.checkLengths()
	switch {
	case b.Proto != firewall.TCP && b.Proto != firewall.UDP && b.Proto != firewall.SCTP:
		why = fmt.Errorf("protocol %d is none of tcp, udp, sctp", b.Proto)
	case b.Host.Zone() != "" || b.Host.Is4In6():
		why = fmt.Errorf("the host address is one of IPv4 or IPv6, without zone")
	case b.Ports.First == 0 || b.Ports.Last < b.Ports.First:
		why = fmt.Errorf("container ports are 1 to 65535, the first not after the last")
	case b.HostPorts.Last < b.HostPorts.First || b.HostPorts.First == 0 && b.HostPorts.Last != 0:
		why = fmt.Errorf("host ports are 1 to 65535, the first not after the last, or none")
	}
	if why != nil {
		return fmt.Errorf("port %s: %w: %w", b, why, errdefs.ErrInvalidArgument)
	}
	return nil
}
