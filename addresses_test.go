package sealane_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
)

// slow is an address driver whose refusals are long under way.
type slow struct {
	ipam.Driver
	refused func()
}

func (s slow) RequestAddress(ctx context.Context, r ipam.AddressRequest) (ipam.Address, error) {
	a, err := s.Driver.RequestAddress(ctx, r)
	if err != nil {
		s.refused()
	}
	return a, err
}

// An address that its last endpoint has let go of is given to the next, though it comes back to the pool just after the pool refused it.
func TestAddressComesBackAsItIsRefused(t *testing.T) {
	ctx := t.Context()
	m := newMachine(t)
	held := make(chan struct{})
	m.walls.Fault = func(deed string) error {
		if deed == "forget" { // what withdrawn addresses wait for
			<-held
		}
		return nil
	}
	refused := 0
	m.addresses = func(d ipam.Driver) ipam.Driver {
		return slow{d, func() {
			refused++
			close(held)
			m.idle() // the address is free now
		}}
	}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	n := must(m.CreateNetwork(ctx, sealane.NetworkSpec{Name: "blue"}))
	first := must(n.CreateEndpoint(ctx, endpoint.Spec{}))
	addresses := must(first.Info(ctx)).Addresses
	if err := first.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := n.CreateEndpoint(ctx, endpoint.Spec{Addresses: []netip.Prefix{addresses[0]}}); err != nil {
		t.Error(err)
	}
	if refused != 1 {
		t.Errorf("refused %d times: this test shows nothing", refused)
	}
}
