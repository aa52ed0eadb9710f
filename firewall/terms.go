package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// maxInterface is the longest name of an interface, in bytes.
const maxInterface = 15

// IsZero says whether nothing is wanted.
func (t Terms) IsZero() bool {
	return len(t.Networks)+len(t.Ports)+len(t.Pinholes)+len(t.Policies)+len(t.Redirects)+len(t.Tunnels) == 0
}

// Equal says whether both want the same, whatever the order and however ports are put into ranges.
func (t Terms) Equal(u Terms) bool { return reflect.DeepEqual(t.Normal(), u.Normal()) }

// Normal is the one form that equal terms share and that Observe returns: sorted (policies, whose order decides, as they stand), runs of
// ports in one range, prefixes masked, empty lists nil, and nothing said that has no effect. It shares no memory with t.
func (t Terms) Normal() Terms {
	n := Terms{
		Ports:     normalPorts(t.Ports),
		Pinholes:  slices.Clone(t.Pinholes),
		Policies:  slices.Clone(t.Policies),
		Redirects: slices.Clone(t.Redirects),
	}
	for _, net := range t.Networks {
		n.Networks = append(n.Networks, net.normal())
	}
	slices.SortFunc(n.Networks, func(a, b Network) int { return cmp.Compare(a.Interface, b.Interface) })
	slices.SortFunc(n.Pinholes, comparePinholes)
	slices.SortFunc(n.Redirects, func(a, b Redirect) int { return a.To.Compare(b.To) })
	for _, tunnel := range t.Tunnels {
		tunnel.Peers = sorted(tunnel.Peers, netip.Addr.Compare)
		n.Tunnels = append(n.Tunnels, tunnel)
	}
	slices.SortFunc(n.Tunnels, func(a, b Tunnel) int { return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.VNI, b.VNI)) })
	if len(t.Pinholes) == 0 {
		n.Pinholes = nil
	}
	if len(t.Policies) == 0 {
		n.Policies = nil
	}
	if len(t.Redirects) == 0 {
		n.Redirects = nil
	}
	return n
}

// Translates says whether what leaves in this mode has its source changed and what is published has its destination changed.
func (m Mode) Translates() bool { return m == NAT || m == NATUnprotected }

func (n Network) normal() Network {
	masked := make([]netip.Prefix, len(n.Subnets))
	for i, p := range n.Subnets {
		masked[i] = p.Masked()
	}
	n.Subnets = sorted(masked, netip.Prefix.Compare)
	n.Trusted, n.Reach = sorted(n.Trusted, cmp.Compare), sorted(n.Reach, cmp.Compare)
	n.NoMasq = n.NoMasq && (n.Mode4.Translates() || n.Mode6.Translates())
	if !n.Mode4.Translates() {
		n.SNAT4 = netip.Addr{}
	}
	if !n.Mode6.Translates() {
		n.SNAT6 = netip.Addr{}
	}
	return n
}

// sorted is a sorted copy without repetitions; nil when empty.
func sorted[T comparable](s []T, compare func(a, b T) int) []T {
	if len(s) == 0 {
		return nil
	}
	s = slices.Clone(s)
	slices.SortFunc(s, compare)
	return slices.Compact(s)
}

// normalPorts cuts ranges to single ports and puts runs together again, so that it does not matter how they were cut before.
func normalPorts(ports []Port) []Port {
	var single []Port
	for _, p := range ports {
		for i := range p.HostPorts.Len() {
			one := p
			one.HostPorts = Range{p.HostPorts.First + uint16(i), p.HostPorts.First + uint16(i)}
			one.Ports = Range{p.Ports.First + uint16(i), p.Ports.First + uint16(i)}
			single = append(single, one)
		}
	}
	slices.SortFunc(single, comparePorts)
	single = slices.Compact(single)
	merged := single[:0]
	for _, p := range single {
		if last := len(merged) - 1; last >= 0 && continues(merged[last], p) {
			merged[last].HostPorts.Last, merged[last].Ports.Last = p.HostPorts.Last, p.Ports.Last
			continue
		}
		merged = append(merged, p)
	}
	if len(merged) == 0 {
		return nil
	}
	return slices.Clip(merged)
}

// continues says whether p is the next port of the run r.
func continues(r, p Port) bool {
	next := r
	next.HostPorts = Range{r.HostPorts.Last + 1, r.HostPorts.Last + 1}
	next.Ports = Range{r.Ports.Last + 1, r.Ports.Last + 1}
	return next == p && r.HostPorts.Last != 65535 && r.Ports.Last != 65535
}

func comparePorts(a, b Port) int {
	return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Proto, b.Proto), a.Host.Compare(b.Host), a.Target.Compare(b.Target),
		compareBool(a.RespectHost, b.RespectHost), cmp.Compare(a.HostPorts.First, b.HostPorts.First), cmp.Compare(a.Ports.First, b.Ports.First))
}

func comparePinholes(a, b Pinhole) int {
	return cmp.Or(cmp.Compare(a.Interface, b.Interface), a.From.Compare(b.From), a.To.Compare(b.To), cmp.Compare(a.Proto, b.Proto),
		cmp.Compare(a.Ports.First, b.Ports.First), cmp.Compare(a.Ports.Last, b.Ports.Last))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Validate says what in the terms can be meant by nobody, whatever else is there: InvalidArgument.
func (t Terms) Validate() error {
	for _, n := range t.Networks {
		if err := n.validate(); err != nil {
			return fmt.Errorf("network on %q: %w: %w", n.Interface, err, errdefs.ErrInvalidArgument)
		}
	}
	for _, p := range t.Ports {
		if err := p.validate(); err != nil {
			return fmt.Errorf("port %s: %w: %w", p, err, errdefs.ErrInvalidArgument)
		}
	}
	for _, tunnel := range t.Tunnels {
		if err := tunnel.validate(); err != nil {
			return fmt.Errorf("tunnel with VNI %d on port %d: %w: %w", tunnel.VNI, tunnel.Port, err, errdefs.ErrInvalidArgument)
		}
	}
	for _, r := range t.Redirects {
		if !r.To.IsValid() || r.To.Port() == 0 || r.Port == 0 {
			return fmt.Errorf("redirect of %s to port %d: it needs an address and two ports: %w", r.To, r.Port, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func (n Network) validate() error {
	for _, name := range slices.Concat([]string{n.Interface}, n.Trusted, n.Reach) {
		if err := checkInterface(name); err != nil {
			return err
		}
		if name == n.Interface && (slices.Contains(n.Trusted, name) || slices.Contains(n.Reach, name)) {
			return fmt.Errorf("it always reaches itself")
		}
	}
	for _, m := range []Mode{n.Mode4, n.Mode6} {
		if !slices.Contains([]Mode{NAT, NATUnprotected, Routed, Isolated, Off}, m) {
			return fmt.Errorf("unknown mode %q", m)
		}
	}
	for i, p := range n.Subnets {
		if !p.IsValid() || p.Addr().Is4In6() {
			return fmt.Errorf("subnet %s is none", p)
		}
		if slices.ContainsFunc(n.Subnets[:i], p.Overlaps) {
			return fmt.Errorf("subnet %s overlaps another of it", p)
		}
	}
	return n.validateSource()
}

func (n Network) validateSource() error {
	if n.SNAT4.IsValid() && !n.SNAT4.Is4() {
		return fmt.Errorf("source %s is not IPv4", n.SNAT4)
	}
	if n.SNAT6.IsValid() && (!n.SNAT6.Is6() || n.SNAT6.Is4In6()) {
		return fmt.Errorf("source %s is not IPv6", n.SNAT6)
	}
	if n.NoMasq && (n.SNAT4.IsValid() || n.SNAT6.IsValid()) {
		return fmt.Errorf("a source is named and translation is off")
	}
	return nil
}

func (t Tunnel) validate() error {
	const maxVNI = 1<<24 - 1 // RFC 7348, section 5
	if t.Port == 0 || t.VNI > maxVNI {
		return fmt.Errorf("ports are 1 to 65535, VNIs have 24 bits")
	}
	for _, peer := range t.Peers {
		if !peer.IsValid() || peer.Is4In6() || peer.Zone() != "" || peer.IsUnspecified() {
			return fmt.Errorf("peer %s is not one host", peer)
		}
	}
	return nil
}

func checkInterface(name string) error {
	if name == "" || len(name) > maxInterface || strings.ContainsAny(name, " \"/") {
		return fmt.Errorf("interface name %q has not 1 to %d bytes without spaces, quotes and slashes", name, maxInterface)
	}
	return nil
}

func (p Port) validate() error {
	if err := checkInterface(p.Interface); err != nil && p.Interface != "" {
		return err
	}
	if !slices.Contains([]Proto{TCP, UDP, SCTP}, p.Proto) {
		return fmt.Errorf("protocol %d has no ports", p.Proto)
	}
	if !p.Host.IsValid() || !p.Target.IsValid() || p.Host.Is4() != p.Target.Is4() || p.Host.Is4In6() || p.Target.Is4In6() {
		return fmt.Errorf("both addresses must be of one family")
	}
	if p.Target.IsUnspecified() || p.Host.Zone() != "" || p.Target.Zone() != "" {
		return fmt.Errorf("the target must be one address, without zone")
	}
	if p.HostPorts.First == 0 || p.Ports.First == 0 || p.HostPorts.Last < p.HostPorts.First || p.HostPorts.Len() != p.Ports.Len() {
		return fmt.Errorf("host and container ports must be ranges of one length")
	}
	return nil
}
