package sealane_test

import (
	"net/netip"
	"slices"
	"strings"
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

// A driver that publishes ports itself is told which endpoint of a sandbox is its gateway, with its ports: the former one before the next,
// since a host port is of one. It is told when ports change, and that an endpoint is no gateway before that leaves.
func TestDriverThatPublishesIsTold(t *testing.T) {
	ctx := t.Context()
	m := newMachine(t)
	m.acting.Publishes = true
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	defer func() { m.Close() }()
	var on []sealane.Network
	for n, name := range []string{"blue", "red"} {
		net, err := m.CreateNetwork(ctx, sealane.NetworkSpec{ID: endpoint.NetworkID(id(n + 1)), Name: name, Driver: "acting"})
		if err != nil {
			t.Fatal(err)
		}
		on = append(on, net)
	}
	box, err := m.CreateSandbox(ctx, sandbox.Spec{ID: sandbox.ID(id(3)), Name: "box"})
	if err != nil {
		t.Fatal(err)
	}
	publish := func(specs ...string) {
		t.Helper()
		err := m.ChangePorts(ctx, box.ID(), func(p *endpoint.Ports, _ []endpoint.PortBinding) error {
			p.Publish = ports(t, specs...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	join := func(n int) endpoint.Endpoint {
		t.Helper()
		e, err := on[n].CreateEndpoint(ctx, endpoint.Spec{ID: endpoint.ID(id(n + 4)), Name: "box", Priority: n})
		if err == nil {
			err = e.Join(ctx, box)
		}
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	gateway := func(when string, want ...string) {
		t.Helper()
		m.idle()
		var held []string
		for _, line := range strings.Split(m.acting.Held(), "\n") {
			if _, ports, is := strings.Cut(line, ", gateway "); is {
				held = append(held, line[len("endpoint "):len("endpoint ")+2]+" "+ports)
			}
		}
		if !slices.Equal(held, want) {
			t.Fatalf("%s: the driver has the gateways %q, want %q", when, held, want)
		}
	}
	publish("8080:80")
	join(0)
	gateway("one network", "04 [8080:80/tcp]")
	red := join(1)
	gateway("a better one", "05 [8080:80/tcp]")
	publish("8080:80", "8081:80")
	gateway("more ports", "05 [8080:80/tcp 8081:80/tcp]")
	m.restart()
	gateway("a restart", "05 [8080:80/tcp 8081:80/tcp]")
	net, err := m.Network(ctx, "red")
	if err != nil {
		t.Fatal(err)
	}
	if red, err = net.Endpoint(ctx, string(red.ID())); err != nil {
		t.Fatal(err)
	}
	if err := red.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	gateway("the better one left", "04 [8080:80/tcp 8081:80/tcp]")
	if terms := m.state(); strings.Contains(terms, "8080/tcp ->") {
		t.Errorf("we publish them too:\n%s", terms)
	}
}
