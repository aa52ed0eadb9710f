package sealane_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/sandbox"
)

// TestCreateConnected makes sandboxes on a network of a driver that computes and on one of a driver that acts; what is refused leaves nothing.
func TestCreateConnected(t *testing.T) {
	ctx := t.Context()
	m := newMachine(t)
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i, driver := range []string{"bridge", "acting"} {
		if _, err := m.CreateNetwork(ctx, sealane.NetworkSpec{ID: endpoint.NetworkID(id(i + 1)), Name: driver, Driver: driver}); err != nil {
			t.Fatal(err)
		}
	}
	before := m.state()
	http, _ := endpoint.ParsePort("8080:80")
	publish := endpoint.Ports{Publish: []endpoint.PortBinding{http}}
	both := []sealane.Connection{{Network: endpoint.NetworkID(id(1))}, {Network: endpoint.NetworkID(id(2))}}
	create := func(s sandbox.Spec, p endpoint.Ports, to ...sealane.Connection) error {
		_, err := m.CreateConnected(ctx, s, p, to...)
		return err
	}
	box := sandbox.Spec{ID: sandbox.ID(id(3)), Name: "box"}
	m.acting.Fault = func(op string) error {
		if strings.HasPrefix(op, "join") {
			return errInjected
		}
		return nil
	}
	if err := create(box, publish, both...); err == nil {
		t.Error("made though a driver refused")
	}
	m.acting.Fault = nil
	if after := m.state(); after != before {
		t.Errorf("a driver refused: before\n%s\nafter\n%s", before, after)
	}
	if err := create(box, publish, both...); err != nil {
		t.Fatal(err)
	}
	names := map[endpoint.NetworkID]string{}
	for e, err := range m.Endpoints(ctx, box.ID) {
		if err != nil || e.Sandbox != box.ID || e.Spec.For != box.ID {
			t.Errorf("endpoint %+v: %v", e, err)
		}
		names[e.Network] = e.Spec.Name
	}
	if len(names) != 2 || names[both[0].Network] != "box" || names[both[1].Network] != "box" {
		t.Errorf("endpoints %v", names)
	}
	made := m.state()
	for name, test := range map[string]struct {
		err error
		is  func(error) bool
	}{
		"name":     {create(sandbox.Spec{Name: "box"}, endpoint.Ports{}, both...), errdefs.IsAlreadyExists},
		"id":       {create(sandbox.Spec{ID: box.ID, Name: "other"}, endpoint.Ports{}, both...), errdefs.IsAlreadyExists},
		"endpoint": {create(sandbox.Spec{Name: "other"}, endpoint.Ports{}, sealane.Connection{Network: both[0].Network, Endpoint: endpoint.Spec{Name: "box"}}), errdefs.IsAlreadyExists},
		"port":     {create(sandbox.Spec{Name: "other"}, publish, both[0]), errdefs.IsAlreadyExists},
		"network":  {create(sandbox.Spec{Name: "other"}, endpoint.Ports{}, sealane.Connection{Network: endpoint.NetworkID(id(9))}), errdefs.IsNotFound},
		"host":     {create(sandbox.Spec{Name: "other", Namespace: sandbox.Origin{Host: true}}, endpoint.Ports{}, both[0]), errdefs.IsInvalidArgument},
	} {
		if !test.is(test.err) {
			t.Errorf("%s: %v", name, test.err)
		}
	}
	if after := m.state(); after != made {
		t.Errorf("refused: before\n%s\nafter\n%s", made, after)
	}
	if err := must(m.Sandbox(context.Background(), "box")).Delete(ctx); err != nil {
		t.Error(err)
	}
	if after := m.state(); after != before {
		t.Errorf("deleted: before\n%s\nafter\n%s", before, after)
	}
}

// TestCreateConnectedAgain asks for the same once more, as after a lost answer: what is there keeps its addresses.
func TestCreateConnectedAgain(t *testing.T) {
	ctx := t.Context()
	m := newMachine(t)
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	blue := must(m.CreateNetwork(ctx, sealane.NetworkSpec{Name: "blue", IPAM: subnets("10.1.0.0/24")}))
	at := []netip.Prefix{netip.MustParsePrefix("10.1.0.9/24")}
	connection := sealane.Connection{Network: blue.ID(), Endpoint: endpoint.Spec{ID: endpoint.ID(id(4)), Addresses: at}}
	for i, name := range []string{"box", "box", "other"} {
		_, err := m.CreateConnected(ctx, sandbox.Spec{ID: sandbox.ID(id(5 + i/2)), Name: name}, endpoint.Ports{}, connection)
		if errdefs.IsAlreadyExists(err) != (i > 0) || err != nil && i == 0 {
			t.Errorf("%s, time %d: %v", name, i+1, err)
		}
		if !m.Idle(ctx) {
			t.Fatal("addresses are still on their way back")
		}
	}
	if e, err := blue.CreateEndpoint(ctx, endpoint.Spec{Name: "another", Addresses: at}); !errdefs.IsAlreadyExists(err) {
		t.Errorf("%v: its address is given to %v, %v", connection.Endpoint.ID, e, err)
	}
}
