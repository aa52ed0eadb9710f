package netns

import (
	"context"
	goflag "flag"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/golden"
	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

var update = goflag.Bool("update", false, "write testdata")

// The messages of an attach and a detach, byte for byte, as a little-endian machine writes them. Nothing is sent.
func TestMessages(t *testing.T) {
	var text strings.Builder
	for _, c := range []struct {
		name  string
		write func(*apply) error
	}{
		{"the host's side of an attach", func(a *apply) error {
			mac := net.HardwareAddr{2, 0x42, 10, 0, 0, 2}
			l := sandbox.Link{Name: "sv0123456789ab", Master: "sl-0123456789ab", Owner: "ep/1", MTU: 1500, Silent: true, Port: sandbox.Port{Isolated: true},
				Veth: &sandbox.Veth{Peer: "eth0", Space: "/run/sealane/netns/1", MAC: mac}}
			a.createVeth(l, 7, 9)
			return a.configure(context.Background(), l, sandbox.Link{Down: true, MTU: l.MTU, Master: l.Master})
		}},
		{"the sandbox's side: the link", func(a *apply) error {
			return a.configure(context.Background(), sandbox.Link{Name: "eth0", MTU: 1500, MAC: net.HardwareAddr{2, 0x42, 10, 0, 0, 2}, Silent: true}, sandbox.Link{Down: true})
		}},
		{"the sandbox's side: an address and a route of each family", func(a *apply) error {
			for _, p := range []string{"10.0.0.2/16", "fd00:1::2/64"} {
				a.writeAddr(sandbox.AddAddr, 2, netip.MustParsePrefix(p))
			}
			for dst, via := range map[string]string{"0.0.0.0/0": "10.0.0.1"} {
				if err := a.route(context.Background(), sandbox.AddRoute, sandbox.Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via), Link: "lo"}); err != nil {
					return err
				}
			}
			return a.route(context.Background(), sandbox.AddRoute, sandbox.Route{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00:1::1"), Link: "lo"})
		}},
		{"a detach", func(a *apply) error {
			return a.delLink(context.Background(), sandbox.Link{Name: "sv0123456789ab", Veth: &sandbox.Veth{}})
		}},
		{"the table that drops reports", func(a *apply) error { writeSilentTable(&a.batch); return nil }},
	} {
		s, err := nlmsg.Open("", unix.NETLINK_ROUTE) // only asked for the index of lo, which is 1 everywhere
		if err != nil {
			t.Fatal(err)
		}
		g := groups{1 << 30}
		p := &Provider{instance: "test", ipv6: true, groups: g, reaper: &reaper{groups: g}}
		a := &apply{ns: &Namespace{p: p, ours: true}, inside: &sockets{route: s}}
		if err := c.write(a); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "== %s\n%s", c.name, dump(a.batch.Bytes()))
		s.Close()
	}
	golden.Check(t, *update, "messages", text.String())
}

// dump is messages in hex, sixteen bytes a line.
func dump(p []byte) string {
	var b strings.Builder
	for len(p) > 0 {
		n := min(16, len(p))
		fmt.Fprintf(&b, "% x\n", p[:n])
		p = p[n:]
	}
	return b.String()
}

// The frames of an announcement, as the standards lay them out.
func TestFrames(t *testing.T) {
	mac := net.HardwareAddr{2, 0x42, 10, 0, 0, 2}
	for _, c := range []struct {
		frame []byte
		want  string
	}{
		{gratuitousARP(mac, netip.MustParseAddr("10.0.0.2")), "ff ff ff ff ff ff 02 42 0a 00 00 02 08 06" + // ethernet
			" 00 01 08 00 06 04 00 01 02 42 0a 00 00 02 0a 00 00 02 00 00 00 00 00 00 0a 00 00 02"}, // request from itself for itself
		{unsolicitedNA(mac, netip.MustParseAddr("fd00:1::2")), "33 33 00 00 00 01 02 42 0a 00 00 02 86 dd" +
			" 60 00 00 00 00 20 3a ff fd 00 00 01 00 00 00 00 00 00 00 00 00 00 00 02 ff 02 00 00 00 00 00 00 00 00 00 00 00 00 00 01" +
			" 88 00 50 54 20 00 00 00 fd 00 00 01 00 00 00 00 00 00 00 00 00 00 00 02 02 01 02 42 0a 00 00 02"},
	} {
		if got := fmt.Sprintf("% x", c.frame); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

func TestLinkLocal(t *testing.T) {
	if got := linkLocal(net.HardwareAddr{2, 0x42, 10, 0, 0, 2}).String(); got != "fe80::42:aff:fe00:2/64" {
		t.Error(got)
	}
	if got := linkLocal(net.HardwareAddr{1, 2, 3}); got.IsValid() {
		t.Error(got)
	}
}

// Whatever comes as an answer is read without a fault.
func FuzzParseLink(f *testing.F) {
	var b nlmsg.Batch
	beginLink(&b, unix.RTM_NEWLINK, 0, 3, unix.IFF_UP, 0)
	b.String(unix.IFLA_IFNAME, "eth0")
	b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_KIND, "veth")
	b.EndNest()
	b.End()
	f.Add(b.Bytes()[unix.SizeofNlMsghdr:])
	f.Fuzz(func(t *testing.T, p []byte) {
		l := parseLink(p)
		parsePort(l.port)
		for _, kind := range []string{"macvlan", "ipvlan", "vlan"} {
			attrs := map[uint16][]byte{}
			for typ, v := range nlmsg.Attrs(l.data) {
				attrs[typ] = v
			}
			parseChild(kind, attrs)
			parseVXLAN(attrs)
			hops(attrs)
		}
	})
}
