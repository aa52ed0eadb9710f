package dns

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// open gives a sandbox its sockets.
func (r *Resolver) open(ns sandbox.Namespace, id sandbox.ID) (*box, error) {
	b := &box{cookie: ns.Cookie(), turn: &turn{}}
	return b, r.obtain(id, b, func() bool { return true }, func([]int) error {
		if err := r.listenIn(ns.Key(), b); err != nil {
			if errors.Is(err, unix.ENOENT) {
				err = fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
			}
			return err
		}
		if got, _ := cookieOf(b.udp); got != b.cookie {
			return errors.Join(fmt.Errorf("%w: %s leads to another namespace now", errdefs.ErrNotFound, ns.Key()), closeAll([]int{b.udp, b.tcp}))
		}
		return nil
	})
}

// obtain gives a box sockets: those that an earlier process left under its key, if they fit, else new ones; open is told those that do not,
// which are closed then. setting is held.
func (r *Resolver) obtain(id sandbox.ID, b *box, fit func() bool, open func(unfit []int) error) error {
	if kept := r.takeKept(string(id)); !b.adopt(kept) || !fit() {
		if err := errors.Join(open(kept), closeAll(kept)); err != nil {
			return err
		}
	}
	if r.options.Keeper == nil {
		return nil
	}
	if err := r.options.Keeper.Keep(string(id), b.udp, b.tcp); err != nil { // also what it kept: it learns where that is
		return errors.Join(err, closeAll([]int{b.udp, b.tcp}))
	}
	return nil
}

// listenIn opens the sockets of a sandbox in the namespace whose file is path.
func (r *Resolver) listenIn(path string, b *box) error {
	at := netip.AddrPortFrom(resolver.Address(), 0)
	if r.options.Socket != nil {
		return b.listen(at, func(_, typ int) (int, error) { return r.options.Socket(path, typ) })
	}
	return nsthread.Do(path, func() error { return b.listen(at, here) })
}

// here opens a socket in the namespace of this thread.
func here(family, typ int) (int, error) {
	return unix.Socket(family, typ|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}

// adopt takes sockets over if they are a pair in the right namespace.
func (b *box) adopt(fds []int) bool {
	if len(fds) != 2 {
		return false
	}
	for _, fd := range fds {
		typ, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		if c, _ := cookieOf(fd); err != nil || c != b.cookie {
			return false
		}
		listens, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if typ == unix.SOCK_DGRAM {
			b.udp = fd
		} else if listens == 1 {
			b.tcp = fd
		}
	}
	return b.udp != 0 && b.tcp != 0 && b.findPort() == nil && lookFromStart(b.udp) == nil
}

// lookFromStart has the next look at what waits begin with the first, which an earlier process may have looked at too.
func lookFromStart(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, 0)
}

// tellAsked has the kernel say with each datagram to which address it came, at a socket that has all.
func tellAsked(fd int, at netip.Addr) error {
	switch {
	case !at.IsUnspecified():
		return nil
	case at.Is4():
		return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_PKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
}

func (b *box) findPort() error {
	local, err := unix.Getsockname(b.udp)
	if err != nil {
		return err
	}
	switch a := local.(type) {
	case *unix.SockaddrInet4:
		b.port = uint16(a.Port)
	case *unix.SockaddrInet6:
		b.port = uint16(a.Port)
	}
	return nil
}

// opener opens a socket of a family and a type.
type opener func(family, typ int) (fd int, err error)

// listen opens both sockets at one port; port 0: one that the kernel chooses for both.
func (b *box) listen(at netip.AddrPort, open opener) error {
	const tries = 16
	var err error
	for range tries {
		if err = b.tryListen(at, open); !errors.Is(err, unix.EADDRINUSE) || at.Port() != 0 {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("listen at %s: %w", at, err)
	}
	return nil
}

func (b *box) tryListen(at netip.AddrPort, open opener) (err error) {
	if b.udp, err = open.bound(at, b.link, unix.SOCK_DGRAM); err != nil {
		return err
	}
	if err = b.findPort(); err == nil {
		b.tcp, err = open.bound(netip.AddrPortFrom(at.Addr(), b.port), b.link, unix.SOCK_STREAM)
	}
	if err != nil {
		return errors.Join(err, closeAll([]int{b.udp}))
	}
	return nil
}

// bound makes a socket that listens, to what comes through a link if one is named. The loopback of a namespace may still be down: its address
// is bound all the same.
func (open opener) bound(at netip.AddrPort, link string, typ int) (int, error) {
	const backlog = 128
	family, to := unix.AF_INET, unix.Sockaddr(nil)
	if a := at.Addr(); a.Is4() {
		to = &unix.SockaddrInet4{Addr: a.As4(), Port: int(at.Port())}
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: a.As16(), Port: int(at.Port())}
	}
	fd, err := open(family, typ)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1)
	if err == nil && link != "" {
		err = unix.BindToDevice(fd, link)
	}
	if err == nil && typ == unix.SOCK_STREAM { // connections that ended keep their port for a minute
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil && typ == unix.SOCK_DGRAM {
		err = errors.Join(lookFromStart(fd), tellAsked(fd, at.Addr()))
	}
	if err == nil {
		err = unix.Bind(fd, to)
	}
	if err == nil && typ == unix.SOCK_STREAM {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func cookieOf(fd int) (uint64, error) {
	const soNetnsCookie = 71 // SO_NETNS_COOKIE
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, soNetnsCookie)
}

func closeAll(fds []int) error {
	var errs []error
	for _, fd := range fds {
		if fd > 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}
