package netns_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/sealane/sealane/sandbox"
	"github.com/vishvananda/netlink"
)

// uplink makes a link of the host that is not ours.
func (r *room) uplink(name string) {
	r.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	if err := r.h.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { r.h.Run("ip", "link", "del", name) })
	r.h.Run("ip", "link", "set", name, "up")
}

// Each kind of link is made, seen as it was wanted, and gone afterwards: newRoom checks the last.
func TestKindsOfLinks(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	for name, l := range map[string]sandbox.Link{
		"bridge that snoops": {Name: "br0", MTU: 1450, MAC: mac, Bridge: &sandbox.Bridge{}, Addrs: prefixes("10.1.0.1/24", "fd00:2::1/64")},
		"vxlan":              {Name: "vx0", MTU: 1450, MAC: mac, VXLAN: &sandbox.VXLAN{VNI: 256, Port: 4789, Local: netip.MustParseAddr("192.0.2.1")}},
		"vxlan over IPv6":    {Name: "vx0", VXLAN: &sandbox.VXLAN{VNI: 257, Port: 4790, Local: netip.MustParseAddr("2001:db8::1")}},
		"macvlan":            {Name: "eth0", MAC: mac, Child: &sandbox.Child{Kind: "macvlan", Parent: "up0", Mode: "bridge", Flag: "nopromisc"}, Addrs: prefixes("10.1.0.2/24")},
		"macvlan by default": {Name: "eth0", Child: &sandbox.Child{Kind: "macvlan", Parent: "up0"}},
		"macvtap":            {Name: "tap7", Child: &sandbox.Child{Kind: "macvtap", Parent: "up0", Mode: "private"}},
		"tap":                {Name: "tap0", MTU: 1400, Tap: &sandbox.Tap{UID: 1000, GID: 100}},
		"veth within":        {Name: "sv1", Veth: &sandbox.Veth{Peer: "sv2"}, Port: sandbox.Port{}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t, 0)
			r.uplink("up0")
			for _, ns := range []sandbox.Namespace{r.host, first(r.create())} {
				want := sandbox.Config{Links: []sandbox.Link{l}}
				owner := ""
				if ns == r.host {
					want.Links[0].Owner, owner = "net/7", "net/7"
				}
				r.change(ns, "net/7", sandbox.Config{}, want)
				if l.Veth != nil && ns != r.host {
					want.Links = append(want.Links, sandbox.Link{Name: "sv2", Down: true})
				}
				r.mustBe(ns, owner, want)
				r.change(ns, "net/7", want, sandbox.Config{})
				r.drain()
				r.mustBe(ns, owner, sandbox.Config{})
			}
		})
	}
}

func first[A, B any](a A, _ B) A { return a }

func TestPorts(t *testing.T) {
	r := newRoom(t, 0)
	r.apply(r.host, "net/1", bridge())
	sb, _ := r.create()
	outer, _ := endpoint(2, sb.Key())
	outer.Links[0].Port = sandbox.Port{Isolated: true, Hairpin: true, NoFlood: true, NoLearning: true, ProxyARP: true}
	r.change(r.host, "ep/2", sandbox.Config{}, outer)
	r.mustBe(r.host, outer.Links[0].Owner, outer)
	detail := r.h.Run("ip", "-d", "link", "show", "dev", outer.Links[0].Name)
	for _, flag := range []string{"hairpin on", "isolated on", "flood off", "mcast_flood off", "bcast_flood off", "learning off", "neigh_suppress on"} {
		if !strings.Contains(detail, flag) {
			t.Errorf("no %q in\n%s", flag, detail)
		}
	}
	plain, _ := endpoint(2, sb.Key())
	r.change(r.host, "ep/2", outer, plain)
	r.mustBe(r.host, outer.Links[0].Owner, plain)
	r.change(r.host, "ep/2", plain, sandbox.Config{})
}

// An overlay's namespace: a bridge, a tunnel with its entries, and the host's end of a container's veth.
func TestTunnelNamespace(t *testing.T) {
	r := newRoom(t, 0)
	on, _ := r.create()
	at := func(n byte) sandbox.Entry {
		return sandbox.Entry{MAC: net.HardwareAddr{2, 0, 0, 0, 0, n}, Via: netip.AddrFrom4([4]byte{192, 0, 2, n})}
	}
	near := func(n byte) sandbox.Entry {
		return sandbox.Entry{MAC: net.HardwareAddr{2, 0, 0, 0, 0, n}, Addr: netip.AddrFrom4([4]byte{10, 1, 0, n})}
	}
	config := func(tunnel, bridge []sandbox.Entry) sandbox.Config {
		return sandbox.Config{Links: []sandbox.Link{
			{Name: "sx1", Master: "br0", MTU: 1450, VXLAN: &sandbox.VXLAN{VNI: 256, Port: 4789, Local: netip.MustParseAddr("192.0.2.1")},
				Port: sandbox.Port{NoFlood: true, NoLearning: true, ProxyARP: true}, Entries: tunnel},
			{Name: "br0", MTU: 1450, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Bridge: &sandbox.Bridge{NoSnooping: true}, Addrs: prefixes("10.1.0.1/24"), Entries: bridge},
		}}
	}
	one := config([]sandbox.Entry{at(8), at(9)}, []sandbox.Entry{near(8), near(9)})
	r.change(on, "net/1", sandbox.Config{}, one)
	r.mustBe(on, "", one)
	moved := at(9)
	moved.Via = netip.MustParseAddr("192.0.2.77")
	two := config([]sandbox.Entry{moved}, []sandbox.Entry{near(9)})
	r.change(on, "net/1", one, two)
	fdb := r.inside(on, "bridge", "fdb", "show", "dev", "sx1")
	for line, want := range map[string]bool{"02:00:00:00:00:09 dst 192.0.2.77 link-netnsid 0 self": true, "02:00:00:00:00:09 master br0 static": true,
		"02:00:00:00:00:08": false, "192.0.2.9 ": false} {
		if strings.Contains(fdb, line) != want {
			t.Errorf("%q there: %v, want %v, in\n%s", line, !want, want, fdb)
		}
	}
	neighbours := r.inside(on, "ip", "neigh", "show", "nud", "permanent")
	if !strings.Contains(neighbours, "10.1.0.9 dev br0 lladdr 02:00:00:00:00:09") || strings.Contains(neighbours, "10.1.0.8") {
		t.Errorf("neighbours:\n%s", neighbours)
	}
	sb, _ := r.create()
	outer, inner := endpoint(2, sb.Key())
	outer.Links[0].Master, outer.Links[0].Owner = "br0", ""
	outer.Links[0].MTU, inner.Links[0].MTU = 1450, 1450
	inner.Links[0].Addrs, inner.Routes = prefixes("10.1.0.2/24"), nil
	r.change(on, "ep/1", sandbox.Config{}, outer)
	r.change(sb, "sb/1", sandbox.Config{}, inner)
	r.inside(sb, "ping", "-c1", "-W10", "10.1.0.1")
	r.change(on, "ep/1", outer, sandbox.Config{})
	r.drain()
	r.mustBe(on, "", two)
	r.change(on, "net/1", two, sandbox.Config{})
}

// A foreign bridge is used and left as it was found.
func TestAdopt(t *testing.T) {
	r := newRoom(t, 0)
	r.uplink("br9")
	r.h.Run("ip", "addr", "add", "10.9.0.1/24", "dev", "br9")
	was := r.h.Run("ip", "-o", "link", "show", "dev", "br9")
	want := sandbox.Config{
		Links:  []sandbox.Link{{Name: "br9", Adopt: true, Addrs: prefixes("10.9.0.2/24", "fd00:9::1/64")}},
		Routes: []sandbox.Route{{Dst: netip.MustParsePrefix("10.8.0.0/16"), Link: "br9"}},
	}
	r.change(r.host, "net/9", sandbox.Config{}, want)
	if got := r.h.Run("ip", "-o", "addr", "show", "dev", "br9"); !strings.Contains(got, "10.9.0.2/24") || !strings.Contains(got, "fd00:9::1/64") {
		t.Errorf("addresses:\n%s", got)
	}
	r.change(r.host, "net/9", want, sandbox.Config{})
	now := r.h.Run("ip", "-o", "addr", "show", "dev", "br9")
	if !strings.Contains(now, "10.9.0.1/24") || strings.Contains(now, "10.9.0.2") || strings.Contains(now, "fd00:9::1") {
		t.Errorf("addresses afterwards:\n%s", now)
	}
	if got := r.h.Run("ip", "-o", "link", "show", "dev", "br9"); got != was {
		t.Errorf("before: %s\nafter: %s", was, got)
	}
}

// Of two addresses of a subnet the kernel would delete both with the first.
func TestSecondAddressStays(t *testing.T) {
	r := newRoom(t, 0)
	r.uplink("br9")
	r.h.Run("ip", "addr", "add", "10.9.0.1/24", "dev", "br9")
	r.h.Run("ip", "addr", "add", "10.9.0.3/24", "dev", "br9")
	ours := sandbox.Config{Links: []sandbox.Link{{Name: "br9", Adopt: true, Addrs: prefixes("10.9.0.1/24")}}}
	r.change(r.host, "net/9", ours, sandbox.Config{})
	if now := r.h.Run("ip", "-o", "addr", "show", "dev", "br9"); !strings.Contains(now, "10.9.0.3/24") {
		t.Errorf("addresses afterwards:\n%s", now)
	}
	if now := r.h.Run("cat", "/proc/sys/net/ipv4/conf/br9/promote_secondaries"); strings.TrimSpace(now) != "0" {
		t.Errorf("promote_secondaries of a foreign link is %s", now)
	}
}

// A remote driver's link comes from the host and goes back there.
func TestArrives(t *testing.T) {
	r := newRoom(t, 0)
	r.h.Run("ip", "link", "add", "wl7", "type", "veth", "peer", "name", "wl8")
	t.Cleanup(func() { r.h.Run("ip", "link", "del", "wl8") })
	sb, _ := r.create()
	want := sandbox.Config{Links: []sandbox.Link{{Name: "eth0", Arrives: "wl7", MTU: 1400, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 7}, Addrs: prefixes("10.0.0.2/24")}}}
	r.change(sb, "sb/1", sandbox.Config{}, want)
	r.mustBe(sb, "", want)
	r.change(sb, "sb/1", sandbox.Config{}, want) // as after a crash
	r.change(sb, "sb/1", want, sandbox.Config{})
	r.mustBe(sb, "", sandbox.Config{})
	r.h.Run("ip", "link", "show", "wl7")
}
