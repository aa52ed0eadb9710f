package dns

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// Listener is an address of the host where the host and other machines ask. No other servers are asked for anybody.
type Listener struct {
	At netip.AddrPort
	// Networks are those whose names are answered, by name; they may come later. None: all, which is for the loopback only.
	Networks []string
}

const listenerPrefix = "listen-" // of the keys of boxes; no id of a sandbox has a dash

func (l Listener) box() sandbox.ID {
	return sandbox.ID(fmt.Sprintf("%s%s-%d", listenerPrefix, hex.EncodeToString(l.At.Addr().AsSlice()), l.At.Port()))
}

// Check refuses what other machines can reach and does not say what they may know: InvalidArgument.
func (l Listener) Check() error {
	if len(l.Networks) == 0 && !l.At.Addr().IsLoopback() {
		return fmt.Errorf("listen for names at %s: %w: other machines can reach it: say which networks it is to answer for, as %s=NETWORK",
			l.At, errdefs.ErrInvalidArgument, l.At)
	}
	return nil
}

// Listen begins to answer at Options.Listeners, which are open since New. It is called once, when the names of all networks were told:
// questions may have waited.
func (r *Resolver) Listen() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return fmt.Errorf("listen for names: %w: it is closed", errdefs.ErrFailedPrecondition)
	}
	var errs []error
	for _, b := range r.boxes {
		if b.listens {
			errs = append(errs, r.engine.add(b))
		}
	}
	return errors.Join(errs...)
}

// openListeners takes over the sockets of listeners that an earlier process left, or opens them. Those that are wanted no more go first:
// they may have an address that is.
func (r *Resolver) openListeners(all []Listener) error {
	var errs []error
	open := opener(here)
	for name, fds := range r.kept {
		gone := !slices.ContainsFunc(all, func(l Listener) bool { return string(l.box()) == name })
		if gone && strings.HasPrefix(name, listenerPrefix) {
			retire(fds)
			errs = append(errs, r.remove(sandbox.ID(name)))
			open = besideRetired
		}
	}
	for _, l := range all {
		b, err := r.openListener(l, open)
		if err == nil {
			r.boxes[l.box()] = b
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// retire makes room for others at the address of sockets that the Keeper has as well and closes when it comes to it. TCP listens no more;
// UDP hears a peer that says nothing; and neither keeps who is besideRetired from its port. Where that fails, binding says so.
func retire(fds []int) {
	const discard = 9
	for _, fd := range fds {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		typ, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		family, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		switch {
		case typ == unix.SOCK_STREAM:
			_ = unix.Shutdown(fd, unix.SHUT_RDWR)
		case family == unix.AF_INET6:
			_ = unix.Connect(fd, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16(), Port: discard})
		default:
			_ = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: discard})
		}
	}
}

// besideRetired opens a socket that can have the address of retired ones (SO_REUSEADDR, which both must have at that moment).
func besideRetired(family, typ int) (int, error) {
	fd, err := here(family, typ)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func (r *Resolver) openListener(l Listener, open opener) (*box, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	if r.boxes[l.box()] != nil {
		return nil, fmt.Errorf("listen for names at %s: %w: that is said twice", l.At, errdefs.ErrInvalidArgument)
	}
	b := &box{turn: &turn{}, listens: true, named: l.Networks, anywhere: l.At.Addr().IsUnspecified()}
	var err error
	if b.cookie, err = cookieAt(r.options.Host); err != nil {
		return nil, err
	}
	return b, r.obtain(l.box(), b, func() bool { return true }, func(unfit []int) error {
		if len(unfit) > 0 { // of another namespace, or retired by a process that was killed then
			retire(unfit)
			open = besideRetired
		}
		if err := nsthread.Do(r.options.Host, func() error { return b.listen(l.At, open) }); err != nil {
			return err
		}
		return unix.SetsockoptInt(b.udp, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0) // see besideRetired
	})
}

// dropListeners has the Keeper forget the listeners of a host that has no sandboxes to tell about: it may have no daemon any more.
func (r *Resolver) dropListeners() error {
	r.setting.Lock()
	defer r.setting.Unlock()
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.kept) > 0 {
		return nil // of sandboxes that were not set yet
	}
	var listeners []sandbox.ID
	for id, b := range r.boxes {
		if !b.listens {
			return nil
		}
		listeners = append(listeners, id)
	}
	var errs []error
	if r.options.Keeper != nil {
		for _, id := range listeners {
			errs = append(errs, r.options.Keeper.Drop(string(id)))
		}
	}
	return errors.Join(errs...)
}

// cookieAt is the cookie of the namespace whose file is path; "": the process's own.
func cookieAt(path string) (cookie uint64, err error) {
	err = nsthread.Do(path, func() error {
		fd, err := here(unix.AF_INET, unix.SOCK_DGRAM)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = cookieOf(fd)
		return err
	})
	return cookie, err
}

// nameListeners says which networks listeners answer for. The lock is held.
func (r *Resolver) nameListeners() {
	for _, b := range r.boxes {
		if !b.listens {
			continue
		}
		b.zones = nil
		for id, z := range r.zones {
			if len(b.named) == 0 || slices.Contains(b.named, z.name) {
				b.zones = append(b.zones, id)
			}
		}
		slices.Sort(b.zones)
	}
}
