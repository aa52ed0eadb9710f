package drivertest_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/netdriver/drivertest"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/sandboxtest"
)

func endpoints() []endpoint.Info {
	var all []endpoint.Info
	for _, a := range []string{"10.1.0.2/24", "10.1.0.3/24"} {
		p := netip.MustParsePrefix(a)
		all = append(all, endpoint.Info{ID: endpoint.ID("e" + p.Addr().String()[7:]), Addresses: []netip.Prefix{p}, MAC: endpoint.MAC(p.Addr()), Key: "/n"})
	}
	return all
}

func input() netdriver.Input {
	return netdriver.Input{Network: netdriver.Network{ID: "n1", Name: "blue", Subnets: []netdriver.Subnet{{Gateway: netip.MustParsePrefix("10.1.0.1/24")}}}}
}

func TestActing(t *testing.T) {
	f := drivertest.Fixtures{Input: input(), Endpoints: endpoints(), Bad: []drivertest.Bad{{Options: map[string]string{"bad": "x"}, Names: "bad"}}}
	for _, e := range f.Endpoints {
		f.Links = append(f.Links, sandbox.Link{Name: "act" + string(e.ID), MAC: e.MAC, Down: true, Tap: &sandbox.Tap{}})
	}
	drivertest.Run(t, func(testing.TB) netdriver.Driver { return drivertest.NewActing() }, f)
}

func TestActingHolds(t *testing.T) {
	ctx, in, e := t.Context(), input(), endpoints()[0]
	a := drivertest.NewActing()
	a.Kernel = sandboxtest.NewFake()
	if _, err := a.CreateEndpoint(ctx, in, e); !errdefs.IsNotFound(err) {
		t.Errorf("an endpoint of an unknown network: %v", err)
	}
	if _, err := a.CreateNetwork(ctx, in); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Join(ctx, in, e); !errdefs.IsNotFound(err) {
		t.Errorf("join an unknown endpoint: %v", err)
	}
	if _, err := a.CreateEndpoint(ctx, in, e); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	a.Fault = func(op string) error {
		if op == "join "+string(e.ID)+", done" {
			return broken
		}
		return nil
	}
	if _, err := a.Join(ctx, in, e); !errors.Is(err, broken) {
		t.Errorf("a fault after the deed: %v", err)
	}
	a.Fault = nil
	if want := "endpoint e2 of n1 joined\nnetwork n1\n"; a.Held() != want {
		t.Errorf("holds %q, want %q", a.Held(), want)
	}
	if err := a.DeleteEndpoint(ctx, in.Network, e); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete a joined endpoint: %v", err)
	}
	if err := a.DeleteNetwork(ctx, in.Network); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete a network with endpoints: %v", err)
	}
	plan, err := a.Join(ctx, in, e)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Kernel.Links(""); !slices.Equal(got, []string{plan.Attachment.Link.Arrives}) {
		t.Errorf("links on the host: %v, arrives %s", got, plan.Attachment.Link.Arrives)
	}
	if err := errors.Join(a.Leave(ctx, in.Network, e), a.DeleteEndpoint(ctx, in.Network, e), a.DeleteNetwork(ctx, in.Network)); err != nil {
		t.Error(err)
	}
	if a.Held() != "" || len(a.Kernel.Links("")) != 0 {
		t.Errorf("holds %q, links %v", a.Held(), a.Kernel.Links(""))
	}
	calls := a.Calls()
	if got := calls[len(calls)-1]; got != "delete network n1" || len(calls) != 11 {
		t.Errorf("%d calls, the last %q", len(calls), got)
	}
}
