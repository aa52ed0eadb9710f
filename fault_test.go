package sealane_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/drivers"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/netdriver/drivertest"
	"github.com/sealane/sealane/remote"
	"github.com/sealane/sealane/resolver/resolvertest"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/sandboxtest"
)

// machine is a host in memory on which controllers come and go. Its clock of touches says when something fails.
type machine struct {
	*sealane.Controller
	t         *testing.T
	run, root datastore.Store
	kernel    *sandboxtest.Fake
	walls     *firewalltest.Fake
	acting    *drivertest.Acting
	plugins   *remote.Plugins // has acting as the plugin "plugged"
	names     *resolvertest.Fake
	files     *resolvertest.Files
	log       *slog.Logger
	shared    *member                       // what it is of a cluster; nil: alone
	lost      bool                          // a store was lost
	addresses func(ipam.Driver) ipam.Driver // puts another in front of the pool; nil: none

	mu      sync.Mutex // guards what is below: the background touches too
	touches int
	failAt  int  // touch that fails
	crash   bool // every later touch fails too
	armed   bool
}

var errInjected = errors.New("injected fault")

func (m *machine) touch(string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.armed {
		return nil
	}
	m.touches++
	if m.touches == m.failAt || m.crash && m.touches > m.failAt {
		return errInjected
	}
	return nil
}

// arm has the at-th touch from now on fail, and with a crash all that follow.
func (m *machine) arm(at int, crash bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.armed, m.touches, m.failAt, m.crash = true, 0, at, crash
}

// disarm lets everything succeed, and says how many touches there were.
func (m *machine) disarm() (touches int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.armed = false
	return m.touches
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, run: datastore.NewMemory(), root: datastore.NewMemory(), kernel: sandboxtest.NewFake(),
		walls: &firewalltest.Fake{}, acting: drivertest.NewActing(), names: resolvertest.NewFake(), files: &resolvertest.Files{}}
	m.names.Fault, m.files.Fault = m.touch, m.touch
	m.kernel.Fault, m.walls.Fault, m.acting.Fault = m.touch, m.touch, m.touch
	m.acting.Kernel = m.kernel
	m.kernel.AddNamespace(theirs)
	return m
}

// plug makes a plugin of the driver that acts: then it is called through HTTP.
func (m *machine) plug() {
	m.t.Helper()
	dir, err := os.MkdirTemp("", "plugged")
	if err != nil {
		m.t.Fatal(err)
	}
	l, err := remote.Listen(dir+"/plugged.sock", 0)
	if err != nil {
		m.t.Fatal(err)
	}
	server := remote.NewServer(m.acting, nil, nil)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	m.plugins = remote.New(remote.Options{Sockets: dir})
	m.t.Cleanup(func() {
		m.plugins.Close()
		l.Close()
		<-ended
		if err := errors.Join(server.Close(context.Background()), os.RemoveAll(dir)); err != nil {
			m.t.Error(err)
		}
	})
}

// find is the machine's Options.Find.
func (m *machine) find(ctx context.Context, name string) (netdriver.Driver, ipam.Driver, error) {
	if m.plugins == nil {
		return nil, nil, nil
	}
	d, _, err := m.plugins.Find(ctx, name)
	return d, nil, err
}

func (m *machine) start() error {
	addresses, err := pool.New(pool.Options{HostID: "test"})
	if err != nil {
		m.t.Fatal(err)
	}
	all := drivers.All()
	all["acting"] = m.acting
	if m.shared == nil {
		all["overlay"] = peered{all["overlay"]}
	}
	o := sealane.Options{Run: touchy{m.run, m}, Root: touchy{m.root, m}, Spaces: m.kernel,
		Firewalls: m.walls, Resolver: m.names, Files: m.files, Drivers: all, IPAM: map[string]ipam.Driver{"default": addresses}, Find: m.find, Logger: m.log,
		Advertise: addr("192.0.2.1"), Quarantined: m.lost}
	if m.addresses != nil {
		o.IPAM["default"] = m.addresses(addresses)
	}
	if m.shared != nil {
		m.shared.options(&o, addresses)
	}
	m.Controller, err = sealane.New(m.t.Context(), o)
	return err
}

// restart plays the death of the process and the start of the next.
func (m *machine) restart() {
	m.t.Helper()
	if m.Controller != nil {
		m.Close()
	}
	m.disarm()
	m.kernel.Crash()
	m.names.Crash()
	if err := m.start(); err != nil {
		m.t.Fatalf("restart: %v", err)
	}
	m.idle()
}

// idle waits for what is converged in the background.
func (m *machine) idle() {
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	if m.Controller != nil && !m.Idle(ctx) {
		m.t.Error("still busy after a minute")
	}
}

// peered is the overlay driver for networks of this host alone, with peers that nobody published.
type peered struct{ netdriver.Driver }

func (peered) Capability(context.Context) (netdriver.Capability, error) {
	return netdriver.Capability{Type: "overlay", Scope: netdriver.Local, Connectivity: netdriver.Global, Computes: true}, nil
}

func (d peered) Numbers(n netdriver.Network) (first, last uint32, option string, err error) {
	return d.Driver.(netdriver.Numbered).Numbers(n)
}

func (d peered) CreateNetwork(ctx context.Context, in netdriver.Input) (netdriver.Plan, error) {
	for i, subnet := range in.Network.Subnets {
		far := subnet.Gateway.Addr().Next().Next().Next()
		in.Peers = append(in.Peers, netdriver.Peer{
			Published: endpoint.Published{ID: endpoint.ID(id(i + 100)), Addresses: []netip.Prefix{netip.PrefixFrom(far, subnet.Gateway.Bits())}, MAC: endpoint.MAC(far)},
			Tunnel:    addr("192.0.2.2"),
		})
	}
	return d.Driver.CreateNetwork(ctx, in)
}

// touchy is a store whose every call can fail, an Update also after it happened.
type touchy struct {
	datastore.Store
	m *machine
}

func (s touchy) View(ctx context.Context, fn func(datastore.Tx) error) error {
	if err := s.m.touch("view"); err != nil {
		return err
	}
	return s.Store.View(ctx, fn)
}

func (s touchy) Update(ctx context.Context, fn func(datastore.Tx) error) error {
	if err := s.m.touch("update"); err != nil {
		return err
	}
	if err := s.Store.Update(ctx, fn); err != nil {
		return err
	}
	if err := s.m.touch("update, done"); err != nil {
		return &datastore.Uncertain{Err: err}
	}
	return nil
}

// what differs from run to run: names made of a nonce, and the MAC that the kernel gave the host's end.
var random = regexp.MustCompile(`\b(sv|sp)[0-9a-f]{12}|fa:ce:[0-9a-f:]{11}`)

// state is the kernel, the firewall and the drivers as text.
func (m *machine) state() string {
	m.t.Helper()
	m.idle()
	var terms []map[string]firewall.Terms
	for _, key := range []string{"", "/run/fake/netns/" + id(1), "/run/fake/netns/" + id(2)} {
		wall, err := m.walls.Open(m.t.Context(), key)
		if err != nil {
			m.t.Fatal(err)
		}
		of, err := wall.Observe(m.t.Context())
		if err != nil {
			m.t.Fatal(err)
		}
		wall.Close()
		terms = append(terms, of)
	}
	lines := strings.Split(random.ReplaceAllString(m.kernel.Dump(), "*"), "\n")
	slices.Sort(lines) // links come by name, and the names are random
	return strings.Join(lines, "\n") + "\n" + fmt.Sprint(terms) + "\n" + m.acting.Held() + m.resolved(sandbox.ID(id(3)))
}

// resolved is what is told of names, and how the sandbox asks, as text.
func (m *machine) resolved(box sandbox.ID) string {
	m.t.Helper()
	view, answered := m.names.View(box)
	texts, _ := m.files.Texts(box)
	slices.Sort(texts.Hosts) // they come as they were wanted
	text := fmt.Sprintf("blue: %v\nred: %v\nanswered %v: %+v\nfiles: %+v\n", m.names.Names(endpoint.NetworkID(id(1))),
		m.names.Names(endpoint.NetworkID(id(2))), answered, view, texts)
	for _, key := range []string{theirs, "/run/fake/netns/" + string(box)} {
		ns, err := m.kernel.Open(m.t.Context(), sandbox.Origin{Path: key})
		if errdefs.IsNotFound(err) {
			continue // its firewall went with it
		}
		if err != nil {
			m.t.Fatal(err)
		}
		ns.Close()
		wall, err := m.walls.Open(m.t.Context(), key)
		if err != nil {
			m.t.Fatal(err)
		}
		terms, err := wall.Observe(m.t.Context())
		if err != nil {
			m.t.Fatal(err)
		}
		redirects := terms["sb/"+string(box)].Redirects
		if text += fmt.Sprintf("%d redirects in %s\n", len(redirects), key); len(redirects) > 0 && !slices.Equal(redirects, m.names.Redirects(box)) {
			m.t.Errorf("%s leads to %v, and the resolver listens at %v", key, redirects, m.names.Redirects(box))
		}
	}
	return text
}

func id(n int) string { return fmt.Sprintf("%02x%062x", n, n) }

// op is one call of the script.
type op struct {
	name string
	do   func(m *machine) error
}

// theirs is the path of a namespace of somebody else's.
const theirs = "/run/netns/theirs"

// script is a life cycle of networks of a driver and a sandbox, in a namespace of ours or at a path. "DRIVER on demand" makes networks that
// are there while somebody is on them.
func script(driver, path string) []op {
	ctx := context.Background()
	driver, onDemand := strings.CutSuffix(driver, " on demand")
	network := func(m *machine, n string) sealane.Network { return must(m.Network(ctx, n)) }
	box := func(m *machine) sandbox.Sandbox { return must(m.Sandbox(ctx, "box")) }
	ep := func(m *machine, n string) endpoint.Endpoint { return must(network(m, n).Endpoint(ctx, n)) }
	creates := func(n int, name string) op {
		return op{"create network " + name, func(m *machine) error {
			s := sealane.NetworkSpec{ID: endpoint.NetworkID(id(n)), Name: name, Driver: driver, IPv6: true, OnDemand: onDemand}
			if m.shared != nil {
				s.Scope = netdriver.Global
			}
			_, err := m.CreateNetwork(ctx, s)
			return err
		}}
	}
	endpoints := func(n int, name string, s endpoint.Spec) op {
		return op{"create endpoint " + name, func(m *machine) error {
			s.ID, s.Name = endpoint.ID(id(n)), name
			_, err := network(m, name).CreateEndpoint(ctx, s)
			return err
		}}
	}
	joins := func(n string) op {
		return op{"join " + n, func(m *machine) error { return ep(m, n).Join(ctx, box(m)) }}
	}
	http, _ := endpoint.ParsePort("8080:80")
	https, _ := endpoint.ParsePort("8443:443")
	dns, _ := endpoint.ParsePort("53/udp")
	return []op{
		creates(1, "blue"),
		creates(2, "red"),
		{"create sandbox", func(m *machine) error {
			_, err := m.CreateSandbox(ctx, sandbox.Spec{ID: sandbox.ID(id(3)), Name: "box", Namespace: sandbox.Origin{Path: path}})
			return err
		}},
		endpoints(4, "red", endpoint.Spec{Publish: []endpoint.PortBinding{http}}),
		endpoints(5, "blue", endpoint.Spec{Publish: []endpoint.PortBinding{http}, For: sandbox.ID(id(3))}),
		joins("red"),
		joins("blue"), // the gateway, and with it the port, moves
		{"publish", func(m *machine) error {
			return ep(m, "blue").Update(ctx, func(s *endpoint.Spec) error {
				s.Publish = []endpoint.PortBinding{http, dns}
				return nil
			})
		}},
		{"publish for the sandbox", func(m *machine) error {
			return m.ChangePorts(ctx, box(m).ID(), func(p *endpoint.Ports, _ []endpoint.PortBinding) error {
				p.Publish = []endpoint.PortBinding{https}
				return nil
			})
		}},
		{"restart", func(m *machine) error {
			m.Close()
			m.kernel.Crash()
			m.names.Crash()
			return m.start()
		}},
		{"leave red", func(m *machine) error { return ep(m, "red").Leave(ctx) }},
		joins("red"),
		{"delete sandbox", func(m *machine) error { return box(m).Delete(ctx) }},
		{"delete endpoint red", func(m *machine) error { return ep(m, "red").Delete(ctx) }},
		{"delete network red", func(m *machine) error { return network(m, "red").Delete(ctx) }},
		{"delete network blue", func(m *machine) error { return network(m, "blue").Delete(ctx) }},
	}
}

// foreign is a life cycle of what a front end like Docker asks for that moves the links itself.
func foreign() []op {
	ctx := context.Background()
	http, _ := endpoint.ParsePort("8080:80")
	box := sandbox.Spec{ID: sandbox.ID(id(3)), Name: "box", Namespace: sandbox.Origin{Foreign: true}}
	var ops []op
	add := func(name string, do func(m *machine) error) { ops = append(ops, op{name, do}) }
	networks := []string{"blue", "red"}
	for i, n := range networks {
		add("create network "+n, func(m *machine) error {
			_, err := m.CreateNetwork(ctx, sealane.NetworkSpec{ID: endpoint.NetworkID(id(i + 1)), Name: n, IPv6: true})
			return err
		})
	}
	for i, n := range networks {
		add("create endpoint "+n, func(m *machine) error {
			_, err := must(m.Network(ctx, n)).CreateEndpoint(ctx, endpoint.Spec{ID: endpoint.ID(id(i + 4)), Name: n, Gateway: endpoint.None, ByAddress: true})
			return err
		})
		add("join "+n, func(m *machine) error {
			_, err := m.JoinForeign(ctx, endpoint.NetworkID(id(i+1)), endpoint.ID(id(i+4)), box)
			return err
		})
	}
	add("publish", func(m *machine) error {
		return m.Endpoint(endpoint.NetworkID(id(1)), endpoint.ID(id(4))).Update(ctx, func(s *endpoint.Spec) error {
			s.Gateway, s.Publish = endpoint.On, []endpoint.PortBinding{http}
			return nil
		})
	})
	for i, n := range networks {
		add("delete endpoint "+n, func(m *machine) error {
			return m.DeleteForeign(ctx, endpoint.NetworkID(id(i+1)), endpoint.ID(id(i+4)))
		})
	}
	add("find nothing", nothingForeign)
	for _, n := range networks {
		add("delete network "+n, func(m *machine) error { return must(m.Network(ctx, n)).Delete(ctx) })
	}
	return ops
}

// connected is a life cycle of a sandbox that is made on its networks.
func connected(driver string) []op {
	ctx := context.Background()
	http, _ := endpoint.ParsePort("8080:80")
	https, _ := endpoint.ParsePort("8443:443")
	ops := script(driver, "")[:2]
	return append(ops,
		op{"create a connected sandbox", func(m *machine) error {
			_, err := m.CreateConnected(ctx, sandbox.Spec{ID: sandbox.ID(id(3)), Name: "box"}, endpoint.Ports{Publish: []endpoint.PortBinding{https}},
				sealane.Connection{Network: endpoint.NetworkID(id(2)), Endpoint: endpoint.Spec{ID: endpoint.ID(id(4))}},
				sealane.Connection{Network: endpoint.NetworkID(id(1)), Endpoint: endpoint.Spec{ID: endpoint.ID(id(5)), Publish: []endpoint.PortBinding{http}}})
			return err
		}},
		op{"delete sandbox", func(m *machine) error { return must(m.Sandbox(ctx, "box")).Delete(ctx) }},
		op{"delete network red", func(m *machine) error { return must(m.Network(ctx, "red")).Delete(ctx) }},
		op{"delete network blue", func(m *machine) error { return must(m.Network(ctx, "blue")).Delete(ctx) }})
}

// nothingForeign wants neither the sandbox nor an endpoint found by its address.
func nothingForeign(m *machine) error {
	for s, err := range m.Sandboxes(context.Background()) {
		return errors.Join(fmt.Errorf("sandbox %s is left", s.Spec.Name), err)
	}
	for n, err := range m.Networks(context.Background()) {
		if err != nil {
			return err
		}
		for _, sub := range n.Subnets {
			for _, a := range []netip.Addr{sub.Gateway.Addr().Next(), sub.Gateway.Addr().Next().Next()} {
				if by, err := m.Holder(context.Background(), n.ID, a); err != nil || by != "" {
					return fmt.Errorf("endpoint %s has %s: %w", by, a, err)
				}
			}
		}
	}
	return nil
}

// must panics: a script runs only in states in which its look-ups succeed, and recovers where it may not.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// call turns a failed look-up into the error of the call.
func call(o op, m *machine) (err error) {
	defer func() {
		if e, ok := recover().(error); ok {
			err = e
		}
	}()
	return o.do(m)
}

// TestFaultAtEveryTouch lives through a life cycle again and again, and in the n-th life the n-th touch of store, kernel, firewall and driver
// fails in each call that has so many, as an error or as a crash. Then the world is as if nothing had failed, either before the call or
// after it, and calling again succeeds or says that all is done.
func TestFaultAtEveryTouch(t *testing.T) {
	for _, test := range []struct{ name, driver, path string }{{"bridge", "bridge", ""}, {"on demand", "bridge on demand", ""}, {"acting", "acting", ""}, {"plugin", "plugged", ""}, {"theirs", "bridge", theirs}, {"overlay", "overlay", ""}, {"foreign", "", ""}, {"connected", "bridge on demand", ""}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			ops := script(test.driver, test.path)
			switch test.name {
			case "foreign":
				ops = foreign()
			case "connected":
				ops = connected(test.driver)
			}
			var want []string
			live := func(at int, crash bool) (struck int) {
				m := newMachine(t)
				if test.driver == "plugged" {
					m.plug()
				}
				if err := m.start(); err != nil {
					t.Fatal(err)
				}
				defer func() { m.Close() }()
				if at == 0 {
					want = m.undisturbed(ops, m.state)
					return 0
				}
				return m.plagued(ops, at, crash, func(i int) string { return cmp.Diff(want[i], m.state()) })
			}
			live(0, false)
			t.Logf("%d faults tried in %d calls", eachTouch(1, live), len(ops))
		})
	}
}

// eachTouch lives while there is a call that has as many touches, and says how many failed. step: every so manieth touch only.
func eachTouch(step int, live func(at int, crash bool) (struck int)) (tried int) {
	for at := 1; ; at += step {
		struck := live(at, false) + live(at, true)
		if tried += struck; struck == 0 {
			return tried
		}
	}
}

// undisturbed lives through a script and says what the world is after each call.
func (m *machine) undisturbed(ops []op, state func() string) (want []string) {
	m.t.Helper()
	for _, o := range ops {
		if err := call(o, m); err != nil {
			m.t.Fatalf("%s: %v", o.name, err)
		}
		want = append(want, state())
	}
	return want
}

// plagued lives through a script whose every call fails at a touch, if it has so many: struck are those that did. differs says what is not
// as it should be after the i-th call.
func (m *machine) plagued(ops []op, at int, crash bool, differs func(i int) string) (struck int) {
	m.t.Helper()
	for i, o := range ops {
		m.arm(at, crash)
		first := call(o, m)
		err, failed := first, m.disarm() >= at
		if failed {
			struck++
			if crash || o.name == "restart" {
				m.restart()
			}
			m.idle()
			if err = call(o, m); o.done(err) {
				err = nil
			}
		}
		if err != nil {
			m.t.Fatalf("%s with a fault at touch %d, crash %v: first %v, then %v", o.name, at, crash, first, err)
		}
		m.idle() // a driver that is being called in the background may not be called about the same
		if !failed && i < len(ops)-1 {
			continue
		}
		if d := differs(i); d != "" {
			m.t.Fatalf("%s with a fault at touch %d, crash %v: first %v: state (-want +got):\n%s", o.name, at, crash, first, d)
		}
	}
	return struck
}

// done says whether the error of a call says that nothing is left to do.
func (o op) done(err error) bool {
	switch {
	case strings.HasPrefix(o.name, "delete"):
		return errdefs.IsNotFound(err)
	case strings.HasPrefix(o.name, "leave"):
		return errdefs.IsFailedPrecondition(err)
	}
	return errdefs.IsAlreadyExists(err) && strings.Contains(err.Error(), "taken by") && strings.Contains(err.Error(), strings.Repeat("0", 60))
}
