package netns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// addLink makes a link, or finds the one that is there, and gives it what a creating message cannot carry.
func (a *apply) addLink(ctx context.Context, l sandbox.Link) error {
	if err := sandbox.CheckLinkName(l.Name); err != nil {
		return err
	}
	made := sandbox.Link{Name: l.Name, Down: true, MTU: l.MTU, MAC: l.MAC}
	var err error
	switch {
	case l.Adopt:
		_, err := a.index(ctx, l.Name)
		return err
	case l.Arrives != "":
		made, err = sandbox.Link{Down: true}, a.arrive(ctx, l)
	case l.Veth != nil:
		return a.addVeth(ctx, l)
	case l.Bridge != nil:
		made.Bridge, made.MTU = l.Bridge, otherMTU(l.MTU)
		err = a.createBridge(ctx, l)
	case l.VXLAN != nil:
		err = a.createVXLAN(ctx, l)
	case l.Child != nil:
		err = a.createChild(ctx, l)
	case l.Tap != nil:
		made, err = sandbox.Link{Down: true}, a.createTap(ctx, l)
	default:
		made = sandbox.Link{Down: true}
	}
	if err != nil {
		return err
	}
	return a.configure(ctx, l, made)
}

// create opens the message that makes a link, down. It is in the group of what is being made until it has its alias.
func (a *apply) create(b *nlmsg.Batch, l sandbox.Link) {
	beginLink(b, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0, 0)
	b.String(unix.IFLA_IFNAME, l.Name)
	size(b, l.MTU, l.MAC)
	if l.Owner != "" {
		b.Uint32(unix.IFLA_GROUP, a.ns.p.groups.making)
	}
}

func size(b *nlmsg.Batch, mtu int, mac net.HardwareAddr) {
	if mtu != 0 {
		b.Uint32(unix.IFLA_MTU, uint32(mtu))
	}
	if len(mac) != 0 {
		b.Attr(unix.IFLA_ADDRESS, mac)
	}
}

// addVeth makes both ends where they will live: a veth moved afterwards costs two grace periods. Both messages go in one call.
func (a *apply) addVeth(ctx context.Context, l sandbox.Link) error {
	if err := sandbox.CheckLinkName(l.Veth.Peer); err != nil {
		return err
	}
	if err := a.free(ctx, l); err != nil {
		return err
	}
	var master uint32
	var space int
	var err error
	if l.Master != "" {
		if master, err = a.index(ctx, l.Master); err != nil {
			return err
		}
	}
	if l.Veth.Space != "" {
		if space, err = a.ns.p.openSpace(l.Veth.Space); err != nil {
			return err
		}
		a.files = append(a.files, space)
	}
	a.createVeth(l, master, space)
	a.fresh = append(a.fresh, l.Name, l.Veth.Peer)
	if err := a.configure(ctx, l, sandbox.Link{Down: true, MTU: l.MTU, MAC: l.MAC, Master: l.Master}); err != nil {
		return err
	}
	if a.ns.host && len(l.Veth.MAC) == 6 {
		a.ns.p.pairs.put(pair{space: l.Veth.Space, far: l.Veth.Peer, near: l.Name, bridge: l.Master, index: master, mac: l.Veth.MAC})
	}
	a.announce(master, l)
	return nil
}

// createVeth writes the message that makes a veth, its far end in the namespace open as space, 0 here. One queue each saves a fifth of
// the time.
func (a *apply) createVeth(l sandbox.Link, master uint32, space int) {
	const vethInfoPeer = 1 // VETH_INFO_PEER
	b := &a.batch
	a.create(b, l)
	if master != 0 {
		b.Uint32(unix.IFLA_MASTER, master)
	}
	oneQueue(b)
	b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_KIND, "veth")
	b.Nest(unix.IFLA_INFO_DATA)
	b.Nest(vethInfoPeer)
	rawLink(b, 0, 0, 0)
	b.String(unix.IFLA_IFNAME, l.Veth.Peer)
	size(b, l.MTU, l.Veth.MAC)
	oneQueue(b)
	if l.Veth.Space != "" {
		b.Uint32(unix.IFLA_NET_NS_FD, uint32(space))
	}
	b.EndNest()
	b.EndNest()
	b.EndNest()
	b.End()
}

func oneQueue(b *nlmsg.Batch) {
	b.Uint32(unix.IFLA_NUM_TX_QUEUES, 1)
	b.Uint32(unix.IFLA_NUM_RX_QUEUES, 1)
}

// createBridge makes a bridge that forwards at once and speaks to no other bridge. It is sent alone: a bridge's name can be anybody's, and
// what follows must not change one that is not ours.
func (a *apply) createBridge(ctx context.Context, l sandbox.Link) error {
	b := &a.batch
	l.MTU = otherMTU(l.MTU)
	a.create(b, l)
	b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_KIND, "bridge")
	b.Nest(unix.IFLA_INFO_DATA)
	b.Uint32(unix.IFLA_BR_FORWARD_DELAY, 0)
	b.Uint32(unix.IFLA_BR_STP_STATE, 0)
	if l.Bridge.NoSnooping {
		b.Uint8(unix.IFLA_BR_MCAST_SNOOPING, 0)
	}
	b.EndNest()
	b.EndNest()
	b.End()
	return a.flush(ctx)
}

// otherMTU is what a bridge is made with, so that its MTU is set when it is there: only one that was changed is the user's, and does not
// follow that of the ports.
func otherMTU(mtu int) int {
	if mtu == 0 {
		return 0
	}
	return mtu ^ 1
}

// createChild makes a device on top of one of the host's.
func (a *apply) createChild(ctx context.Context, l sandbox.Link) error {
	parent, err := linkIndex(a.ns.p.sock.FD(), l.Child.Parent)
	if err != nil {
		return err
	}
	return a.fromHost(ctx, l, l.Child.Kind, parent, func(b *nlmsg.Batch) error { return writeChild(b, *l.Child) })
}

// fromHost makes a link by a message to the host, in this namespace.
func (a *apply) fromHost(ctx context.Context, l sandbox.Link, kind string, parent uint32, data func(*nlmsg.Batch) error) error {
	if err := a.flush(ctx); err != nil {
		return err
	}
	var b nlmsg.Batch
	a.create(&b, l)
	if parent != 0 {
		b.Uint32(unix.IFLA_LINK, parent)
	}
	if !a.ns.host {
		space, err := openFile(a.ns.key)
		if err != nil {
			return err
		}
		defer unix.Close(space)
		b.Uint32(unix.IFLA_NET_NS_FD, uint32(space))
	}
	b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_KIND, kind)
	b.Nest(unix.IFLA_INFO_DATA)
	if err := data(&b); err != nil {
		return err
	}
	b.EndNest()
	b.EndNest()
	b.End()
	return a.once(ctx, a.ns.p.sock, &b)
}

// once sends one message that makes the link of the present step, and once more when something of ours was in its way.
func (a *apply) once(ctx context.Context, s *nlmsg.Socket, b *nlmsg.Batch) error {
	b.Acknowledge()
	err := s.Do(b, nil)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if again, err := a.clear(ctx, a.steps[a.now].Link); err != nil || !again {
		return err
	}
	return s.Do(b, nil)
}

// isFar says whether l is the far end of a veth, made and deleted from the other side.
func isFar(l sandbox.Link) bool {
	return !l.Adopt && l.Arrives == "" && l.Veth == nil && l.Bridge == nil && l.VXLAN == nil && l.Child == nil && l.Tap == nil
}

// has6 says whether a link has an IPv6 address.
func has6(l sandbox.Link) bool {
	return slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
}
