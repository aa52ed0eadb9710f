package netns_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/nsthread"
	"golang.org/x/sys/unix"
)

// When Apply of the far end returns the link works: the first packet from the host, and from a neighbour, arrives, whatever else goes on.
func TestFirstPacketArrives(t *testing.T) {
	const attaches = 200
	t.Run("alone on the bridge", func(t *testing.T) {
		y := newYard(t, 0)
		for n := range attaches / 4 {
			a := y.attach()
			y.first(n, a, y.h.Path())
			y.detach(a)
		}
	})
	t.Run("among others", func(t *testing.T) {
		y := newYard(t, 0)
		neighbour := y.attach()
		for n := range attaches {
			a := y.attach()
			y.first(n, a, []string{y.h.Path(), neighbour.ns.Key()}[n/2%2])
			y.detach(a)
		}
		y.detach(neighbour)
	})
	t.Run("while others come and go", func(t *testing.T) {
		y := newYard(t, 0)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			others := yard{tb: t, p: y.p, host: y.host, next: 1 << 14}
			for {
				select {
				case <-stop:
					return
				default:
					others.detach(others.attach())
				}
			}
		}()
		neighbour := y.attach()
		for n := range attaches {
			a := y.attach()
			y.first(n, a, []string{y.h.Path(), neighbour.ns.Key()}[n/2%2])
			y.detach(a)
		}
		close(stop)
		<-stopped
		y.detach(neighbour)
	})
}

// The first packet also arrives when the host has just looked for the address in vain.
func TestFirstPacketArrivesWhereOneWasSentTooEarly(t *testing.T) {
	y := newYard(t, 0)
	y.detach(y.attach()) // the bridge is up
	for n := range 20 {
		early := must(datagrams(y.h.Path()))(t)
		_, inner := endpoint(y.next+1, "")
		to := inner.Links[0].Addrs[n%2].Addr()
		if err := unix.Sendto(early, []byte{0}, 0, &unix.SockaddrInet6{Port: 7000, Addr: netip.AddrFrom16(to.As16()).As16()}); err != nil {
			t.Fatal(err)
		}
		unix.Close(early)
		a := y.attach()
		y.first(n, a, y.h.Path())
		y.detach(a)
	}
}

// first sends a datagram to an endpoint from another namespace, by IPv4 and IPv6 in turn. One whose question for the MAC is lost comes
// after a second.
func (y *yard) first(n int, to attached, from string) {
	y.tb.Helper()
	const port = 7000
	got := must(datagrams(to.ns.Key()))(y.tb)
	defer unix.Close(got)
	limit := unix.NsecToTimeval(int64(800 * time.Millisecond))
	if err := unix.SetsockoptTimeval(got, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		y.tb.Fatal(err)
	}
	if err := unix.Bind(got, &unix.SockaddrInet6{Port: port}); err != nil {
		y.tb.Fatal(err)
	}
	sent := must(datagrams(from))(y.tb)
	defer unix.Close(sent)
	addr := to.inner.Links[0].Addrs[n%2].Addr()
	if err := unix.Sendto(sent, []byte{byte(n)}, 0, &unix.SockaddrInet6{Port: port, Addr: netip.AddrFrom16(addr.As16()).As16()}); err != nil {
		y.tb.Fatal(err)
	}
	var buf [1]byte
	if _, _, err := unix.Recvfrom(got, buf[:], 0); err != nil {
		y.tb.Errorf("attach %d: the first packet to %s: %v", n, addr, err)
	}
}

// datagrams is a socket of both families in a namespace.
func datagrams(space string) (fd int, err error) {
	err = nsthread.Do(space, func() error {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	return fd, err
}
