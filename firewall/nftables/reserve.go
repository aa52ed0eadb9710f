package nftables

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nsthread"
	"golang.org/x/sys/unix"
)

// Reserve implements firewall.Reserver by bound sockets, one for each port, that never listen: another process gets "address in use", and so
// do we where another process has the port on any address that overlaps. The zero Host is every address of both families, in one socket.
// A zero Range is any one port that the kernel picks from ip_local_port_range less ip_local_reserved_ports; any other is held whole
// or not at all. No packet reaches the sockets while the port is published, and what does otherwise is refused (TCP, SCTP) or thrown away (UDP).
//
// AlreadyExists if a port is in use; FailedPrecondition if the host does not have the address; PermissionDenied; NotImplemented if the kernel
// lacks the protocol; ResourceExhausted if no port or descriptor is left.
func (o *Opener) Reserve(ctx context.Context, proto firewall.Proto, host netip.Addr, ports firewall.Range) (firewall.Range, io.Closer, error) {
	if err := ctx.Err(); err != nil {
		return firewall.Range{}, nil, err
	}
	if ports != (firewall.Range{}) && (ports.First == 0 || ports.Last < ports.First) {
		return firewall.Range{}, nil, fmt.Errorf("reserve ports %s: no range: %w", ports, errdefs.ErrInvalidArgument)
	}
	held := &reservation{}
	got := ports
	err := nsthread.Do(o.options.Host, func() (err error) {
		if ports == (firewall.Range{}) {
			got.First, err = held.take(proto, host, 0)
			got.Last = got.First
		}
		for i := 0; i < ports.Len() && err == nil; i++ {
			_, err = held.take(proto, host, ports.First+uint16(i))
		}
		return err
	})
	if err != nil {
		return firewall.Range{}, nil, errors.Join(err, held.Close())
	}
	return got, held, nil
}

// makeRoom has the process's table of descriptors made for many at once. The kernel doubles it whenever it is full, and waits for a grace
// period (8 to 30 ms) each time if the process has threads: a thousand ports would meet four of them.
func makeRoom() {
	const many = 16 << 10 // 128 KiB
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	probe, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return // without it all goes on, more slowly
	}
	defer unix.Close(probe)
	if last, err := unix.FcntlInt(uintptr(probe), unix.F_DUPFD_CLOEXEC, int(min(many, limit.Cur))-1); err == nil {
		unix.Close(last)
	}
}

// reservation is sockets that hold ports.
type reservation struct{ sockets []int }

// Close gives the ports back: when it returns they are free. A process that is being started would have them for some milliseconds more, so
// that this waits for it. Twice is once.
func (r *reservation) Close() error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var errs []error
	for _, fd := range r.sockets {
		errs = append(errs, unix.Close(fd))
	}
	r.sockets = nil
	return errors.Join(errs...)
}

// take binds one socket to a port, or to any for 0, and says which.
func (r *reservation) take(proto firewall.Proto, host netip.Addr, port uint16) (uint16, error) {
	number, fd, err := bind(proto, host, port)
	if !host.IsValid() && errors.Is(err, unix.EAFNOSUPPORT) { // no IPv6 here
		number, fd, err = bind(proto, netip.IPv4Unspecified(), port)
	}
	if err != nil {
		return 0, refusedPort(proto, host, port, err)
	}
	r.sockets = append(r.sockets, fd)
	return number, nil
}

func bind(proto firewall.Proto, host netip.Addr, port uint16) (uint16, int, error) {
	domain, typ := unix.AF_INET6, unix.SOCK_STREAM
	if host.Is4() {
		domain = unix.AF_INET
	}
	if proto == firewall.UDP {
		typ = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, int(proto))
	if err != nil {
		return 0, -1, err
	}
	if proto == firewall.UDP {
		err = deafen(fd)
	}
	number := port
	if err == nil {
		number, err = bindSocket(fd, host, port)
	}
	if err != nil {
		unix.Close(fd)
		return 0, -1, err
	}
	return number, fd, nil
}

// deafen throws away what reaches a socket: nobody reads, and its buffer would stay full for ever. Only UDP needs it, and it costs more than
// the socket does: nothing is handed to one of TCP or SCTP that does not listen.
func deafen(fd int) error {
	nothing := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing[0]})
}

func bindSocket(fd int, host netip.Addr, port uint16) (uint16, error) {
	var address unix.Sockaddr
	if host.Is4() {
		address = &unix.SockaddrInet4{Port: int(port), Addr: host.As4()}
	} else {
		only := 0
		inet6 := &unix.SockaddrInet6{Port: int(port)}
		if host.IsValid() {
			only, inet6.Addr = 1, host.As16()
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only); err != nil {
			return 0, err
		}
		address = inet6
	}
	if err := unix.Bind(fd, address); err != nil || port != 0 {
		return port, err
	}
	return boundPort(fd)
}

func boundPort(fd int) (uint16, error) {
	address, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port), nil
	case *unix.SockaddrInet6:
		return uint16(a.Port), nil
	}
	return 0, unix.EAFNOSUPPORT
}

// refusedPort says what the user can do about a port that was not to be had.
func refusedPort(proto firewall.Proto, host netip.Addr, port uint16, err error) error {
	where := "on every address"
	if host.IsValid() {
		where = "on " + host.String()
	}
	what := fmt.Sprintf("reserve port %d/%s %s", port, proto, where)
	switch {
	case port == 0 && errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("reserve any %s port %s: ip_local_port_range has no free one: %w: %w", proto, where, errdefs.ErrResourceExhausted, err)
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%s: port is already allocated: %w: %w", what, errdefs.ErrAlreadyExists, err)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%s: this host does not have the address: %w: %w", what, errdefs.ErrFailedPrecondition, err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.ESOCKTNOSUPPORT), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%s: this kernel has no such sockets: %w: %w", what, errdefs.ErrNotImplemented, err)
	}
	return fmt.Errorf("%s: %w", what, kinded(err))
}
