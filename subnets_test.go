package sealane_test

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
)

// A subnet that nobody named, and that an unused network on demand only keeps, is given up to who names it, as an engine does that saw no route to it.
func TestOnDemandMakesWay(t *testing.T) {
	w := newWorld(t)
	spare := w.network(sealane.NetworkSpec{Name: "spare", OnDemand: true})
	subnet := func(n sealane.Network) netip.Prefix {
		t.Helper()
		info, err := n.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.Subnets[0].Pool.Subnet
	}
	of := func(p netip.Prefix) sealane.IPAM { return sealane.IPAM{Subnets: []sealane.SubnetSpec{{Subnet: p}}} }
	was := subnet(spare)
	named := w.network(sealane.NetworkSpec{Name: "named", IPAM: of(was)})
	now := subnet(spare)
	if now == was || subnet(named) != was {
		t.Fatalf("spare had %s and has %s, named has %s", was, now, subnet(named))
	}
	w.restart()
	if again := subnet(w.named("spare")); again != now {
		t.Errorf("after a start spare has %s, had %s", again, now)
	}
	c := w.container("c", nil, w.named("spare"))
	spec := sealane.NetworkSpec{Name: "late", IPAM: of(now)}
	if _, err := w.CreateNetwork(t.Context(), spec); !errdefs.IsAlreadyExists(err) {
		t.Errorf("the subnet of a network that is used: %v", err)
	}
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.named("named").Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept := w.network(sealane.NetworkSpec{Name: "kept", OnDemand: true, IPAM: of(was)})
	spec = sealane.NetworkSpec{Name: "late", IPAM: of(subnet(kept))}
	if _, err := w.CreateNetwork(t.Context(), spec); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a subnet that was named: %v", err)
	}
}
