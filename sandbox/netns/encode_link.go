package netns

import (
	"bytes"
	"context"
	"encoding/binary"
	"strings"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

const (
	loopback = 1 // the index of lo in every namespace

	ifiLen = unix.SizeofIfInfomsg

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

// rawBridgePort writes a struct ifinfomsg about a port of a bridge.
func rawBridgePort(b *nlmsg.Batch, index uint32) {
	h := [ifiLen]byte{unix.AF_BRIDGE}
	binary.NativeEndian.PutUint32(h[4:], index)
	b.Raw(h[:]...)
}

// setLink changes a link. The address it was given with its MAC changes with it.
func (a *apply) setLink(ctx context.Context, l, have sandbox.Link) error {
	if err := a.configure(ctx, l, have); err != nil {
		return err
	}
	if !l.Silent || l.Down || len(l.MAC) == 0 || bytes.Equal(l.MAC, have.MAC) || !has6(have) {
		return nil
	}
	return a.moveLinkLocal(ctx, l, have)
}

// configure changes a link that looks like have: what a creating message cannot carry, and every later change. The kernel raises a link
// before it sets how addresses are made, and takes a port's settings only for a port that is one already, so either may need a message
// before.
func (a *apply) configure(ctx context.Context, l, have sandbox.Link) error {
	b := &a.batch
	var flags, change uint32
	if l.Down != have.Down {
		change = unix.IFF_UP
		if !l.Down {
			flags = unix.IFF_UP
			a.raiseLoopback()
			if isFar(l) {
				a.raised = append(a.raised, l.Name)
			}
		}
	}
	if l.Silent && !have.Silent && isFar(l) {
		if err := a.heedNoRouter(ctx, l); err != nil {
			return err
		}
	}
	if flags != 0 && l.Silent != have.Silent && l.Veth == nil { // a veth has no carrier yet, so there it does no harm
		beginLink(b, unix.RTM_NEWLINK, 0, 0, 0, 0)
		b.String(unix.IFLA_IFNAME, l.Name)
		a.addrGen(l, have)
		b.End()
		have.Silent = l.Silent
		if err := a.addressFirst(ctx, l); err != nil {
			return err
		}
	}
	if l.Master != have.Master {
		if err := a.enslave(ctx, l); err != nil {
			return err
		}
		have.Port = sandbox.Port{}
	}
	beginLink(b, unix.RTM_NEWLINK, 0, 0, flags, change)
	b.String(unix.IFLA_IFNAME, l.Name)
	if l.MTU != have.MTU && l.MTU != 0 {
		b.Uint32(unix.IFLA_MTU, uint32(l.MTU))
	}
	if len(l.MAC) != 0 && !bytes.Equal(l.MAC, have.MAC) {
		b.Attr(unix.IFLA_ADDRESS, l.MAC)
	}
	if l.Owner != have.Owner {
		b.Attr(unix.IFLA_IFALIAS, []byte(a.ns.p.alias(l.Owner)))
		b.Uint32(unix.IFLA_GROUP, 0)
	}
	if isFar(l) && l.Down != have.Down {
		b.Uint32(unix.IFLA_GROUP, 0) // it may have been given up and be wanted again
	}
	a.addrGen(l, have)
	a.linkInfo(l, have)
	b.End()
	return nil
}

// addressFirst gives a far end its IPv6 addresses before it is raised: the kernel does its work on them meanwhile, which would have to be
// waited for. Settings of the link come before addresses.
func (a *apply) addressFirst(ctx context.Context, l sandbox.Link) error {
	if !isFar(l) {
		return nil
	}
	defer func(now int) { a.now = now }(a.now)
	for i := a.now + 1; i < len(a.steps) && a.steps[i].Op == sandbox.AddAddr && a.steps[i].Link.Name == l.Name; i++ {
		if a.steps[i].Addr.Addr().Is6() {
			a.claim()
			if err := a.step(ctx, i, a.steps[i]); err != nil {
				return err
			}
			a.sooner = append(a.sooner, i)
		}
	}
	return nil
}

// raiseLoopback has lo up where somebody else made the namespace. What we make has it up from the start.
func (a *apply) raiseLoopback() {
	if a.ns.host || a.ns.ours || a.loopback {
		return
	}
	a.loopback = true
	beginLink(&a.batch, unix.RTM_NEWLINK, 0, loopback, unix.IFF_UP, unix.IFF_UP)
	a.batch.End()
}

// enslave puts a link on its bridge, or off all.
func (a *apply) enslave(ctx context.Context, l sandbox.Link) error {
	var master uint32
	if l.Master != "" {
		var err error
		if master, err = a.index(ctx, l.Master); err != nil {
			return err
		}
	}
	b := &a.batch
	beginLink(b, unix.RTM_NEWLINK, 0, 0, 0, 0)
	b.String(unix.IFLA_IFNAME, l.Name)
	b.Uint32(unix.IFLA_MASTER, master)
	b.End()
	return nil
}

// addrGen says whether the kernel makes a link-local address. Devices too small for IPv6, and kernels without it, have no such setting.
func (a *apply) addrGen(l, have sandbox.Link) {
	if l.Silent == have.Silent || !a.ns.p.has6(l) {
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

// has6 says whether a link can have IPv6.
func (p *Provider) has6(l sandbox.Link) bool {
	const least = 1280 // IPV6_MIN_MTU
	return p.ipv6 && (l.MTU == 0 || l.MTU >= least)
}

// linkInfo writes the settings of a bridge, or of a port of one.
func (a *apply) linkInfo(l, have sandbox.Link) {
	b, p := &a.batch, l.Port
	switch {
	case l.Bridge != nil && have.Bridge != nil && *l.Bridge != *have.Bridge:
		b.Nest(unix.IFLA_LINKINFO)
		b.String(unix.IFLA_INFO_KIND, "bridge")
		b.Nest(unix.IFLA_INFO_DATA)
		b.Uint8(unix.IFLA_BR_MCAST_SNOOPING, flag(!l.Bridge.NoSnooping))
	case l.Master != "" && p != have.Port:
		b.Nest(unix.IFLA_LINKINFO)
		b.String(unix.IFLA_INFO_SLAVE_KIND, "bridge")
		b.Nest(unix.IFLA_INFO_SLAVE_DATA)
		b.Uint8(unix.IFLA_BRPORT_ISOLATED, flag(p.Isolated))
		b.Uint8(unix.IFLA_BRPORT_MODE, flag(p.Hairpin))
		b.Uint8(unix.IFLA_BRPORT_UNICAST_FLOOD, flag(!p.NoFlood))
		b.Uint8(unix.IFLA_BRPORT_MCAST_FLOOD, flag(!p.NoFlood || p.Broadcast))
		b.Uint8(unix.IFLA_BRPORT_BCAST_FLOOD, flag(!p.NoFlood || p.Broadcast))
		b.Uint8(unix.IFLA_BRPORT_LEARNING, flag(!p.NoLearning))
		b.Uint8(unix.IFLA_BRPORT_NEIGH_SUPPRESS, flag(p.ProxyARP))
	default:
		return
	}
	b.EndNest()
	b.EndNest()
}

func flag(yes bool) uint8 {
	if yes {
		return 1
	}
	return 0
}

// alias marks a link as ours: whose instance and whose share.
func (p *Provider) alias(owner string) string { return "sealane:" + p.instance + "/" + owner }

// owner reads an alias.
func (p *Provider) owner(alias string) (string, bool) {
	return strings.CutPrefix(alias, "sealane:"+p.instance+"/")
}
