package netns

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// Leftover is the owner under which Observe tells of links that an Apply made and died before it marked them. Nobody has a record of
// them: they are to be deleted.
const Leftover = "leftover"

// Observe reads the shares of all owners of this instance; in the host's namespace also Leftover. Elsewhere all that is there, but lo and
// what the kernel made itself, is the share of owner "". A veth of the host, or one tied to a bridge in a namespace that we made, is told with
// Peer and Space where it leads to a namespace that we made; of any other neither is known, nor whether it is a near end or a far one: Diff
// takes it for either. Routes of the host that are on no link of ours and rules of the host have no mark that tells an owner and are left out.
func (n *Namespace) Observe(context.Context) (map[string]sandbox.Config, error) {
	s, err := n.enter(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("observe %s: %w", n, err)
	}
	defer s.Close()
	o := observer{n: n, s: s, shares: map[string]sandbox.Config{}}
	for _, read := range []func() error{o.links, o.routes, o.rules} {
		if err := read(); err != nil {
			return nil, fmt.Errorf("observe %s: %w", n, kind(err))
		}
	}
	return o.shares, nil
}

// observer reads one namespace.
type observer struct {
	n      *Namespace
	s      *nlmsg.Socket
	names  map[uint32]string // of all links, by index
	owners map[uint32]string // of ours
	gone   map[uint32]bool   // those given up
	shares map[string]sandbox.Config
}

func (o *observer) links() error {
	links, err := listLinks(o.s)
	if err != nil {
		return err
	}
	o.names, o.owners, o.gone = make(map[uint32]string, len(links)), make(map[uint32]string, len(links)), map[uint32]bool{}
	for _, l := range links {
		o.names[l.index] = l.name
		if o.n.p.groups.isDead(l.group) {
			o.gone[l.index] = true
		}
		if owner, ours := o.owner(l); ours {
			o.owners[l.index] = owner
		}
	}
	addrs, err := o.addrs()
	if err != nil {
		return err
	}
	far, err := o.farEnds(links)
	if err != nil {
		return err
	}
	entries, err := o.entries(links)
	if err != nil {
		return err
	}
	for _, l := range links {
		owner, ours := o.owners[l.index]
		if !ours {
			continue
		}
		link := o.link(l)
		if v, known := far[l.index]; known {
			link.Veth = &v
		}
		link.Addrs = slices.DeleteFunc(addrs[l.index], func(p netip.Prefix) bool { return p == linkLocal(l.mac) })
		link.Entries = entries[l.index]
		c := o.shares[owner]
		c.Links = append(c.Links, link)
		o.shares[owner] = c
	}
	for owner, c := range o.shares {
		slices.SortFunc(c.Links, func(a, b sandbox.Link) int { return cmp.Compare(a.Name, b.Name) })
		o.shares[owner] = c
	}
	return nil
}

// owner says whose link it is. One that was given up is nobody's.
func (o *observer) owner(l seen) (string, bool) {
	p := o.n.p
	switch {
	case l.index == loopback || p.groups.isDead(l.group):
		return "", false
	case !o.n.host:
		return "", true
	case l.alias == "" && l.group == p.groups.making:
		return Leftover, true
	}
	return p.owner(l.alias)
}

// link is what the kernel tells of a link, in the words of a Config.
func (o *observer) link(l seen) sandbox.Link {
	link := sandbox.Link{Name: l.name, Master: o.names[l.master], MTU: int(l.mtu), MAC: l.mac, Down: l.flags&unix.IFF_UP == 0}
	link.Owner, _ = o.n.p.owner(l.alias)
	link.Silent = l.ipv6 && l.genMode == addrGenModeNone
	if l.ports == "bridge" {
		link.Port = parsePort(l.port)
	}
	data := maps.Collect(nlmsg.Attrs(l.data))
	switch l.kind {
	case "veth":
		link.Veth = &sandbox.Veth{}
	case "bridge":
		link.Bridge = &sandbox.Bridge{NoSnooping: number(data[unix.IFLA_BR_MCAST_SNOOPING]) == 0}
	case "vxlan":
		link.VXLAN = parseVXLAN(data)
	case "macvlan", "macvtap", "ipvlan", "vlan":
		link.Child = parseChild(l.kind, data)
		link.Child.Parent = o.parent(l)
	case "tun":
		link.Tap = &sandbox.Tap{UID: number(data[unix.IFLA_TUN_OWNER]), GID: number(data[unix.IFLA_TUN_GROUP])}
	}
	return link
}

// parent is the name, in the host's namespace, of what a child is on top of.
func (o *observer) parent(l seen) string {
	if o.n.host {
		return o.names[l.link]
	}
	there, err := look(o.n.p.sock, l.link, "")
	if err != nil {
		return "" // it is gone, and the child will be
	}
	return there.name
}

func parsePort(p []byte) sandbox.Port {
	a := maps.Collect(nlmsg.Attrs(p))
	is := func(typ uint16) bool { return number(a[typ]) != 0 }
	return sandbox.Port{
		Isolated: is(unix.IFLA_BRPORT_ISOLATED), Hairpin: is(unix.IFLA_BRPORT_MODE), NoFlood: !is(unix.IFLA_BRPORT_UNICAST_FLOOD),
		Broadcast:  !is(unix.IFLA_BRPORT_UNICAST_FLOOD) && is(unix.IFLA_BRPORT_BCAST_FLOOD) && is(unix.IFLA_BRPORT_MCAST_FLOOD),
		NoLearning: !is(unix.IFLA_BRPORT_LEARNING), ProxyARP: is(unix.IFLA_BRPORT_NEIGH_SUPPRESS),
	}
}

func parseVXLAN(a map[uint16][]byte) *sandbox.VXLAN {
	v := &sandbox.VXLAN{VNI: number(a[unix.IFLA_VXLAN_ID])}
	if port := a[unix.IFLA_VXLAN_PORT]; len(port) == 2 {
		v.Port = uint32(binary.BigEndian.Uint16(port))
	}
	for _, typ := range []uint16{unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6} {
		if local, ok := netip.AddrFromSlice(a[typ]); ok {
			v.Local = local
		}
	}
	return v
}
