package netns

import (
	"context"
	"encoding/binary"
	"net"
	"strings"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

const (
	loopback = 1 // the index of lo in every namespace

	ifiLen = unix.SizeofIfInfomsg

	vethInfoPeer    = 1
	addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE
	addrGenModeEUI  = 0 // IN6_ADDR_GEN_MODE_EUI64
)

// beginLink opens a link message; index 0: the link is named by IFLA_IFNAME.
func beginLink(b *nlmsg.Batch, typ, flags uint16, index uint32, ifFlags, change uint32) {
	b.Begin(typ, flags)
	rawLink(b, index, ifFlags, change)
}

// rawLink writes a struct ifinfomsg.
func rawLink(b *nlmsg.Batch, index, flags, change uint32) {
	var h [ifiLen]byte
	binary.NativeEndian.PutUint32(h[4:], index)
	binary.NativeEndian.PutUint32(h[8:], flags)
	binary.NativeEndian.PutUint32(h[12:], change)
	b.Raw(h[:]...)
}

// addLink makes a link.
func (a *apply) addLink(ctx context.Context, l sandbox.Link) error {
	switch {
	case l.Veth != nil:
		if err := a.createVeth(ctx, l); err != nil {
			return err
		}
		return a.configure(ctx, l, sandbox.Link{Down: true, MTU: l.MTU, MAC: l.MAC, Master: l.Master})
	case l.Bridge != nil:
		a.createBridge(l)
		if err := a.flush(ctx); err != nil {
			return err
		}
		return a.configure(ctx, l, sandbox.Link{Down: true, MTU: l.MTU, MAC: l.MAC})
	case l.Adopt, l.Arrives != "", l.VXLAN != nil, l.Child != nil, l.Tap != nil:
		return errKind
	}
	return a.configure(ctx, l, sandbox.Link{Down: true})
}

func (a *apply) setLink(ctx context.Context, l, have sandbox.Link) error {
	return a.configure(ctx, l, have)
}

// begin opens the message that makes a link, down, and in the group of what is being made.
func (a *apply) create(l sandbox.Link) {
	b := &a.batch
	beginLink(b, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, 0, 0, 0)
	b.String(unix.IFLA_IFNAME, l.Name)
	a.size(l.MTU, l.MAC)
	b.Uint32(unix.IFLA_GROUP, a.ns.p.groups.making)
	a.fresh = append(a.fresh, l.Name)
}

func (a *apply) size(mtu int, mac net.HardwareAddr) {
	if mtu != 0 {
		a.batch.Uint32(unix.IFLA_MTU, uint32(mtu))
	}
	if len(mac) != 0 {
		a.batch.Attr(unix.IFLA_ADDRESS, mac)
	}
}

// createVeth makes both ends where they will live: a veth moved afterwards costs two grace periods. One queue each is a fifth of the time.
func (a *apply) createVeth(ctx context.Context, l sandbox.Link) error {
	b := &a.batch
	var master, space uint32
	var err error
	if l.Master != "" {
		if master, err = a.index(ctx, l.Master); err != nil {
			return err
		}
	}
	if l.Veth.Space != "" {
		if space, err = a.file(l.Veth.Space); err != nil {
			return err
		}
	}
	a.create(l)
	if master != 0 {
		b.Uint32(unix.IFLA_MASTER, master)
	}
	a.oneQueue()
	b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_KIND, "veth")
	b.Nest(unix.IFLA_INFO_DATA)
	b.Nest(vethInfoPeer)
	rawLink(b, 0, 0, 0)
	b.String(unix.IFLA_IFNAME, l.Veth.Peer)
	a.size(l.MTU, l.Veth.MAC)
	a.oneQueue()
	if l.Veth.Space != "" {
		b.Uint32(unix.IFLA_NET_NS_FD, space)
	}
	b.EndNest()
	b.EndNest()
	b.EndNest()
	b.End()
	return nil
}

func (a *apply) oneQueue() {
	a.batch.Uint32(unix.IFLA_NUM_TX_QUEUES, 1)
	a.batch.Uint32(unix.IFLA_NUM_RX_QUEUES, 1)
}

// createBridge makes a bridge that forwards at once and speaks to no other bridge.
func (a *apply) createBridge(l sandbox.Link) {
	b := &a.batch
	a.create(l)
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
}

// configure changes a link that looks like have: what a creating message cannot carry, and every later change.
func (a *apply) configure(ctx context.Context, l, have sandbox.Link) error {
	b := &a.batch
	var master uint32
	if l.Master != have.Master && l.Master != "" {
		var err error
		if master, err = a.index(ctx, l.Master); err != nil {
			return err
		}
	}
	var flags, change uint32
	if l.Down != have.Down {
		change = unix.IFF_UP
		if !l.Down {
			flags = unix.IFF_UP
		}
	}
	if flags != 0 && l.Veth == nil && l.Silent != have.Silent {
		// The kernel raises before it sets the mode. A veth has no carrier yet, so there it does no harm.
		beginLink(b, unix.RTM_NEWLINK, 0, 0, 0, 0)
		b.String(unix.IFLA_IFNAME, l.Name)
		a.addrGen(l, have)
		b.End()
		have.Silent = l.Silent
	}
	beginLink(b, unix.RTM_NEWLINK, 0, 0, flags, change)
	b.String(unix.IFLA_IFNAME, l.Name)
	if l.MTU != have.MTU && l.MTU != 0 {
		b.Uint32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if len(l.MAC) != 0 && l.MAC.String() != have.MAC.String() {
		b.Attr(unix.IFLA_ADDRESS, l.MAC)
	}
	if l.Master != have.Master {
		b.Uint32(unix.IFLA_MASTER, master)
	}
	if l.Owner != have.Owner {
		b.Attr(unix.IFLA_IFALIAS, []byte(a.ns.p.alias(l.Owner)))
		b.Uint32(unix.IFLA_GROUP, 0)
	}
	a.addrGen(l, have)
	a.port(l, have)
	b.End()
	return nil
}

// addrGen says whether the kernel makes a link-local address. Devices too small for IPv6, and kernels without it, have no such setting.
func (a *apply) addrGen(l, have sandbox.Link) {
	if l.Silent == have.Silent || !a.ns.p.ipv6 || l.MTU != 0 && l.MTU < minMTU6 {
		return
	}
	mode := uint8(addrGenModeEUI)
	if l.Silent {
		mode = addrGenModeNone
	}
	b := &a.batch
	b.Nest(unix.IFLA_AF_SPEC)
	b.Nest(unix.AF_INET6)
	b.Uint8(unix.IFLA_INET6_ADDR_GEN_MODE, mode)
	b.EndNest()
	b.EndNest()
}

const minMTU6 = 1280 // IPV6_MIN_MTU

// port writes the settings of a bridge port.
func (a *apply) port(l, have sandbox.Link) {
	if l.Master == "" || l.Port == have.Port {
		return
	}
	b, p := &a.batch, l.Port
	b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_SLAVE_KIND, "bridge")
	b.Nest(unix.IFLA_INFO_SLAVE_DATA)
	b.Uint8(unix.IFLA_BRPORT_ISOLATED, flag(p.Isolated))
	b.Uint8(unix.IFLA_BRPORT_MODE, flag(p.Hairpin))
	b.Uint8(unix.IFLA_BRPORT_UNICAST_FLOOD, flag(!p.NoFlood))
	b.Uint8(unix.IFLA_BRPORT_MCAST_FLOOD, flag(!p.NoFlood))
	b.Uint8(unix.IFLA_BRPORT_BCAST_FLOOD, flag(!p.NoFlood))
	b.Uint8(unix.IFLA_BRPORT_LEARNING, flag(!p.NoLearning))
	b.Uint8(unix.IFLA_BRPORT_NEIGH_SUPPRESS, flag(p.ProxyARP))
	b.EndNest()
	b.EndNest()
}

func flag(yes bool) uint8 {
	if yes {
		return 1
	}
	return 0
}

// delLink deletes a link, or lets go of one that is not ours to delete.
func (a *apply) delLink(_ context.Context, l sandbox.Link) error {
	b := &a.batch
	switch {
	case l.Adopt:
		return nil
	case l.Bridge != nil, l.Veth != nil:
		beginLink(b, unix.RTM_DELLINK, 0, 0, 0, 0)
	default:
		beginLink(b, unix.RTM_NEWLINK, 0, 0, 0, unix.IFF_UP)
	}
	b.String(unix.IFLA_IFNAME, l.Name)
	b.End()
	return nil
}

// alias marks a link as ours: whose instance and whose share.
func (p *Provider) alias(owner string) string { return "sealane:" + p.instance + "/" + owner }

// owner reads an alias.
func (p *Provider) owner(alias string) (string, bool) {
	return strings.CutPrefix(alias, "sealane:"+p.instance+"/")
}
