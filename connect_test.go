package sealane_test

import (
	"context"
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
