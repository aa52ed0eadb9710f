package sealane_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/bolt"
	"github.com/sealane/sealane/drivers"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/netdriver/drivertest"
	"github.com/sealane/sealane/remote"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
)

// world is a host with a Controller on real rooms, and a machine outside that it can reach.
type world struct {
	*sealane.Controller
	t             *testing.T
	host, outside *nstest.Host
	dir, instance string
	ready         int
	quarantined   bool
	etc           string   // directory of the host's files; "": there is no resolver, and there are no files of sandboxes
	shares        *sharing // what it is of a cluster; nil: alone
	plugins       string   // directory of plugins' sockets; "": there are none
	spaces        *netns.Provider
	walls         *nftables.Opener
	closers       []func() error
}

// newWorld connects the host (192.0.2.2, 2001:db8::2) and the outside (.1, ::1).
func newWorld(t *testing.T) *world {
	t.Helper()
	nstest.MustNotLeak(t)
	w := newHosts(t)
	w.host.MustReturn()
	w.start()
	t.Cleanup(w.stop)
	return w
}

// newHosts is a world without a Controller. The host's settings for new links are such that none comes to have an address while an
// inventory is taken.
func newHosts(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, host: nstest.New(t, "host"), outside: nstest.New(t, "outside"), dir: runDir(t)}
	for _, h := range []*nstest.Host{w.host, w.outside} {
		h.Sysctl("ipv6/conf/default/addr_gen_mode", "1")
	}
	nstest.Connect(w.host, w.outside,
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")})
	return w
}

// beside is another instance on the same host.
func (w *world) beside(instance string) *world {
	w.t.Helper()
	other := &world{t: w.t, host: w.host, outside: w.outside, dir: runDir(w.t), instance: instance}
	other.start()
	w.t.Cleanup(other.stop)
	return other
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
	if err := w.tryStart(); err != nil {
		w.t.Fatal(err)
	}
}

// tryStart is start that may fail; then nothing is open.
func (w *world) tryStart() (err error) {
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	if w.spaces, err = netns.New(netns.Options{Host: w.host.Path(), Run: w.dir, Ready: w.ready, Instance: w.instance}); err != nil {
		return err
	}
	w.closers = []func() error{func() error { return w.spaces.Drain(context.Background()) }, w.spaces.Close}
	if w.walls, err = nftables.New(nftables.Options{Host: w.host.Path(), Instance: w.instance}); err != nil {
		return err
	}
	addresses, err := pool.New(pool.Options{HostID: "test"})
	if err != nil {
		return err
	}
	stores := map[string]datastore.Store{}
	for _, name := range []string{"run.db", "root.db"} {
		s, err := bolt.Open(filepath.Join(w.dir, name), bolt.Options{NoSync: true})
		if err != nil {
			return err
		}
		stores[name] = s
		w.closers = append(w.closers, s.Close)
	}
	names, files, err := w.openNames()
	if err != nil {
		return err
	}
	o := sealane.Options{
		Resolver: names, Files: files,
		Instance: w.instance, Run: stores["run.db"], Root: stores["root.db"], Spaces: w.spaces, Firewalls: w.walls, Drivers: drivers.All(),
		IPAM: map[string]ipam.Driver{"default": addresses}, Quarantined: w.quarantined,
	}
	if w.plugins != "" {
		found := remote.New(remote.Options{Sockets: w.plugins})
		w.closers, o.Find = append(w.closers, found.Close), found.Find
	}
	if w.shares != nil {
		if err := w.shares.options(&o); err != nil {
			return err
		}
	}
	w.Controller, err = sealane.New(context.Background(), o)
	return err
}

func (w *world) stop() {
	w.t.Helper()
	if w.Controller == nil {
		return // it did not come back from a restart
	}
	if err := w.Close(); err != nil {
		w.t.Error(err)
	}
	w.Controller = nil
	w.close()
}

func (w *world) close() {
	w.t.Helper()
	for _, closer := range w.closers {
		if err := closer(); err != nil {
			w.t.Error(err)
		}
	}
	w.closers = nil
}

// restart is what a daemon that stops and starts again does.
func (w *world) restart() {
	w.t.Helper()
	w.stop()
	w.start()
}

// rest waits until nothing is under way in the background.
func (w *world) rest() {
	w.t.Helper()
	ctx := context.Background()
	w.Idle(ctx)
	if err := errors.Join(w.spaces.Drain(ctx), w.walls.Drain(ctx)); err != nil {
		w.t.Error(err)
	}
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

// named looks a network up, as is needed after a restart.
func (w *world) named(name string) sealane.Network {
	w.t.Helper()
	n, err := w.Network(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// container makes a sandbox with a namespace of ours and an endpoint on each network, and goes with the test.
func (w *world) container(name string, publish []endpoint.PortBinding, on ...sealane.Network) *container {
	w.t.Helper()
	c := w.sandbox(sandbox.Spec{Name: name})
	for _, n := range on {
		c.join(n, endpoint.Spec{Name: name, Publish: publish})
	}
	return c
}

// sandbox makes a sandbox that goes with the test.
func (w *world) sandbox(spec sandbox.Spec) *container {
	w.t.Helper()
	s, err := w.CreateSandbox(w.t.Context(), spec)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if s, err := w.Sandbox(context.Background(), string(s.ID())); err == nil {
			if err := s.Delete(context.Background()); err != nil && !errdefs.IsNotFound(err) { // its namespace may end meanwhile
				w.t.Error(err)
			}
		}
	})
	return &container{Sandbox: s, world: w}
}

// container is a sandbox and what was joined to it.
type container struct {
	sandbox.Sandbox
	world     *world
	endpoints []endpoint.Endpoint
	entered   sync.Once
	host      *nstest.Host // once entered
}

// join makes an endpoint for the container and joins it.
func (c *container) join(n sealane.Network, spec endpoint.Spec) endpoint.Endpoint {
	c.world.t.Helper()
	spec.For = c.ID()
	e, err := n.CreateEndpoint(c.world.t.Context(), spec)
	if err == nil {
		err = e.Join(c.world.t.Context(), c)
	}
	if err != nil {
		c.world.t.Fatal(err)
	}
	c.endpoints = append(c.endpoints, e)
	return e
}

// again looks the container and its endpoints up after a restart.
func (c *container) again() {
	c.world.t.Helper()
	ctx := c.world.t.Context()
	var err error
	if c.Sandbox, err = c.world.Sandbox(ctx, string(c.ID())); err != nil {
		c.world.t.Fatal(err)
	}
	c.endpoints = nil
	for e, err := range c.world.Endpoints(ctx, c.ID()) {
		if err != nil {
			c.world.t.Fatal(err)
		}
		n, err := c.world.Network(ctx, string(e.Network))
		if err != nil {
			c.world.t.Fatal(err)
		}
		h, err := n.Endpoint(ctx, string(e.ID))
		if err != nil {
			c.world.t.Fatal(err)
		}
		c.endpoints = append(c.endpoints, h)
	}
}

// address is its address of a family on its first network.
func (c *container) address(six bool) netip.Addr {
	c.world.t.Helper()
	return c.addressOn(0, six)
}

// addressOn is its address of a family on the network it joined as the n-th.
func (c *container) addressOn(n int, six bool) netip.Addr {
	c.world.t.Helper()
	info, err := c.endpoints[n].Info(c.world.t.Context())
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

// as is the container as a host of the test kit. It keeps the namespace alive until the test ends.
func (c *container) as() *nstest.Host {
	c.world.t.Helper()
	c.entered.Do(func() {
		info, err := c.Info(c.world.t.Context())
		if err != nil {
			c.world.t.Fatal(err)
		}
		c.host = nstest.At(c.world.t, info.Spec.Name, info.Key)
	})
	return c.host
}

func (c *container) pings(a netip.Addr) error { return pings(c.as(), a) }

// pings sends one ping, which must be answered.
func pings(from *nstest.Host, to netip.Addr) error { return ping(from, to, 10) }

// reaches says whether a ping is answered within a second.
func reaches(from *nstest.Host, to netip.Addr) bool { return ping(from, to, 1) == nil }

func ping(from *nstest.Host, to netip.Addr, seconds int) error {
	out, err := from.Try("ping", "-c1", fmt.Sprint("-W", seconds), to.String())
	if err != nil {
		return fmt.Errorf("%s to %s: %w: %s", from.Name, to, err, out)
	}
	return nil
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// subnets names a network's subnets.
func subnets(cidrs ...string) sealane.IPAM {
	var m sealane.IPAM
	for _, s := range cidrs {
		m.Subnets = append(m.Subnets, sealane.SubnetSpec{Subnet: prefix(s)})
	}
	return m
}

func ports(t testing.TB, specs ...string) []endpoint.PortBinding {
	t.Helper()
	return drivertest.Ports(t, specs...)
}

// sandboxAt is a sandbox in a namespace of somebody else's.
func sandboxAt(name, path string) sandbox.Spec {
	return sandbox.Spec{Name: name, Namespace: sandbox.Origin{Path: path}}
}
