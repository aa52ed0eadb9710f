package sealane_test

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
)

// TestCrashWhileAPoolIsTakenOver makes a network that takes over a front end's pool crash at each touch. After it the network is there and
// has the pool, or the front end has it, and the network can be made.
func TestCrashWhileAPoolIsTakenOver(t *testing.T) {
	ctx := t.Context()
	for at := 1; ; at++ {
		m := newMachine(t)
		if err := m.start(); err != nil {
			t.Fatal(err)
		}
		pool := must(must(m.IPAM("")).RequestPool(ctx, ipam.PoolRequest{Subnet: netip.MustParsePrefix("10.9.0.0/24"), Owner: "front end"}))
		spec := sealane.NetworkSpec{ID: endpoint.NetworkID(id(1)), Name: "blue", IPAM: sealane.IPAM{Subnets: []sealane.SubnetSpec{{Subnet: pool.Subnet, Pool: pool.ID}}}}
		m.arm(at, true)
		_, first := m.CreateNetwork(ctx, spec)
		touches := m.disarm()
		m.restart()
		wanted := spec.ID
		if _, err := m.Network(ctx, id(1)); errdefs.IsNotFound(err) {
			wanted = ""
		}
		if l, err := m.LeasedPool(ctx, "", pool.ID); err != nil || l.Network != wanted {
			t.Errorf("crash at touch %d of %d (%v): network %q has the pool, want %q, %v", at, touches, first, l.Network, wanted, err)
		}
		if _, err := m.CreateNetwork(ctx, spec); (err != nil) != (wanted != "") {
			t.Errorf("crash at touch %d of %d (%v): again: %v", at, touches, first, err)
		}
		m.Close()
		if touches < at {
			return
		}
	}
}
