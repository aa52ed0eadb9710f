package sealane_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox"
)

// An address that comes back, with its own MAC or with another, is reached at once by a neighbour and by the host who knew the last one.
func TestAddressThatComesBackIsReachedAtOnce(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true, IPAM: subnets("10.1.0.0/24", "fd00:1::/64")})
	neighbour := w.container("neighbour", nil, blue)
	addresses := []netip.Prefix{prefix("10.1.0.9/24"), prefix("fd00:1::9/64")}
	derived := endpoint.MAC(addresses[0].Addr())
	for _, c := range []struct {
		name string
		mac  net.HardwareAddr // nil: derived
	}{
		{"first", nil}, {"with its own", nil}, {"with another", net.HardwareAddr{2, 0x42, 1, 1, 1, 1}},
		{"with a third", net.HardwareAddr{2, 0x42, 2, 2, 2, 2}}, {"with the third again", net.HardwareAddr{2, 0x42, 2, 2, 2, 2}},
		{"with its own again", nil}, {"with its own once more", nil},
	} {
		s := w.sandbox(sandbox.Spec{Name: "back"})
		s.join(blue, endpoint.Spec{Name: "back", Addresses: addresses, MAC: c.mac})
		want := derived
		if c.mac != nil {
			want = c.mac
		}
		for from, device := range map[*nstest.Host]string{neighbour.as(): "eth0", w.host: "sl-" + string(blue.ID())[:12]} {
			for _, a := range addresses {
				if err := pings(from, a.Addr()); err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				if known := from.Run("ip", "neigh", "show", a.Addr().String(), "dev", device); !strings.Contains(known, want.String()) {
					t.Errorf("%s: %s knows %s as %q, want %s", c.name, from.Name, a.Addr(), known, want)
				}
			}
		}
		if err := s.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		if known := neighbour.as().Run("ip", "neigh", "show", addresses[0].Addr().String()); !strings.Contains(known, want.String()) {
			t.Errorf("%s: the neighbour's cache is not warm: %q", c.name, known)
		}
	}
}
