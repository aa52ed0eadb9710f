package nftables_test

import (
	"net/netip"
	"sync"
	"testing"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/internal/nstest"
)

// world is a topology whose first network is as a test wants it, with everybody serving at port 80.
type world struct {
	firewalltest.Topology
	firewall.Firewall
	t *testing.T
}

func newWorld(t *testing.T, change func(*firewall.Network), ports ...firewall.Port) world {
	t.Helper()
	t.Parallel()
	w := world{Topology: build(t, false), t: t}
	_, w.Firewall = open(t, w.Host, "")
	n := net1()
	change(&n)
	apply(t, w, firewall.Change{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{n}}},
		firewall.Change{Owner: "net/2", Want: firewall.Terms{Networks: []firewall.Network{net2()}}},
		firewall.Change{Owner: "ep/1", Want: firewall.Terms{Ports: ports}})
	for _, h := range []*nstest.Host{w.Host, w.Outside, w.Self, w.Neighbour, w.Other} {
		firewalltest.Serve(t, h, 80)
	}
	return w
}

// expect is one call: who, to which port of whom, and as whom; as zero: not at all.
type expect struct {
	from *nstest.Host
	to   netip.Addr
	port uint16
	as   netip.Addr
}

// each makes calls of both protocols and in both families, all at once: those that must fail take a second each.
func (w world) each(calls func(a firewalltest.Addrs) []expect) {
	w.t.Helper()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, a := range w.Addrs {
		for _, c := range calls(a) {
			for _, proto := range []firewall.Proto{firewall.TCP, firewall.UDP} {
				wg.Go(func() { firewalltest.Call(w.t, c.from, proto, netip.AddrPortFrom(c.to, c.port), c.as) })
			}
		}
	}
}

var nobody netip.Addr

func TestInternal(t *testing.T) {
	w := newWorld(t, func(n *firewall.Network) { n.Internal = true },
		firewall.Port{Interface: "sl-1", Proto: firewall.TCP, Host: addr("0.0.0.0"), Target: addr("10.1.0.2"), HostPorts: firewall.Range{First: 8080, Last: 8080}, Ports: firewall.Range{First: 80, Last: 80}})
	w.each(func(a firewalltest.Addrs) []expect {
		return []expect{
			{w.Self, a.Gateway, 80, a.Self}, {w.Host, a.Self, 80, a.Gateway}, {w.Self, a.Neighbour, 80, a.Self},
			{w.Self, a.Outside, 80, nobody}, {w.Self, a.Host, 80, nobody}, {w.Self, a.Other, 80, nobody},
			{w.Outside, a.Self, 80, nobody}, {w.Other, a.Self, 80, nobody},
			// The other network is as ever.
			{w.Other, a.Outside, 80, a.Host},
		}
	})
	firewalltest.Call(t, w.Outside, firewall.TCP, netip.MustParseAddrPort("192.0.2.2:8080"), nobody)
	firewalltest.Call(t, w.Host, firewall.TCP, netip.MustParseAddrPort("127.0.0.1:8080"), addr("10.1.0.1"))
}

func TestIsolated(t *testing.T) {
	w := newWorld(t, func(n *firewall.Network) { n.Mode4, n.Mode6 = firewall.Isolated, firewall.Isolated })
	w.each(func(a firewalltest.Addrs) []expect {
		return []expect{
			{w.Self, a.Neighbour, 80, a.Self},
			{w.Self, a.Gateway, 80, nobody}, {w.Host, a.Self, 80, nobody}, {w.Self, a.Outside, 80, nobody}, {w.Outside, a.Self, 80, nobody},
		}
	})
}

func TestRouted(t *testing.T) {
	port := func(host, target string) firewall.Port {
		return firewall.Port{Interface: "sl-1", Proto: firewall.TCP, Host: addr(host), Target: addr(target),
			HostPorts: firewall.Range{First: 8080, Last: 8080}, Ports: firewall.Range{First: 80, Last: 80}}
	}
	udp4, udp6 := port("0.0.0.0", "10.1.0.2"), port("::", "fd00:1::2")
	udp4.Proto, udp6.Proto = firewall.UDP, firewall.UDP
	w := newWorld(t, func(n *firewall.Network) { n.Mode4, n.Mode6 = firewall.Routed, firewall.Routed },
		port("0.0.0.0", "10.1.0.2"), port("::", "fd00:1::2"), udp4, udp6)
	firewalltest.Serve(t, w.Self, 81)
	w.each(func(a firewalltest.Addrs) []expect {
		return []expect{
			{w.Outside, a.Self, 80, a.Outside}, {w.Other, a.Self, 80, a.Other}, {w.Host, a.Self, 81, a.Gateway},
			{w.Self, a.Outside, 80, a.Self}, // no translation
			{w.Outside, a.Self, 81, nobody}, {w.Outside, a.Neighbour, 80, nobody}, {w.Outside, a.Host, 8080, nobody},
		}
	})
	for _, a := range w.Addrs {
		w.Outside.Run("ping", "-c1", "-W10", a.Self.String())
	}
}

func TestUnprotected(t *testing.T) {
	w := newWorld(t, func(n *firewall.Network) { n.Mode4, n.Mode6 = firewall.NATUnprotected, firewall.NATUnprotected })
	w.each(func(a firewalltest.Addrs) []expect {
		return []expect{{w.Outside, a.Self, 80, a.Outside}, {w.Self, a.Outside, 80, a.Host}, {w.Other, a.Self, 80, nobody}}
	})
}

func TestOneFamily(t *testing.T) {
	w := newWorld(t, func(n *firewall.Network) { n.Mode6 = firewall.Off })
	firewalltest.Call(t, w.Self, firewall.TCP, netip.MustParseAddrPort("192.0.2.1:80"), addr("192.0.2.2"))
	firewalltest.Call(t, w.Outside, firewall.TCP, netip.MustParseAddrPort("[fd00:1::2]:80"), nobody)
}

func TestSource(t *testing.T) {
	w := newWorld(t, func(n *firewall.Network) { n.SNAT4, n.SNAT6 = addr("192.0.2.77"), addr("2001:db8::77") })
	w.Host.Run("ip", "address", "add", "192.0.2.77/24", "dev", "outside")
	w.Host.Run("ip", "address", "add", "2001:db8::77/64", "dev", "outside", "nodad")
	firewalltest.Call(t, w.Self, firewall.TCP, netip.MustParseAddrPort("192.0.2.1:80"), addr("192.0.2.77"))
	firewalltest.Call(t, w.Self, firewall.UDP, netip.MustParseAddrPort("[2001:db8::1]:80"), addr("2001:db8::77"))
	firewalltest.Call(t, w.Other, firewall.TCP, netip.MustParseAddrPort("192.0.2.1:80"), addr("192.0.2.2"))
}

func TestNoMasquerade(t *testing.T) {
	w := newWorld(t, func(n *firewall.Network) { n.NoMasq = true })
	w.each(func(a firewalltest.Addrs) []expect {
		return []expect{{w.Self, a.Outside, 80, a.Self}, {w.Other, a.Outside, 80, a.Host}, {w.Outside, a.Self, 80, nobody}}
	})
}

func TestTrustedAndReach(t *testing.T) {
	w := newWorld(t, func(n *firewall.Network) { n.Trusted, n.Reach = []string{"outside"}, []string{"sl-2"} })
	w.each(func(a firewalltest.Addrs) []expect {
		return []expect{{w.Outside, a.Self, 80, a.Outside}, {w.Self, a.Other, 80, a.Self}, {w.Outside, a.Other, 80, nobody}, {w.Other, a.Self, 80, nobody}}
	})
}

func TestMark(t *testing.T) {
	w := newWorld(t, func(n *firewall.Network) { n.AcceptMark = 7 })
	w.Host.Run("nft", "add", "table", "inet", "others")
	w.Host.Run("nft", "add", "chain", "inet", "others", "p", "{ type filter hook prerouting priority mangle; }")
	w.Host.Run("nft", "add", "rule", "inet", "others", "p", "iifname", "outside", "th", "dport", "80", "meta", "mark", "set", "7")
	firewalltest.Serve(t, w.Self, 81)
	w.each(func(a firewalltest.Addrs) []expect {
		return []expect{{w.Outside, a.Self, 80, a.Outside}, {w.Outside, a.Self, 81, nobody}}
	})
}
