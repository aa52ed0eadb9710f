package netns_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/sandboxtest"
)

// An address that comes back with another MAC is reached at once by a neighbour and by the host, whose caches are warm, when it is
// announced. The same without an announcement shows that the caches are what stands in the way.
func TestAnnounce(t *testing.T) {
	for name, announced := range map[string]bool{"announced": true, "not announced": false} {
		t.Run(name, func(t *testing.T) {
			r := newRoom(t, 0)
			r.apply(r.host, "net/1", bridge())
			neighbour, _ := r.create()
			outer, inner := endpoint(2, neighbour.Key())
			r.apply(r.host, "ep/2", outer)
			r.apply(neighbour, "sb/2", inner)

			first, _ := r.create()
			outer, inner = endpoint(3, first.Key())
			addrs := []netip.Addr{inner.Links[0].Addrs[0].Addr(), inner.Links[0].Addrs[1].Addr()}
			r.change(r.host, "ep/3", sandbox.Config{}, outer)
			r.change(first, "sb/3", sandbox.Config{}, inner)
			for _, a := range addrs {
				r.inside(neighbour, "ping", "-c1", "-W10", a.String())
				r.h.Run("ping", "-c1", "-W10", a.String())
			}
			r.change(r.host, "ep/3", outer, sandbox.Config{})

			second, _ := r.create()
			mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
			outer, _ = endpoint(4, second.Key())
			outer.Links[0].Veth.MAC, inner.Links[0].MAC = mac, mac
			if announced {
				outer.Links[0].Announce = addrs
			}
			r.apply(r.host, "ep/4", outer)
			r.apply(second, "sb/4", inner)
			for _, a := range addrs {
				_, near := r.h.Try("nsenter", "--net="+neighbour.Key(), "ping", "-c1", "-W1", a.String())
				_, host := r.h.Try("ping", "-c1", "-W1", a.String())
				if reached := near == nil && host == nil; reached != announced {
					t.Errorf("%s: from the neighbour: %v, from the host: %v", a, near, host)
				}
			}
		})
	}
}

// Who asks for another host's endpoint a moment before the bridge knows it is told as soon as it does, and need not ask again, which would be
// a second later. In this test it would be ten minutes.
func TestAnnounceEntries(t *testing.T) {
	r := newRoom(t, 0)
	on, _ := r.create()
	none, one := sandboxtest.Tunnel(0), sandboxtest.Tunnel(1)
	r.change(on, "net/1", sandbox.Config{}, none)
	asking, _ := r.create()
	outer, inner := endpoint(2, asking.Key())
	outer.Links[0].Master = "br0"
	inner.Links[0].Addrs, inner.Routes = prefixes("10.1.0.2/16", "fd00:1::2/64"), nil
	r.change(on, "ep/2", sandbox.Config{}, outer)
	r.change(asking, "sb/2", sandbox.Config{}, inner)
	r.inside(asking, "sysctl", "-qw", "net.ipv4.neigh.eth0.retrans_time_ms=600000", "net.ipv6.neigh.eth0.retrans_time_ms=600000")

	entries := one.Links[0].Entries
	for _, e := range entries {
		r.inside(asking, "sh", "-c", "ping -c1 -W1 "+e.Addr.String()+" || true")
		if got := r.inside(asking, "ip", "neigh", "show", e.Addr.String()); !strings.Contains(got, "INCOMPLETE") {
			t.Fatalf("%s is not asked for: %s", e.Addr, got)
		}
	}
	r.change(on, "net/1", none, one)
	for _, e := range entries {
		nstest.Eventually(t, e.Addr.String()+" is known", func() bool {
			return strings.Contains(r.inside(asking, "ip", "neigh", "show", e.Addr.String()), "lladdr "+e.MAC.String())
		})
	}
	r.change(on, "ep/2", outer, sandbox.Config{})
	r.change(on, "net/1", one, sandbox.Config{})
}
