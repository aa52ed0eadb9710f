package netns_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/sealane/sealane/sandbox"
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
