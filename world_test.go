package sealane_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore/bolt"
	"github.com/sealane/sealane/drivers"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
)

// world is a host with a Controller on real rooms, and a machine outside that it can reach.
type world struct {
	*sealane.Controller
	t             *testing.T
	host, outside *nstest.Host
	dir           string
	ready         int
	spaces        *netns.Provider
	closers       []func() error
}

// newWorld connects the host (192.0.2.2, 2001:db8::2) and the outside (.1, ::1).
func newWorld(t *testing.T) *world {
	t.Helper()
	nstest.MustNotLeak(t)
	w := &world{t: t, host: nstest.New(t, "host"), outside: nstest.New(t, "outside"), dir: runDir(t)}
	nstest.Connect(w.host, w.outside,
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")})
	w.host.MustReturn()
	w.start()
	t.Cleanup(w.stop)
	return w
}

// runDir is on a tmpfs, as a daemon's is.
func runDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealane-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("run directory: %v", err)
		}
	})
	return dir
}

// start opens everything anew, as a daemon does.
func (w *world) start() {
	w.t.Helper()
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	var err error
	w.spaces, err = netns.New(netns.Options{Host: w.host.Path(), Run: w.dir, Ready: w.ready})
	must(err)
	walls, err := nftables.New(nftables.Options{Host: w.host.Path()})
	must(err)
	addresses, err := pool.New(pool.Options{HostID: "test"})
	must(err)
	run, err := bolt.Open(filepath.Join(w.dir, "run.db"), bolt.Options{NoSync: true})
	must(err)
	root, err := bolt.Open(filepath.Join(w.dir, "root.db"), bolt.Options{NoSync: true})
	must(err)
	w.closers = []func() error{func() error { return w.spaces.Drain(context.Background()) }, w.spaces.Close, run.Close, root.Close}
	w.Controller, err = sealane.New(w.t.Context(), sealane.Options{
		Run: run, Root: root, Spaces: w.spaces, Firewalls: walls, Drivers: drivers.All(),
		IPAM: map[string]ipam.Driver{"default": addresses},
	})
	must(err)
}

func (w *world) stop() {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Error(err)
	}
	for _, closer := range w.closers {
		if err := closer(); err != nil {
			w.t.Error(err)
		}
	}
	w.closers = nil
}

// network makes a network that goes with the test.
func (w *world) network(s sealane.NetworkSpec) sealane.Network {
	w.t.Helper()
	n, err := w.CreateNetwork(w.t.Context(), s)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if n, err := w.Network(context.Background(), string(n.ID())); err == nil {
			if err := n.Delete(context.Background()); err != nil {
				w.t.Error(err)
			}
		}
	})
	return n
}

// container makes a sandbox with a namespace of ours and an endpoint on each network, and goes with the test.
func (w *world) container(name string, publish []endpoint.PortBinding, on ...sealane.Network) *container {
	w.t.Helper()
	s, err := w.CreateSandbox(w.t.Context(), sandbox.Spec{Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if s, err := w.Sandbox(context.Background(), string(s.ID())); err == nil {
			if err := s.Delete(context.Background()); err != nil {
				w.t.Error(err)
			}
		}
	})
	c := &container{world: w, Sandbox: s}
	for _, n := range on {
		e, err := n.CreateEndpoint(w.t.Context(), endpoint.Spec{Name: name, For: s.ID(), Publish: publish})
		if err == nil {
			err = e.Join(w.t.Context(), s)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		c.endpoints = append(c.endpoints, e)
	}
	return c
}

type container struct {
	sandbox.Sandbox
	world     *world
	endpoints []endpoint.Endpoint
}

// address is its address of a family on its first network.
func (c *container) address(six bool) netip.Addr {
	c.world.t.Helper()
	info, err := c.endpoints[0].Info(c.world.t.Context())
	if err != nil {
		c.world.t.Fatal(err)
	}
	for _, p := range info.Addresses {
		if p.Addr().Is6() == six {
			return p.Addr()
		}
	}
	c.world.t.Fatalf("no such address among %v", info.Addresses)
	return netip.Addr{}
}

// as is the container as a host of the test kit.
func (c *container) as() *nstest.Host {
	c.world.t.Helper()
	info, err := c.Info(c.world.t.Context())
	if err != nil {
		c.world.t.Fatal(err)
	}
	return nstest.At(c.world.t, info.Spec.Name, info.Key)
}

func (c *container) pings(a netip.Addr) error {
	out, err := c.as().Try("ping", "-c1", "-W1", a.String())
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func ports(t *testing.T, specs ...string) []endpoint.PortBinding {
	t.Helper()
	var all []endpoint.PortBinding
	for _, s := range specs {
		b, err := endpoint.ParsePort(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}
