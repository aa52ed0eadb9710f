package netns

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// free makes sure that nobody has the name of a link whose second message goes out with the one that makes it: that message would change
// whatever is there.
func (a *apply) free(ctx context.Context, l sandbox.Link) error {
	if _, err := a.index(ctx, l.Name); err != nil {
		return nil
	}
	if err := a.flush(ctx); err != nil {
		return err
	}
	_, err := a.clear(ctx, l)
	return err
}

// clear deals with what has the name of a link that is to be made: a link given up that is not gone yet, or what an Apply that died left.
// again says that the name is free now. Without error and again, what is there is ours and can stay. AlreadyExists when it is not ours.
func (a *apply) clear(ctx context.Context, l sandbox.Link) (again bool, err error) {
	there, err := look(a.inside.route, 0, l.Name)
	switch {
	case errors.Is(err, unix.ENODEV): // gone by now, or it is the name of the other end that is taken
	case err != nil:
		return false, err
	case a.ns.p.groups.isDead(there.group):
	case !a.made(there, l):
		return false, fmt.Errorf("%w: there is a link of that name, which is not ours", errdefs.ErrAlreadyExists)
	case l.Bridge != nil && there.kind == "bridge":
		return false, nil
	default:
		a.giveUp(l)
		if err := a.flush(ctx); err != nil {
			return false, err
		}
	}
	return true, a.ns.p.reaper.wait(ctx)
}

// made says whether an earlier Apply made the link that is there in order to have l.
func (a *apply) made(there seen, l sandbox.Link) bool {
	owner, ours := a.ns.p.owner(there.alias)
	if there.alias == "" {
		return there.group == a.ns.p.groups.making
	}
	return ours && owner == l.Owner && l.Owner != ""
}
