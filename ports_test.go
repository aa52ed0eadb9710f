package sealane_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/sandbox"
)

// publish sets what a sandbox publishes by whichever of its endpoints is its gateway.
func (c *container) publish(specs ...string) error {
	return c.world.ChangePorts(c.world.t.Context(), c.ID(), func(p *endpoint.Ports, _ []endpoint.PortBinding) error {
		p.Publish = ports(c.world.t, specs...)
		return nil
	})
}

// The ports of a sandbox are its own: they wait for a network, follow the gateway, are there again after a restart, and go with it.
func TestPortsOfASandbox(t *testing.T) {
	w := newWorld(t)
	blue, red := w.network(sealane.NetworkSpec{Name: "blue"}), w.network(sealane.NetworkSpec{Name: "red"})
	c := w.sandbox(sandbox.Spec{Name: "c"})
	firewalltest.Serve(t, c.as(), 80)
	answers := func(when string, port uint16, want bool) {
		t.Helper()
		seen := netip.Addr{}
		if want {
			seen = addr("192.0.2.1")
		}
		firewalltest.Call(t, w.outside, firewall.TCP, netip.AddrPortFrom(addr("192.0.2.2"), port), seen)
		if t.Failed() {
			t.Fatalf("%s: port %d", when, port)
		}
	}
	if err := c.publish("8080:80"); err != nil {
		t.Fatal(err)
	}
	answers("on no network", 8080, false)
	on := c.join(red, endpoint.Spec{Name: "c"})
	answers("on red", 8080, true)
	c.join(blue, endpoint.Spec{Name: "c", Priority: 1})
	answers("by way of blue", 8080, true)
	if err := c.publish("8080:80", "8081:80"); err != nil {
		t.Fatal(err)
	}
	answers("two", 8080, true)
	answers("two", 8081, true)
	w.restart()
	c.again()
	answers("after a restart", 8081, true)
	if err := c.publish("8081:80"); err != nil {
		t.Fatal(err)
	}
	answers("one again", 8080, false)
	answers("one again", 8081, true)
	for _, e := range c.endpoints {
		if err := e.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	answers("on no network again", 8081, false)
	n := w.named("red")
	e, err := n.Endpoint(t.Context(), string(on.ID()))
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Join(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	answers("on red again", 8081, true)
	if err := c.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Ports(t.Context(), c.ID()); !errdefs.IsNotFound(err) {
		t.Errorf("ports of a sandbox that is gone: %v", err)
	}
	other := w.container("other", nil, n)
	if err := other.publish("8081:80"); err != nil {
		t.Errorf("the ports of a sandbox that is gone are taken: %v", err)
	}
}

func TestPortsThatCannotBeChanged(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue"})
	c, other := w.container("c", nil, blue), w.container("other", ports(t, "7000:80"), blue)
	if err := c.publish("8080:80"); err != nil {
		t.Fatal(err)
	}
	shared := w.sandbox(sandbox.Spec{Name: "shared", Namespace: sandbox.Origin{Share: c.ID()}})
	hosts := w.sandbox(sandbox.Spec{Name: "hosts", Namespace: sandbox.Origin{Host: true}})
	refuses(t, w, "AlreadyExists", func() error { return c.publish("8081:81", "7000:80") })
	refuses(t, w, "AlreadyExists", func() error { return other.publish("8080:80") })
	refuses(t, w, "InvalidArgument", func() error { return shared.publish("8081:80") })
	refuses(t, w, "InvalidArgument", func() error { return hosts.publish("8081:80") })
	refuses(t, w, "NotFound", func() error { return (&container{Sandbox: gone{}, world: w}).publish("8081:80") })
	refuses(t, w, "InvalidArgument", func() error {
		return w.ChangePorts(t.Context(), c.ID(), func(p *endpoint.Ports, given []endpoint.PortBinding) error {
			if !slices.Equal(given, ports(t, "8080:80")) {
				t.Errorf("given %v", given)
			}
			p.Publish = append(p.Publish, endpoint.PortBinding{}, endpoint.PortBinding{Proto: firewall.TCP})
			return nil
		})
	})
	if p, err := w.Ports(t.Context(), c.ID()); err != nil || !slices.Equal(p.Publish, ports(t, "8080:80")) {
		t.Errorf("ports after refusals: %v, %v", p, err)
	}
}

// gone is a sandbox that is not there.
type gone struct{ sandbox.Sandbox }

func (gone) ID() sandbox.ID { return "gone" }
