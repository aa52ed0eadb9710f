package sealane_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/ipam/block"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// sharing is what a world is of a cluster.
type sharing struct {
	store  datastore.Store
	id     string
	tunnel netip.Addr
}

func (s *sharing) options(o *sealane.Options) error {
	blocks, err := block.New(context.Background(), block.Options{Pool: o.IPAM["default"], Store: s.store, Kept: o.Run, Host: s.id, Patience: 5 * time.Second})
	if err != nil {
		return err
	}
	o.IPAM["default"], o.Cluster, o.Host, o.Hostname, o.Advertise = blocks, s.store, s.id, s.id, s.tunnel
	return nil
}

// newPair is two hosts with real rooms on one store and one underlay, 192.0.2.1 and .2 or 2001:db8::1 and ::2.
func newPair(t *testing.T, six bool) (one, two *world) {
	t.Helper()
	nstest.MustNotLeak(t)
	store := datastore.NewMemory()
	t.Cleanup(func() { _ = store.Close() })
	tunnels := []string{"192.0.2.1", "192.0.2.2"}
	if six {
		tunnels = []string{"2001:db8::1", "2001:db8::2"}
	}
	var worlds []*world
	for i, name := range []string{"one", "two"} {
		w := &world{t: t, host: nstest.New(t, name), dir: runDir(t), shares: &sharing{store, name, addr(tunnels[i])}}
		w.host.Sysctl("ipv6/conf/default/addr_gen_mode", "1")
		worlds = append(worlds, w)
	}
	nstest.Connect(worlds[0].host, worlds[1].host, []netip.Prefix{prefix("192.0.2.1/24"), prefix("2001:db8::1/64")},
		[]netip.Prefix{prefix("192.0.2.2/24"), prefix("2001:db8::2/64")})
	for _, w := range worlds {
		w.outside = w.host
		w.host.MustReturn()
		w.start()
		t.Cleanup(w.stop)
	}
	return worlds[0], worlds[1]
}

// overlay makes a network of both families that both hosts know.
func overlay(t *testing.T, one, two *world, name string) (here, there sealane.Network) {
	t.Helper()
	here = one.network(sealane.NetworkSpec{Name: name, Driver: "overlay", Scope: netdriver.Global, IPv6: true, IPAM: subnets("10.1.0.0/16", "fd00:1::/64")})
	nstest.Eventually(t, "the other host knows the network", func() bool {
		var err error
		there, err = two.Network(t.Context(), name)
		return err == nil
	})
	return here, there
}

// meets waits until one container reaches another: who it is told of follows from the store.
func (c *container) meets(other *container) {
	c.world.t.Helper()
	for _, six := range []bool{false, true} {
		nstest.Eventually(c.world.t, fmt.Sprintf("they reach each other, IPv6 %v", six), func() bool { return reaches(c.as(), other.address(six)) })
	}
}

// A network made on one host is there on the other; containers on both meet, whatever is underneath; a host whose daemon starts again
// stays in; ports are reached at both.
func TestOverlay(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(fmt.Sprintf("underlay of IPv6 %v", six), func(t *testing.T) {
			one, two := newPair(t, six)
			here, there := overlay(t, one, two, "blue")
			web := one.container("web", ports(t, "8080:80"), here)
			db := two.container("db", nil, there)
			db.meets(web)
			web.meets(db)
			l := web.as().Listen("tcp", "[::]:80")
			seen := make(chan string, 1)
			go func() {
				for c, err := l.Accept(); err == nil; c, err = l.Accept() {
					seen <- c.RemoteAddr().String()
					c.Close()
				}
			}()
			for _, to := range []string{"192.0.2.1:8080", "[2001:db8::1]:8080"} {
				c, err := two.host.Dial("tcp", to)
				if err != nil {
					t.Fatal(err)
				}
				c.Close()
				if from := <-seen; !strings.Contains(from, "192.0.2.2") && !strings.Contains(from, "2001:db8::2") {
					t.Errorf("by %s the server sees %s", to, from)
				}
			}
			one.restart()
			web.again()
			db.meets(web)
			late := one.container("late", nil, one.named("blue"))
			db.meets(late)
		})
	}
}

var firsts = flag.Int("firsts", 10, "how many containers talk to another host at once when they have joined")

// Who talks to another host's container as soon as it has joined is answered as soon as that host knows of it: whoever asks for its address
// there a moment too early need not ask again, which in this test would be ten minutes later.
func TestFirstPacket(t *testing.T) {
	one, two := newPair(t, false)
	here, there := overlay(t, one, two, "blue")
	db := two.container("db", nil, there)
	db.as().Run("sysctl", "-qw", "net.ipv4.neigh.eth0.retrans_time_ms=600000")
	l := db.as().Listen("tcp", "0.0.0.0:80")
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Close()
		}
	}()
	to := netip.AddrPortFrom(db.address(false), 80).String()
	var waits []time.Duration
	for i := range *firsts {
		name := fmt.Sprint("web", i)
		c := one.sandbox(sandbox.Spec{Name: name})
		web := c.as()
		c.join(here, endpoint.Spec{Name: name})
		joined := time.Now()
		conn, err := web.Dial("tcp", to)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		waits = append(waits, time.Since(joined))
		conn.Close()
	}
	slices.Sort(waits)
	t.Logf("connected after %v, %v at most", waits[len(waits)/2], waits[len(waits)-1])
}

// A host that lost stores, and whose overlay runs on: what runs is taken over with its names and peers, in namespaces of ours and of others,
// goes on meeting the other hosts, keeps its addresses and can be deleted; while the cluster store is away nobody is given them. Where
// nothing is to be taken over, all of it is replaced.
func TestOverlayAfterLostStore(t *testing.T) {
	for name, c := range map[string]struct {
		lost        []string
		taken, away bool
	}{
		"run":                              {lost: []string{"run.db"}, taken: true},
		"run and root, cluster store away": {lost: []string{"run.db", "root.db"}, taken: true, away: true},
		"run, nothing is taken over":       {lost: []string{"run.db"}},
	} {
		t.Run(name, func(t *testing.T) {
			one, two := newPair(t, false)
			store := newLink(one.shares.store)
			one.shares.store = store
			one.restart()
			here, there := overlay(t, one, two, "blue")
			db := two.container("db", nil, there)
			web := one.container("web", ports(t, "8080:80"), here)
			db.meets(web)
			ran := []*runner{one.runner(web, web.as())}
			if c.taken {
				ran = append(ran, one.visitor("visitor", here), one.moved("moved", here))
			}
			var talk []*nstest.Stream
			one.stop()
			for _, file := range c.lost {
				if err := os.Remove(filepath.Join(one.dir, file)); err != nil {
					t.Fatal(err)
				}
			}
			if c.away {
				store.cut()
			}
			if c.taken {
				for _, r := range ran {
					r.as.Echo("80")
					talk = append(talk, db.as().Stream("udp", netip.AddrPortFrom(r.Addresses[0].Addr(), 80).String()))
				}
			}
			one.quarantined = c.taken
			one.start()
			if c.away {
				store.heal()
			}
			if c.taken {
				one.takenOver(ran, db, there)
				one.quarantined = false
				one.restart() // the next start knows them, and sweeps nothing of theirs
				nstest.EndAll(t, talk)
				for _, r := range ran {
					if err := db.pings(r.Addresses[1].Addr()); err != nil {
						t.Error(err)
					}
				}
				for s, err := range one.Sandboxes(t.Context()) {
					h, herr := one.Sandbox(t.Context(), string(s.ID))
					if err := errors.Join(err, herr); err != nil {
						t.Fatal(err)
					}
					if err := h.Delete(t.Context()); err != nil {
						t.Error(err)
					}
				}
			}
			again := one.container("web", ports(t, "8080:80"), one.named("blue"))
			db.meets(again)
			again.meets(db)
			if err := again.Delete(t.Context()); err != nil {
				t.Error(err)
			}
			nstest.Eventually(t, "the other host knows of none", func() bool { return len(two.Peers(there.ID())) == 0 })
			one.rest()
			if links := one.host.Run("ip", "-o", "link"); strings.Contains(links, "so-") || strings.Contains(links, "sv") {
				t.Errorf("left over:\n%s", links)
			}
			if spaces, err := os.ReadDir(one.dir + "/netns"); err != nil || len(spaces) > 0 {
				t.Errorf("left over: %v, %v", spaces, err)
			}
		})
	}
}

// runner is what runs on while the records of it are lost.
type runner struct {
	as *nstest.Host
	endpoint.Info
}

// runner is a container's, by its first endpoint.
func (w *world) runner(c *container, as *nstest.Host) *runner {
	w.t.Helper()
	info, err := c.endpoints[0].Info(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return &runner{as, info}
}

// visitor joins a namespace that somebody else made.
func (w *world) visitor(name string, on sealane.Network) *runner {
	w.t.Helper()
	path := newBound(w.t).path
	c := w.sandbox(sandboxAt(name, path))
	c.join(on, endpoint.Spec{Name: name})
	return w.runner(c, nstest.At(w.t, name, path))
}

// moved joins a namespace into which somebody else moves the link, as an engine does.
func (w *world) moved(name string, on sealane.Network) *runner {
	w.t.Helper()
	ctx := w.t.Context()
	e, err := on.CreateEndpoint(ctx, endpoint.Spec{Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := w.JoinForeign(ctx, on.ID(), e.ID(), sandbox.Spec{ID: sandbox.ID(e.ID()), Name: name, Namespace: sandbox.Origin{Foreign: true}})
	if err != nil {
		w.t.Fatal(err)
	}
	as := nstest.At(w.t, name, newBound(w.t).path)
	w.host.Run("ip", "link", "set", a.Link.Arrives, "netns", as.Path(), "name", "eth0")
	for _, p := range a.Link.Addrs {
		as.Run("ip", "addr", "add", p.String(), "dev", "eth0", "nodad")
	}
	as.Run("ip", "link", "set", "eth0", "up")
	return w.runner(&container{world: w, endpoints: []endpoint.Endpoint{e}}, as)
}

// takenOver looks at what a host without records makes of what runs and is known to another host.
func (w *world) takenOver(ran []*runner, db *container, there sealane.Network) {
	w.t.Helper()
	ctx := w.t.Context()
	var blue sealane.Network
	nstest.Eventually(w.t, "the network is known", func() (known bool) {
		var err error
		blue, err = w.Network(ctx, "blue")
		return err == nil
	})
	for _, r := range ran {
		for _, a := range r.Addresses { // at once, and on both
			for _, n := range []sealane.Network{blue, there} {
				if e, err := n.CreateEndpoint(ctx, endpoint.Spec{Name: "x", Addresses: []netip.Prefix{a}}); err == nil {
					w.t.Errorf("%s of %s is given again to %s", a, r.Spec.Name, e.ID())
				}
			}
		}
	}
	for _, r := range ran {
		ep, err := blue.Endpoint(ctx, r.Spec.Name)
		if err != nil {
			w.t.Errorf("%s: %v", r.Spec.Name, err)
			continue
		}
		e, err := ep.Info(ctx)
		if err != nil || ep.ID() != r.ID || !slices.Equal(e.Addresses, r.Addresses) || !slices.Equal(e.Ports, r.Info.Ports) {
			w.t.Errorf("%s is taken over as %+v, %v", r.Spec.Name, e, err)
		}
		if s, err := w.Sandbox(ctx, string(e.Sandbox)); err != nil {
			w.t.Errorf("%s: %v", r.Spec.Name, err)
		} else if info, err := s.Info(ctx); err != nil || !info.Unknown || info.Problem != "" {
			w.t.Errorf("%s: got %+v, %v, want it listed as unknown", r.Spec.Name, info, err)
		}
	}
	late := w.container("late", nil, blue)
	db.meets(late)
	late.meets(db)
	for _, r := range ran {
		if err := late.pings(r.Addresses[0].Addr()); err != nil {
			w.t.Error(err)
		}
	}
	nstest.Eventually(w.t, "the other host knows all", func() bool { return len(db.world.Peers(there.ID())) == len(ran)+1 })
	if err := late.Delete(ctx); err != nil {
		w.t.Error(err)
	}
}

// Whatever of an overlay somebody deletes by hand is there again within a second.
func TestOverlayIsMended(t *testing.T) {
	one, two := newPair(t, false)
	here, there := overlay(t, one, two, "blue")
	web, db := one.container("web", nil, here), two.container("db", nil, there)
	db.meets(web)
	web.meets(db)
	info, err := db.endpoints[0].Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	inside := one.dir + "/netns/" + string(here.ID())
	four := db.address(false).String()
	for _, what := range []string{
		"bridge fdb del " + info.MAC.String() + " dev sx0 self",
		"bridge fdb del " + info.MAC.String() + " dev sx0 master",
		"bridge fdb replace " + info.MAC.String() + " dev sx0 dst 192.0.2.77 self static",
		"ip neigh del " + four + " dev br0",
		"ip neigh replace " + four + " lladdr 02:00:00:00:00:66 dev br0 nud permanent",
		"ip -6 neigh del " + db.address(true).String() + " dev br0",
		"ip link del sx0",
		"ip link del br0",
		"ip link del so0",
	} {
		const tries = 3 // the best of which counts: other programs run too
		best := time.Duration(math.MaxInt64)
		for try := 0; try < tries && best > time.Second; try++ {
			web.meets(db)
			web.as().Run("ip", "neigh", "flush", "dev", "eth0")
			one.Idle(t.Context())
			one.host.Run("nsenter", append([]string{"--net=" + inside}, strings.Fields(what)...)...)
			start := time.Now()
			nstest.Eventually(t, what+": mended", func() bool { return one.whole(here, web, info, inside) == nil })
			best = min(best, time.Since(start))
		}
		t.Logf("%s: mended in %v", what, best.Round(time.Millisecond))
		if best > time.Second {
			t.Errorf("%s: mended in %v", what, best)
		}
		web.meets(db)
	}
}

// whole says what of an overlay's namespace is not there.
func (w *world) whole(n sealane.Network, c *container, peer endpoint.Info, inside string) error {
	var errs []error
	for command, wants := range map[string][]string{
		"bridge fdb show dev sx0":                    {peer.MAC.String() + " dst 192.0.2.2", peer.MAC.String() + " master br0 static"},
		"ip neigh show nud permanent":                {peer.Addresses[0].Addr().String() + " dev br0 lladdr " + peer.MAC.String(), peer.Addresses[1].Addr().String() + " dev br0 lladdr " + peer.MAC.String()},
		"ip -d link show master br0":                 {"sx0", "sv", "neigh_suppress on"},
		"ip route show default":                      {"dev so0"},
		"ip -6 route show default":                   {"dev so0"},
		"sysctl -n net.ipv4.conf.br0.send_redirects": {"0"},
		"sysctl -n net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables": {"0\n0"},
	} {
		out, err := w.host.Try("nsenter", append([]string{"--net=" + inside}, strings.Fields(command)...)...)
		errs = append(errs, err)
		for _, want := range wants {
			if !strings.Contains(out, want) {
				errs = append(errs, fmt.Errorf("no %q in %s", want, command))
			}
		}
	}
	return errors.Join(append(errs, c.endpoints[0].Check(w.t.Context()))...)
}

// The underlay's MTU is lowered while a transfer runs: the transfer goes on, and new and old containers have what fits.
func TestOverlayFollowsTheUnderlay(t *testing.T) {
	one, two := newPair(t, false)
	here, there := overlay(t, one, two, "blue")
	web, db := one.container("web", nil, here), two.container("db", nil, there)
	db.meets(web)
	mtu := func(c *container, want string) func() bool {
		return func() bool {
			out, err := c.as().Try("ip", "link", "show", "eth0")
			return err == nil && strings.Contains(out, "mtu "+want)
		}
	}
	nstest.Eventually(t, "MTU 1450", mtu(web, "1450"))
	l := web.as().Listen("tcp", "[::]:80")
	var received atomic.Int64
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := c.Read(buf)
			if received.Add(int64(n)); err != nil {
				return
			}
		}
	}()
	c, err := db.as().Dial("tcp", netip.AddrPortFrom(web.address(false), 80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sent := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		block := make([]byte, 16<<10)
		for {
			select {
			case <-stop:
				sent <- nil
				return
			case <-time.After(time.Millisecond): // a steady stream, not all that two cores can do
			}
			if _, err := c.Write(block); err != nil {
				sent <- err
				return
			}
		}
	}()
	flows := func(when string) {
		t.Helper()
		goal := received.Load() + 1<<20
		nstest.Eventually(t, "bytes flow "+when, func() bool { return received.Load() > goal })
	}
	flows("before")
	one.host.Run("ip", "link", "set", "two", "mtu", "1400")
	two.host.Run("ip", "link", "set", "one", "mtu", "1400")
	nstest.Eventually(t, "MTU 1350 on both", func() bool { return mtu(web, "1350")() && mtu(db, "1350")() })
	flows("afterwards")
	close(stop)
	if err := <-sent; err != nil {
		t.Errorf("the transfer broke: %v", err)
	}
	late := one.container("late", nil, here)
	if !mtu(late, "1350")() {
		t.Error("a new container has another MTU")
	}
}
