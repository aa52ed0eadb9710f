package nftables_test

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nstest"
)

// TestRedirect: what is sent to port 53 of the address arrives at another port, and the answer comes from port 53; a server at port 53 of
// all addresses is not disturbed, and nothing is tracked.
func TestRedirect(t *testing.T) {
	h := nstest.New(t, "h")
	own := h.ListenPacket("udp4", "0.0.0.0:53")
	go answer(own, "theirs ")
	ours := h.ListenPacket("udp4", "127.0.0.11:0")
	go answer(ours, "ours ")
	port := ours.LocalAddr().(*net.UDPAddr).Port
	ownTCP, oursTCP := h.Listen("tcp4", "0.0.0.0:53"), h.Listen("tcp4", ours.LocalAddr().String())
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
	if rules := h.Ruleset(); strings.Count(rules, "notrack") != 4 {
		t.Errorf("rules:\n%s", rules)
	}
	golden(t, "redirect", strings.ReplaceAll(h.Run("nft", "list", "table", "inet", "sealane-resolver"), " "+strconv.Itoa(port), " PORT"))
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
