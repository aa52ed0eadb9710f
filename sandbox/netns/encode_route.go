package netns

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// routeProtocol marks our routes in the host's namespace, beside the link they are on: a route that an operator puts on a bridge of ours
// is not ours.
const routeProtocol = 83

// rulePriority is before the rule of table main.
const rulePriority = 30000

// metric6 is what the kernel makes of an IPv6 route without one.
const metric6 = 1024

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
	if metric := metricOf(r); metric != 0 {
		b.Uint32(unix.RTA_PRIORITY, metric)
	}
	b.Uint32(unix.RTA_TABLE, routeTable(r, kind))
	b.End()
	return nil
}

// rawRoute writes a struct rtmsg.
func (a *apply) rawRoute(r sandbox.Route) (kind uint8, err error) {
	n, err := numberOf(routeTypes(), r.Type)
	if err != nil {
		return 0, fmt.Errorf("type of a route: %w", err)
	}
	kind = uint8(n)
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

// metricOf is what is written: a deletion of an IPv6 route that names none would take the first of any.
func metricOf(r sandbox.Route) uint32 {
	if r.Metric == 0 && r.Dst.Addr().Is6() {
		return metric6
	}
	return uint32(r.Metric)
}

func routeTypes() []word {
	return []word{{"", unix.RTN_UNICAST}, {"unicast", unix.RTN_UNICAST}, {"local", unix.RTN_LOCAL}, {"blackhole", unix.RTN_BLACKHOLE},
		{"unreachable", unix.RTN_UNREACHABLE}, {"prohibit", unix.RTN_PROHIBIT}}
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
