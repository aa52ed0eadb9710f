package netns_test

import (
	"strings"
	"testing"

	"github.com/sealane/sealane/sandbox"
)

// A namespace that somebody else made has lo down and heeds routers. A join mends the first, and the second for its interface only.
func TestJoinOfSomebodyElsesNamespace(t *testing.T) {
	r := newRoom(t, 0)
	r.apply(r.host, "net/1", bridge())
	ns := r.open(sandbox.Origin{Path: (&theirs{t: t, dir: t.TempDir()}).make()})
	outer, inner := endpoint(2, ns.Key())
	inner.Links[0].Addrs, inner.Routes = inner.Links[0].Addrs[:1], inner.Routes[:1] // no IPv6 of ours, which the kernel does not know
	r.change(r.host, "ep/2", sandbox.Config{}, outer)
	r.change(ns, "sb/2", sandbox.Config{}, inner)
	r.inside(ns, "ping", "-c1", "-W10", "127.0.0.1")
	for file, want := range map[string]string{"eth0/accept_ra": "0", "default/accept_ra": "1", "all/accept_ra": "1"} {
		if got := strings.TrimSpace(r.inside(ns, "cat", "/proc/sys/net/ipv6/conf/"+file)); got != want {
			t.Errorf("%s is %s, want %s", file, got, want)
		}
	}
	if got := r.inside(ns, "ip", "-6", "-o", "addr", "show", "dev", "eth0"); got != "" {
		t.Errorf("IPv6 addresses: %s", got)
	}
	r.change(ns, "sb/2", inner, sandbox.Config{})
	r.change(r.host, "ep/2", outer, sandbox.Config{})
	r.drain()
}

// A bridge whose MTU is wanted does not take that of its ports, nor goes back to the kernel's with the last of them.
func TestBridgeKeepsItsMTU(t *testing.T) {
	for _, mtu := range []int{1400, 1500} {
		r := newRoom(t, 0)
		wanted := bridge()
		wanted.Links[0].MTU = mtu
		r.apply(r.host, "net/1", wanted)
		sb, _ := r.create()
		outer, _ := endpoint(2, sb.Key())
		outer.Links[0].MTU = 1300
		r.change(r.host, "ep/2", sandbox.Config{}, outer)
		r.mustBe(r.host, "net/1", wanted)
		r.change(r.host, "ep/2", outer, sandbox.Config{})
		r.drain()
		r.mustBe(r.host, "net/1", wanted)
	}
}

// The link-local address of a silent link is ours: it follows the MAC and goes with the last IPv6 address.
func TestLinkLocalAddressFollows(t *testing.T) {
	r := newRoom(t, 0)
	was := bridge()
	r.change(r.host, "net/1", sandbox.Config{}, was)
	addrs := func() string { return r.h.Run("ip", "-6", "-o", "addr", "show", "dev", bridgeName, "scope", "link") }
	if got := addrs(); !strings.Contains(got, "fe80::42:aff:fe00:1/64") {
		t.Errorf("made with %q", got)
	}
	moved := bridge()
	moved.Links[0].MAC[5] = 9
	r.change(r.host, "net/1", was, moved)
	if got := addrs(); !strings.Contains(got, "fe80::42:aff:fe00:9/64") || strings.Contains(got, "fe00:1/64") {
		t.Errorf("moved to %q", got)
	}
	only4 := bridge()
	only4.Links[0].MAC[5], only4.Links[0].Addrs = 9, only4.Links[0].Addrs[:1]
	r.change(r.host, "net/1", moved, only4)
	if got := addrs(); got != "" {
		t.Errorf("left: %q", got)
	}
	r.change(r.host, "net/1", only4, sandbox.Config{})
}
