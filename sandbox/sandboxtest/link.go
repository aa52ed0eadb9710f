package sandboxtest

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox"
)

// link is an interface as it looks. Veth of a pair's ends is set, whichever end was planned.
type link struct {
	sandbox.Link
	instance string // with Owner, its alias
	peer     *link
	in       *space
	index    int // the kernel's number
}

// maxPorts is how many ports a bridge has: numbers are 10 bits and 0 is none.
const maxPorts = 1023

// addLink makes a link, or finds the one that is there: an adopted one, one that arrives, or a veth's far end.
func (k *kernel) addLink(s *space, instance string, want sandbox.Link) error {
	if want.Arrives != "" {
		if err := k.arrive(s, want); err != nil {
			return err
		}
		return k.look(s.links[want.Name], instance, want)
	}
	there := s.links[want.Name]
	if want.Adopt {
		if there == nil {
			return missing(want.Name)
		}
		return nil
	}
	if far(want) {
		if there == nil || there.peer == nil {
			return missing(want.Name)
		}
		return k.look(there, instance, want)
	}
	l := &link{Link: sandbox.Link{Name: want.Name, Veth: want.Veth, Bridge: want.Bridge, VXLAN: want.VXLAN, Child: want.Child, Tap: want.Tap}, in: s}
	if err := k.plug(l); err != nil {
		return err
	}
	if want.Veth != nil {
		if err := k.addPeer(l, want); err != nil {
			k.delete(l)
			return err
		}
	}
	if err := k.look(l, instance, want); err != nil {
		k.delete(l)
		return err
	}
	return nil
}

// far says whether l is the far end of a veth, made and deleted from the other side.
func far(l sandbox.Link) bool {
	return l.Veth == nil && l.Bridge == nil && l.VXLAN == nil && l.Child == nil && l.Tap == nil
}

// plug puts a new link into its namespace, down.
func (k *kernel) plug(l *link) error {
	if err := sandbox.CheckLinkName(l.Name); err != nil {
		return err
	}
	if l.in.links[l.Name] != nil {
		return fmt.Errorf("there is a link %s: %w", l.Name, errdefs.ErrAlreadyExists)
	}
	if c := l.Child; c != nil && k.files[""].links[c.Parent] == nil {
		return missing(c.Parent)
	}
	if v := l.VXLAN; v != nil {
		for _, s := range k.files {
			if s != nil && s.hasTunnel(*v) {
				return fmt.Errorf("there is a tunnel with VNI %d: %w", v.VNI, errdefs.ErrAlreadyExists)
			}
		}
	}
	k.macs++
	l.MTU, l.Down = 1500, true
	l.MAC = net.HardwareAddr{0xfa, 0xce, byte(k.macs >> 24), byte(k.macs >> 16), byte(k.macs >> 8), byte(k.macs)}
	l.index = int(k.macs)
	l.in.links[l.Name] = l
	return nil
}

func (s *space) hasTunnel(v sandbox.VXLAN) bool {
	for _, l := range s.links {
		if l.VXLAN != nil && l.VXLAN.VNI == v.VNI && l.VXLAN.Port == v.Port {
			return true
		}
	}
	return false
}

// addPeer makes the other end of a veth where it will live, with what the kernel takes for it at that moment.
func (k *kernel) addPeer(l *link, want sandbox.Link) error {
	in := l.in
	if space := want.Veth.Space; space != "" {
		if space == sandbox.InHost {
			space = ""
		}
		var err error
		if in, err = k.space(space); err != nil {
			return err
		}
	}
	peer := &link{Link: sandbox.Link{Name: want.Veth.Peer}, in: in}
	if err := k.plug(peer); err != nil {
		return err
	}
	l.peer, peer.peer = peer, l
	return k.look(peer, "", sandbox.Link{Name: peer.Name, MTU: want.MTU, MAC: want.Veth.MAC, Down: true})
}

// arrive moves a link from the host's namespace and renames it.
func (k *kernel) arrive(s *space, want sandbox.Link) error {
	host := k.files[""]
	l := host.links[want.Arrives]
	if l == nil {
		return missing(want.Arrives)
	}
	if err := sandbox.CheckLinkName(want.Name); err != nil {
		return err
	}
	if other := s.links[want.Name]; other != nil && other != l {
		return fmt.Errorf("there is a link %s: %w", want.Name, errdefs.ErrAlreadyExists)
	}
	if l.Owner != "" || l.Bridge != nil || l.Master != "" || slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() }) {
		return fmt.Errorf("link %s is in use: %w", l.Name, errdefs.ErrFailedPrecondition)
	}
	host.forget(l)
	delete(host.links, l.Name)
	l.Name, l.in, l.Master, l.Down = want.Name, s, "", true
	l.Addrs, l.Arrives = nil, want.Arrives
	s.links[l.Name] = l
	return nil
}

// look changes what a link looks like: all of it or nothing.
func (k *kernel) look(l *link, instance string, want sandbox.Link) error {
	if want.MTU != 0 && (want.MTU < 68 || want.MTU > 65535) {
		return fmt.Errorf("MTU %d of %s: want 68 to 65535: %w", want.MTU, l.Name, errdefs.ErrInvalidArgument)
	}
	if len(want.MAC) != 0 && (len(want.MAC) != 6 || want.MAC[0]&1 != 0 || [6]byte(want.MAC) == [6]byte{}) {
		return fmt.Errorf("MAC %s of %s: %w", want.MAC, l.Name, errdefs.ErrInvalidArgument)
	}
	if len(want.Owner) > 255 {
		return fmt.Errorf("alias of %s is longer than 255 bytes: %w", l.Name, errdefs.ErrInvalidArgument)
	}
	if err := l.in.canEnslave(l, want.Master); err != nil {
		return err
	}
	if want.MTU != 0 {
		l.MTU = want.MTU
	}
	if len(want.MAC) != 0 {
		l.MAC = slices.Clone(want.MAC)
	}
	l.Master, l.Owner, l.Silent, l.Port = want.Master, want.Owner, want.Silent, sandbox.Port{}
	l.instance = instance
	if want.Owner == "" {
		l.instance = ""
	}
	if want.Master != "" {
		l.Port = want.Port
	}
	if want.Bridge != nil && l.Bridge != nil {
		l.Bridge = &sandbox.Bridge{NoSnooping: want.Bridge.NoSnooping}
	}
	if want.Down && !l.Down {
		l.goDown()
	}
	l.Down = want.Down
	return nil
}

func (s *space) canEnslave(l *link, master string) error {
	if master == "" || master == l.Master {
		return nil
	}
	b := s.links[master]
	if b == nil {
		return missing(master)
	}
	if b.Bridge == nil || l.Bridge != nil {
		return fmt.Errorf("%s cannot be a port of %s: %w", l.Name, master, errdefs.ErrInvalidArgument)
	}
	ports := 0
	for _, o := range s.links {
		if o.Master == master {
			ports++
		}
	}
	if ports >= maxPorts {
		return fmt.Errorf("bridge %s is full (1,023 ports): %w", master, errdefs.ErrResourceExhausted)
	}
	return nil
}

// goDown is what the kernel does to a link that is set down: its routes go, and its IPv6 addresses.
func (l *link) goDown() {
	l.in.forget(l)
	l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(a netip.Prefix) bool { return a.Addr().Is6() })
}

// forget drops the routes of a link.
func (s *space) forget(l *link) {
	s.routes = slices.DeleteFunc(s.routes, func(r sandbox.Route) bool { return r.Link == l.Name })
}

// delLink is a DelLink step: of a link that is not ours to delete only what is ours ends. What is gone is gone.
func (k *kernel) delLink(s *space, have sandbox.Link) {
	l := s.links[have.Name]
	switch {
	case l == nil || have.Adopt:
	case have.Arrives != "":
		k.delete(l) // out of here, and back under its old name if that is free
		if host := k.files[""]; host.links[have.Arrives] == nil {
			l.Name, l.in, l.Down, l.Master, l.Addrs, l.Arrives = have.Arrives, host, true, "", nil, ""
			host.links[l.Name] = l
		}
	case far(have):
		l.goDown()
		l.Down = true
	default:
		k.delete(l)
	}
}

// delete removes a link with all that hangs on it: its routes and settings, its peer, its children, and its hold on its ports.
func (k *kernel) delete(l *link) {
	if l.in.links[l.Name] != l {
		return
	}
	l.in.forget(l)
	delete(l.in.links, l.Name)
	for key := range l.in.sysctls {
		if linkOf(key) == l.Name {
			delete(l.in.sysctls, key)
		}
	}
	for _, o := range l.in.links {
		if o.Master == l.Name {
			o.Master, o.Port = "", sandbox.Port{}
		}
	}
	if l.peer != nil {
		k.delete(l.peer)
	}
	if l.in != k.files[""] {
		return
	}
	for _, s := range k.files {
		if s == nil {
			continue
		}
		for _, o := range s.links {
			if o.Child != nil && o.Child.Parent == l.Name {
				k.delete(o)
			}
		}
	}
}

func (l *link) addAddr(a netip.Prefix) error {
	if !a.IsValid() {
		return fmt.Errorf("address %s: %w", a, errdefs.ErrInvalidArgument)
	}
	if a.Addr().Is6() {
		off := l.in.sysctls["ipv6/conf/"+l.Name+"/disable_ipv6"] == "1" || l.in.sysctls["ipv6/conf/all/disable_ipv6"] == "1"
		if off {
			return fmt.Errorf("address %s: IPv6 is off on %s: %w", a, l.Name, errdefs.ErrPermissionDenied)
		}
		if l.MTU < 1280 {
			return fmt.Errorf("address %s: IPv6 wants an MTU of 1280, %s has %d: %w", a, l.Name, l.MTU, errdefs.ErrInvalidArgument)
		}
	}
	if !slices.Contains(l.Addrs, a) {
		l.Addrs = append(slices.Clip(l.Addrs), a)
	}
	return nil
}

// delAddr takes the routes that name the address as their source with it.
func (l *link) delAddr(a netip.Prefix) {
	l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(o netip.Prefix) bool { return o == a })
	l.in.routes = slices.DeleteFunc(l.in.routes, func(r sandbox.Route) bool { return r.Source == a.Addr() })
}
