package nftables_test

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/golden"
	"github.com/sealane/sealane/internal/nstest"
	"golang.org/x/sys/unix"
)

// TestRedirect: what is sent to port 53 of the address arrives at another port, and the answer comes from port 53; a server at port 53 of
// all addresses is not disturbed, and nothing is tracked.
func TestRedirect(t *testing.T) {
	for _, own := range []string{"0.0.0.0:53", "[::]:53"} {
		t.Run(own, func(t *testing.T) { testRedirect(t, own) })
	}
}

func testRedirect(t *testing.T, own string) {
	h := nstest.New(t, "h")
	go answer(h.ListenPacket("udp", own), "theirs ")
	ours := h.ListenPacket("udp4", "127.0.0.11:0")
	go answer(ours, "ours ")
	port := ours.LocalAddr().(*net.UDPAddr).Port
	ownTCP, oursTCP := h.Listen("tcp", own), h.Listen("tcp4", ours.LocalAddr().String())
	go accept(ownTCP, "theirs ")
	go accept(oursTCP, "ours ")
	_, f := open(t, h, "")
	r := firewall.Terms{Redirects: []firewall.Redirect{{To: netip.MustParseAddrPort("127.0.0.11:53"), Port: uint16(port)}}}
	apply(t, f, firewall.Change{Owner: "sb/1", Want: r})
	for address, want := range map[string]string{"127.0.0.11:53": "ours hello", "127.0.0.1:53": "theirs hello"} {
		for _, network := range []string{"udp4", "tcp4"} {
			if got := ask(t, h, network, address); got != want {
				t.Errorf("%s %s: %q, want %q", network, address, got, want)
			}
		}
	}
	for what, flags := range map[string]int{"a checksum made at once": unix.MSG_MORE, "none": 0} {
		if got := unusual(t, h, flags); got != "ours hello" {
			t.Errorf("a datagram with %s: %q", what, got)
		}
	}
	if rules := h.Ruleset(); strings.Count(rules, "notrack") != 2 {
		t.Errorf("rules:\n%s", rules)
	}
	golden.Check(t, *update, "redirect", strings.ReplaceAll(h.Run("nft", "list", "table", "inet", "sealane-resolver"), " "+strconv.Itoa(port), " PORT"))
	apply(t, f, firewall.Change{Owner: "sb/1", Have: r})
	if rules := h.Ruleset(); strings.Contains(rules, "sealane") {
		t.Errorf("left behind:\n%s", rules)
	}
}

// answer sends datagrams back with a word before them.
func answer(c net.PacketConn, word string) {
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		c.WriteTo(append([]byte(word), buf[:n]...), from)
	}
}

func accept(l net.Listener, word string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 512)
		n, _ := c.Read(buf)
		c.Write(append([]byte(word), buf[:n]...))
		c.Close()
	}
}

// unusual asks with a datagram whose checksum is not left to the device: put together of two with MSG_MORE, or without one.
func unusual(t *testing.T, h *nstest.Host, flags int) string {
	t.Helper()
	buf := make([]byte, 512)
	n := 0
	h.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 11}, Port: 53}
		if flags == 0 {
			err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1), unix.Sendto(fd, []byte("hello"), 0, to))
		} else {
			err = errors.Join(unix.Sendto(fd, []byte("hel"), flags, to), unix.Sendto(fd, []byte("lo"), 0, to))
		}
		if err == nil {
			err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60})
		}
		if err == nil {
			n, err = unix.Read(fd, buf)
		}
		return err
	})
	return string(buf[:n])
}

func ask(t *testing.T, h *nstest.Host, network, address string) string {
	t.Helper()
	c, err := h.Dial(network, address)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	c.Write([]byte("hello"))
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	if err != nil {
		return err.Error()
	}
	return string(buf[:n])
}
