package netns

import (
	"context"
	"path/filepath"

	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// delLink ends a link. What takes a grace period is done later: the caller waits until nothing passes any more. One that is not ours to
// delete is let go.
func (a *apply) delLink(ctx context.Context, l sandbox.Link) error {
	b := &a.batch
	switch {
	case l.Adopt:
		return nil
	case l.Arrives != "":
		return a.sendBack(ctx, l)
	case l.Veth != nil, l.Child != nil:
		if l.Master == "" || !a.ns.host || a.retried[a.now] {
			a.giveUp(l)
			return nil
		}
		return a.cutOff(l)
	}
	beginLink(b, unix.RTM_NEWLINK, 0, 0, 0, unix.IFF_UP)
	b.String(unix.IFLA_IFNAME, l.Name)
	b.Uint32(unix.IFLA_GROUP, a.ns.p.groups.going())
	b.End()
	if isFar(l) { // its other end is deleted, and it counts as gone until then
		return nil
	}
	beginLink(b, unix.RTM_DELLINK, 0, 0, 0, 0)
	b.String(unix.IFLA_IFNAME, l.Name)
	b.End()
	return nil
}

// giveUp has a link go down, leave its bridge and be deleted by the reaper.
func (a *apply) giveUp(l sandbox.Link) {
	b := &a.batch
	beginLink(b, unix.RTM_NEWLINK, 0, 0, 0, unix.IFF_UP)
	b.String(unix.IFLA_IFNAME, l.Name)
	b.Uint32(unix.IFLA_MASTER, 0)
	b.Uint32(unix.IFLA_GROUP, a.bury(l, 0))
	b.End()
}

// bury chooses the group that a link is given up into. Its index may be 0, for not known.
func (a *apply) bury(l sandbox.Link, index uint32) uint32 {
	g := grave{plot: plot{space: a.ns.key, group: a.ns.p.reaper.group()}, index: index}
	if l.Veth != nil && filepath.Dir(l.Veth.Space) == a.ns.p.names {
		g.into = l.Veth.Space
	}
	a.graves = append(a.graves, g)
	return g.group
}

// cutOff is giveUp for a port of a bridge, in a third of the time: going down and leaving take the kernel a grace period each in which no
// other link can change, and the reaper has it wait for many at once. Meanwhile the bridge sends the port nothing, forgets what was behind
// it and takes nothing from it. A container that raises its end anew undoes the state, not the rest (the lock needs Linux 5.18). Where it is
// refused, by a bridge with a spanning tree or for what is no port any more, the link is given up.
func (a *apply) cutOff(l sandbox.Link) error {
	const disabled = 0 // BR_STATE_DISABLED
	index, err := linkIndex(a.inside.route.FD(), l.Name)
	if err != nil {
		return err
	}
	b := &a.batch
	beginLink(b, unix.RTM_NEWLINK, 0, index, 0, 0)
	b.Uint32(unix.IFLA_GROUP, a.bury(l, index))
	b.End()
	b.Begin(unix.RTM_SETLINK, 0) // after the group, whose change has the bridge look whether the port can be enabled
	rawBridgePort(b, index)
	b.Nest(unix.IFLA_PROTINFO | unix.NLA_F_NESTED)
	b.Uint8(unix.IFLA_BRPORT_STATE, disabled)
	b.Uint8(unix.IFLA_BRPORT_LOCKED, 1)
	for _, off := range []uint16{unix.IFLA_BRPORT_LEARNING, unix.IFLA_BRPORT_UNICAST_FLOOD, unix.IFLA_BRPORT_MCAST_FLOOD, unix.IFLA_BRPORT_BCAST_FLOOD} {
		b.Uint8(off, 0)
	}
	b.Attr(unix.IFLA_BRPORT_FLUSH, nil)
	b.EndNest()
	b.End()
	return nil
}
