package sealane_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/sandbox"
)

// TestLeasedAddressIsForgotten: an address that a front end gives back is given to nobody before connection tracking has forgotten whose it was,
// however the endpoint went.
func TestLeasedAddressIsForgotten(t *testing.T) {
	ctx := t.Context()
	m := newMachine(t)
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	addresses := must(m.IPAM(""))
	pool := must(addresses.RequestPool(ctx, ipam.PoolRequest{Subnet: netip.MustParsePrefix("10.9.0.0/24"), Owner: "front end"}))
	blue := must(m.CreateNetwork(ctx, sealane.NetworkSpec{Name: "blue", IPAM: sealane.IPAM{Subnets: []sealane.SubnetSpec{{Subnet: pool.Subnet, Pool: pool.ID}}}}))
	for i, joined := range []bool{true, false} {
		given := must(addresses.RequestAddress(ctx, ipam.AddressRequest{Pool: pool.ID, Owner: "front end"})).Prefix
		ep := must(blue.CreateEndpoint(ctx, endpoint.Spec{ID: endpoint.ID(id(i)), Addresses: []netip.Prefix{given}, Leased: true, ByAddress: true}))
		if joined {
			must(m.JoinForeign(ctx, blue.ID(), ep.ID(), sandbox.Spec{ID: sandbox.ID(id(9)), Name: "box", Namespace: sandbox.Origin{Foreign: true}}))
		}
		err := m.DeleteForeign(ctx, blue.ID(), ep.ID())
		if err == nil {
			err = addresses.ReleaseAddress(ctx, pool.ID, given.Addr())
		}
		if err != nil {
			t.Fatal(err)
		}
		again, err := addresses.RequestAddress(ctx, ipam.AddressRequest{Pool: pool.ID, Address: given.Addr(), Owner: "somebody else"})
		if got := m.walls.Forgotten(); err != nil || again.Prefix != given || !slices.Contains(got, given.Addr()) {
			t.Errorf("%s is given again (joined: %v) as %v, %v, and forgotten is %v", given, joined, again, err, got)
		}
	}
}

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
