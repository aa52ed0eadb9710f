package netns

import (
	"context"
	"fmt"

	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// createTap makes a tap device that stays when its descriptor is closed and that one user and group may open. There is no message for it.
func (a *apply) createTap(ctx context.Context, l sandbox.Link) error {
	if err := a.flush(ctx); err != nil {
		return err
	}
	if _, err := linkIndex(a.inside.route.FD(), l.Name); err == nil {
		if _, err := a.clear(ctx, l); err != nil {
			return err
		}
	}
	return nsthread.Do(a.ns.path(), func() error { return makeTap(l.Name, *l.Tap) })
}

func makeTap(name string, t sandbox.Tap) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		return err
	}
	for _, set := range []struct {
		request uint
		value   int
	}{{unix.TUNSETOWNER, int(t.UID)}, {unix.TUNSETGROUP, int(t.GID)}, {unix.TUNSETPERSIST, 1}} {
		if err := unix.IoctlSetInt(fd, set.request, set.value); err != nil {
			return err
		}
	}
	return nil
}
