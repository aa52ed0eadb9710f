package sealane_test

import (
	"net/netip"
	"testing"

	"github.com/sealane/sealane"
)

func TestTwoContainersReachEachOther(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true})
	red := w.network(sealane.NetworkSpec{Name: "red", IPv6: true})
	a, b, other := w.container("a", nil, blue), w.container("b", nil, blue), w.container("other", nil, red)
	for _, six := range []bool{false, true} {
		if err := a.pings(b.address(six)); err != nil {
			t.Errorf("a does not reach b: %v", err)
		}
		if a.pings(other.address(six)) == nil {
			t.Error("a reaches a container of another network")
		}
	}
	for _, outside := range []string{"192.0.2.1", "2001:db8::1"} {
		if err := a.pings(netip.MustParseAddr(outside)); err != nil {
			t.Errorf("a does not reach the outside: %v", err)
		}
	}
}
