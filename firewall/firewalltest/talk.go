package firewalltest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/nsthread"
)

// How long to wait for an answer that must come, and for one that must not.
const patience, certainty = time.Minute, time.Second

// server tells who asks who they are, and remembers what it was told.
type server struct {
	mu    sync.Mutex
	heard map[string]bool
}

func serve(t testing.TB, h *nstest.Host, port uint16) *server {
	t.Helper()
	return serveAt(t, h, fmt.Sprintf("[::]:%d", port))
}

func serveAt(t testing.TB, h *nstest.Host, address string) *server {
	t.Helper()
	s := &server{heard: map[string]bool{}}
	l, p := h.Listen("tcp", address), h.ListenPacket("udp", address)
	go s.accept(l)
	go s.receive(p)
	return s
}

func (s *server) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		io.WriteString(c, c.RemoteAddr().String())
		c.Close()
	}
}

func (s *server) receive(p net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := p.ReadFrom(buf)
		if err != nil && errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		s.mu.Lock()
		s.heard[string(buf[:n])] = true
		s.mu.Unlock()
		p.WriteTo([]byte(from.String()), from)
	}
}

// has says whether a datagram with these words came.
func (s *server) has(words string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heard[words]
}

// ask calls a server and returns the address that it was called from, as it says.
func ask(h *nstest.Host, proto firewall.Proto, to netip.AddrPort, wait time.Duration) (from netip.Addr, err error) {
	err = nsthread.Do(h.Path(), func() error {
		c, err := net.DialTimeout(proto.String(), to.String(), wait)
		if err != nil {
			return err
		}
		defer c.Close()
		from, err = listen(c, proto, wait)
		return err
	})
	return from, err
}

// listen asks again each second over UDP, as TCP does by itself.
func listen(c net.Conn, proto firewall.Proto, wait time.Duration) (netip.Addr, error) {
	buf := make([]byte, 100)
	for end := time.Now().Add(wait); ; {
		next := end
		if proto == firewall.UDP {
			next = time.Now().Add(min(time.Until(end), time.Second))
			if _, err := io.WriteString(c, "who am I"); err != nil {
				return netip.Addr{}, err
			}
		}
		c.SetReadDeadline(next)
		n, err := c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Now().Before(end) {
			continue
		}
		if err != nil {
			return netip.Addr{}, err
		}
		from, err := netip.ParseAddrPort(string(buf[:n]))
		return from.Addr().Unmap(), err
	}
}
