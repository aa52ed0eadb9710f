package netns

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our routes in the host's namespace, beside the link they are on.
const routeProtocol = 83

// rulePriority is before the rule of table main.
const rulePriority = 30000

func (a *apply) addr(ctx context.Context, op sandbox.Op, l sandbox.Link, p netip.Prefix) error {
	index, err := a.index(ctx, l.Name)
	if err != nil {
		return err
	}
	a.writeAddr(op, index, p)
	return nil
}

// writeAddr adds an address at once: without duplicate address detection it is usable when the call returns, and nobody is asked.
func (a *apply) writeAddr(op sandbox.Op, index uint32, p netip.Prefix) {
	b := &a.batch
	typ, flags := uint16(unix.RTM_NEWADDR), uint16(unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if op == sandbox.DelAddr {
		typ, flags = unix.RTM_DELADDR, 0
	}
	b.Begin(typ, flags)
	var h [unix.SizeofIfAddrmsg]byte
	h[0], h[1] = addrFamily(p.Addr()), uint8(p.Bits())
	if p.Addr().Is6() {
		h[2] = unix.IFA_F_NODAD
	}
	if p.Addr().IsLinkLocalUnicast() {
		h[3] = unix.RT_SCOPE_LINK
	}
	binary.NativeEndian.PutUint32(h[4:], index)
	b.Raw(h[:]...)
	raw := p.Addr().AsSlice()
	b.Attr(unix.IFA_LOCAL, raw)
	b.Attr(unix.IFA_ADDRESS, raw)
	if p.Addr().Is4() && p.Bits() < 31 && op == sandbox.AddAddr {
		b.Attr(unix.IFA_BROADCAST, broadcast(p))
	}
	b.End()
}

func addrFamily(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func broadcast(p netip.Prefix) []byte {
	a := p.Addr().As4()
	n := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Bits()) - 1)
	return binary.BigEndian.AppendUint32(nil, n)
}

func (a *apply) route(ctx context.Context, op sandbox.Op, r sandbox.Route) error {
	if !r.Dst.IsValid() {
		return fmt.Errorf("%w: a route needs a destination", errdefs.ErrInvalidArgument)
	}
	var index uint32
	if r.Link != "" {
		var err error
		if index, err = a.index(ctx, r.Link); err != nil {
			return err
		}
	}
	b := &a.batch
	if op == sandbox.AddRoute {
		b.Begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	} else {
		b.Begin(unix.RTM_DELROUTE, 0)
	}
	kind, err := a.rawRoute(r)
	if err != nil {
		return err
	}
	if r.Dst.Bits() > 0 {
		b.Attr(unix.RTA_DST, r.Dst.Masked().Addr().AsSlice())
	}
	if r.Via.IsValid() {
		b.Attr(unix.RTA_GATEWAY, r.Via.AsSlice())
	}
	if r.Source.IsValid() {
		b.Attr(unix.RTA_PREFSRC, r.Source.AsSlice())
	}
	if index != 0 {
		b.Uint32(unix.RTA_OIF, index)
	}
	if metric := r.Metric; metric != 0 {
		b.Uint32(unix.RTA_PRIORITY, uint32(metric))
	}
	b.Uint32(unix.RTA_TABLE, routeTable(r, kind))
	b.End()
	return nil
}

// rawRoute writes a struct rtmsg.
func (a *apply) rawRoute(r sandbox.Route) (kind uint8, err error) {
	switch r.Type {
	case "", "unicast":
		kind = unix.RTN_UNICAST
	case "local":
		kind = unix.RTN_LOCAL
	case "blackhole":
		kind = unix.RTN_BLACKHOLE
	case "unreachable":
		kind = unix.RTN_UNREACHABLE
	case "prohibit":
		kind = unix.RTN_PROHIBIT
	default:
		return 0, fmt.Errorf("%w: a route cannot be %q", errdefs.ErrInvalidArgument, r.Type)
	}
	var h [unix.SizeofRtMsg]byte
	h[0], h[1] = addrFamily(r.Dst.Addr()), uint8(r.Dst.Bits())
	h[5] = a.ns.protocol()
	switch {
	case kind == unix.RTN_LOCAL:
		h[6] = unix.RT_SCOPE_HOST
	case kind == unix.RTN_UNICAST && !r.Via.IsValid():
		h[6] = unix.RT_SCOPE_LINK
	}
	h[7] = kind
	a.batch.Raw(h[:]...)
	return kind, nil
}

func routeTable(r sandbox.Route, kind uint8) uint32 {
	switch {
	case r.Table != 0:
		return uint32(r.Table)
	case kind == unix.RTN_LOCAL:
		return unix.RT_TABLE_LOCAL
	}
	return unix.RT_TABLE_MAIN
}

// protocol says who made a route.
func (n *Namespace) protocol() uint8 {
	if n.host {
		return routeProtocol
	}
	return unix.RTPROT_STATIC
}

func (a *apply) rule(op sandbox.Op, r sandbox.Rule) {
	b := &a.batch
	if op == sandbox.AddRule {
		b.Begin(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	} else {
		b.Begin(unix.RTM_DELRULE, 0)
	}
	var h [unix.SizeofRtMsg]byte
	h[0], h[2], h[7] = addrFamily(r.Source.Addr()), uint8(r.Source.Bits()), unix.FR_ACT_TO_TBL
	b.Raw(h[:]...)
	b.Attr(unix.FRA_SRC, r.Source.Masked().Addr().AsSlice())
	b.Uint32(unix.FRA_TABLE, uint32(r.Table))
	b.Uint32(unix.FRA_PRIORITY, rulePriority)
	b.End()
}

// entry writes a neighbour, a forwarding entry, or both.
func (a *apply) entry(ctx context.Context, op sandbox.Op, l sandbox.Link, e sandbox.Entry) error {
	index, err := a.index(ctx, l.Name)
	if err != nil {
		return err
	}
	typ, flags := uint16(unix.RTM_NEWNEIGH), uint16(unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if op == sandbox.DelEntry {
		typ, flags = unix.RTM_DELNEIGH, 0
	}
	if e.Addr.IsValid() {
		a.neigh(typ, flags, index, addrFamily(e.Addr), unix.NUD_PERMANENT, 0, e.Addr, e)
	}
	if e.Via.IsValid() {
		to := uint8(unix.NTF_SELF)
		if l.Master != "" {
			to |= unix.NTF_MASTER
		}
		a.neigh(typ, flags, index, unix.AF_BRIDGE, unix.NUD_NOARP|unix.NUD_REACHABLE, to, e.Via, e)
	}
	return nil
}

func (a *apply) neigh(typ, flags uint16, index uint32, family uint8, state uint16, to uint8, dst netip.Addr, e sandbox.Entry) {
	const ndmLen = 12 // struct ndmsg
	b := &a.batch
	b.Begin(typ, flags)
	var h [ndmLen]byte
	h[0] = family
	binary.NativeEndian.PutUint32(h[4:], index)
	binary.NativeEndian.PutUint16(h[8:], state)
	h[10] = to
	b.Raw(h[:]...)
	b.Attr(unix.NDA_DST, dst.AsSlice())
	b.Attr(unix.NDA_LLADDR, e.MAC)
	b.End()
}
