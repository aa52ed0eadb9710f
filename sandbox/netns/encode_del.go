package netns

import (
	"context"

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
		a.giveUp(l.Name)
		return nil
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
func (a *apply) giveUp(name string) {
	g := grave{space: a.ns.key, group: a.ns.p.reaper.group()}
	b := &a.batch
	beginLink(b, unix.RTM_NEWLINK, 0, 0, 0, unix.IFF_UP)
	b.String(unix.IFLA_IFNAME, name)
	b.Uint32(unix.IFLA_MASTER, 0)
	b.Uint32(unix.IFLA_GROUP, g.group)
	b.End()
	a.graves = append(a.graves, g)
}
