package sealane_test

import (
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/sandbox"
)

// A front end that moves links itself makes no sandboxes: they come and go with their endpoints.
func TestForeign(t *testing.T) {
	m := newMachine(t)
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	on := must(m.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: "blue"})).ID()
	address := must(must(m.Network(t.Context(), "blue")).Info(t.Context())).Subnets[0].Gateway.Addr().Next()
	spec := func(n int) endpoint.Spec {
		return endpoint.Spec{ID: endpoint.ID(id(n)), Addresses: []netip.Prefix{netip.PrefixFrom(address, 16)}, Leased: true, ByAddress: true}
	}
	blue := must(m.Network(t.Context(), "blue"))
	if _, err := blue.CreateEndpoint(t.Context(), spec(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := blue.CreateEndpoint(t.Context(), spec(2)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("an address that another has: %v", err)
	}
	if by, err := m.Holder(t.Context(), on, address); err != nil || by != endpoint.ID(id(1)) {
		t.Errorf("%s is found by %s: %q, %v", id(1), address, by, err)
	}
	other := must(m.CreateSandbox(t.Context(), sandbox.Spec{ID: sandbox.ID(id(8)), Name: "taken"}))
	good := sandbox.Spec{ID: sandbox.ID(id(9)), Name: "box", Namespace: sandbox.Origin{Foreign: true}}
	for what, test := range map[string]struct {
		change func(*sandbox.Spec)
		is     func(error) bool
	}{
		"no id":               {func(s *sandbox.Spec) { s.ID = "" }, errdefs.IsInvalidArgument},
		"a namespace of ours": {func(s *sandbox.Spec) { s.Namespace.Foreign = false }, errdefs.IsInvalidArgument},
		"sysctls":             {func(s *sandbox.Spec) { s.Sysctls = map[string]string{"net.x": "1"} }, errdefs.IsInvalidArgument},
		"another's id":        {func(s *sandbox.Spec) { s.ID = other.ID() }, errdefs.IsAlreadyExists},
		"another's name":      {func(s *sandbox.Spec) { s.Name = "taken" }, errdefs.IsAlreadyExists},
	} {
		s := good
		test.change(&s)
		if _, err := m.JoinForeign(t.Context(), on, endpoint.ID(id(1)), s); !test.is(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := m.Sandbox(t.Context(), "box"); !errdefs.IsNotFound(err) {
		t.Errorf("a sandbox is left of what was refused: %v", err)
	}
	for range 2 {
		if a, err := m.JoinForeign(t.Context(), on, endpoint.ID(id(1)), good); err != nil || a.Link.Arrives == "" {
			t.Errorf("join: %+v, %v", a, err)
		}
	}
	for _, is := range []func(error) bool{func(err error) bool { return err == nil }, errdefs.IsNotFound} {
		if err := m.DeleteForeign(t.Context(), on, endpoint.ID(id(1))); !is(err) {
			t.Errorf("delete: %v", err)
		}
	}
	if _, err := m.Sandbox(t.Context(), "box"); !errdefs.IsNotFound(err) {
		t.Errorf("the sandbox did not go with its last endpoint: %v", err)
	}
}
