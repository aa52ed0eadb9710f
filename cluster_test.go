package sealane_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/storetest"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/block"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// member is a host of a cluster: a machine in memory with a link to the store that all share.
type member struct {
	*machine
	id        string
	advertise netip.Addr
	link      *link
	hostLost  time.Duration
}

// newCluster starts n hosts, h1 to hn, on one store.
func newCluster(t *testing.T, n int) []*member {
	t.Helper()
	s := datastore.NewMemory()
	t.Cleanup(func() { _ = s.Close() })
	return clusterOn(t, n, func(int) datastore.Store { return s })
}

// clusterOn starts n hosts, each with a client of the store.
func clusterOn(t *testing.T, n int, client func(host int) datastore.Store) []*member {
	t.Helper()
	var hosts []*member
	for i := range n {
		h := newMember(t, fmt.Sprint("h", i+1), netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), client(i))
		if err := h.start(); err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	return hosts
}

func newMember(t *testing.T, id string, advertise netip.Addr, s datastore.Store) *member {
	h := &member{machine: newMachine(t), id: id, advertise: advertise, link: newLink(s)}
	h.shared = h
	t.Cleanup(func() { h.die() })
	return h
}

func (h *member) options(o *sealane.Options, pool ipam.Driver) {
	blocks, err := block.New(h.t.Context(), block.Options{Pool: pool, Store: touchy{h.link, h.machine}, Kept: touchy{h.run, h.machine}, Host: h.id, Patience: 2 * time.Second})
	if err != nil {
		h.t.Fatal(err)
	}
	o.IPAM["default"], o.Cluster, o.Host, o.Hostname, o.Advertise, o.HostLost = blocks, touchyPresence{touchy{h.link, h.machine}, h.link}, h.id, "name-"+h.id, h.advertise, h.hostLost
	if testing.Verbose() && o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(logTo{h.t}, nil)).With("host", h.id)
	}
}

type logTo struct{ t *testing.T }

func (l logTo) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// touchyPresence is a touchy store that announces.
type touchyPresence struct {
	touchy
	datastore.Presence
}

// die ends the daemon without a word; what runs goes on.
func (h *member) die() {
	if h.Controller != nil {
		h.Close()
		h.Controller = nil
	}
}

// reboot is the end of all that dies with the boot.
func (h *member) reboot() {
	h.t.Helper()
	h.die()
	h.lose()
	if err := h.start(); err != nil {
		h.t.Fatal(err)
	}
}

// lose is what a power cut does.
func (h *member) lose() {
	h.run, h.walls = datastore.NewMemory(), &firewalltest.Fake{}
	h.walls.Fault = h.touch
	h.kernel.Reboot()
}

// link leads to the store and can be cut.
type link struct {
	datastore.Store
	mu      sync.Mutex
	cutOff  chan struct{}            // closed while it is cut
	healed  chan struct{}            // closed while it is not
	late    map[string]chan struct{} // directories that are not told of before it is closed
	updates int
	views   int
	lists   int
}

func newLink(s datastore.Store) *link {
	l := &link{Store: s, cutOff: make(chan struct{}), healed: make(chan struct{})}
	close(l.healed)
	return l
}

func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.cutOff)
	l.healed = make(chan struct{})
}

func (l *link) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cutOff = make(chan struct{})
	close(l.healed)
}

func (l *link) state() (cutOff, healed chan struct{}, away bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.cutOff:
		away = true
	default:
	}
	return l.cutOff, l.healed, away
}

var errCut = fmt.Errorf("%w: the store cannot be reached", errdefs.ErrUnavailable)

func (l *link) View(ctx context.Context, fn func(datastore.Tx) error) error {
	if _, _, away := l.state(); away {
		return errCut
	}
	l.mu.Lock()
	l.views++
	l.mu.Unlock()
	return l.Store.View(ctx, fn)
}

func (l *link) Update(ctx context.Context, fn func(datastore.Tx) error) error {
	if _, _, away := l.state(); away {
		return errCut
	}
	l.mu.Lock()
	l.updates++
	l.mu.Unlock()
	return l.Store.Update(ctx, func(tx datastore.Tx) error { return fn(counting{tx, l}) })
}

// counting counts what transactions read.
type counting struct {
	datastore.Tx
	l *link
}

func (c counting) List(dir string) iter.Seq2[string, []byte] {
	c.l.mu.Lock()
	c.l.lists++
	c.l.mu.Unlock()
	return c.Tx.List(dir)
}

func (l *link) Watch(ctx context.Context, dir string) iter.Seq2[datastore.Batch, error] {
	return func(yield func(datastore.Batch, error) bool) {
		if told := l.late[dir]; told != nil {
			select {
			case <-told:
			case <-ctx.Done():
			}
		}
		for ctx.Err() == nil {
			cutOff, healed, away := l.state()
			if away {
				if !yield(datastore.Batch{}, errCut) {
					return
				}
				select {
				case <-ctx.Done():
				case <-healed:
				}
				continue
			}
			inner, stop := context.WithCancel(ctx)
			go func() {
				select {
				case <-cutOff:
				case <-inner.Done():
				}
				stop()
			}()
			for b, err := range l.Store.Watch(inner, dir) {
				if !yield(b, err) || err != nil {
					stop()
					return
				}
			}
			stop()
		}
	}
}

// Announce is lost when the link is cut.
func (l *link) Announce(ctx context.Context, key string, value []byte) (<-chan struct{}, error) {
	cutOff, _, away := l.state()
	if away {
		return nil, errCut
	}
	inner, stop := context.WithCancel(ctx)
	context.AfterFunc(inner, stop)
	go func() {
		select {
		case <-cutOff:
		case <-inner.Done():
		}
		stop()
	}()
	return l.Store.(datastore.Presence).Announce(inner, key, value)
}

// shared makes a network of the cluster, without a tunnel: what is tested is what hosts agree on.
func (h *member) network(name string, subnets ...string) sealane.Network {
	h.t.Helper()
	n, err := h.CreateNetwork(h.t.Context(), sealane.NetworkSpec{Name: name, Scope: netdriver.Global, IPAM: ipamOf(subnets...)})
	if err != nil {
		h.t.Fatalf("%s: %v", h.id, err)
	}
	return n
}

func ipamOf(cidrs ...string) (m sealane.IPAM) {
	for _, s := range cidrs {
		m.Subnets = append(m.Subnets, sealane.SubnetSpec{Subnet: netip.MustParsePrefix(s)})
	}
	return m
}

func (h *member) on(name string) sealane.Network {
	h.t.Helper()
	n, err := h.Network(h.t.Context(), name)
	if err != nil {
		h.t.Fatalf("%s: %v", h.id, err)
	}
	return n
}

// attach makes a sandbox with an endpoint of its name.
func (h *member) attach(network, name string, addresses ...string) (endpoint.Info, error) {
	ctx := h.t.Context()
	sb, err := h.CreateSandbox(ctx, sandbox.Spec{Name: name})
	if err != nil {
		return endpoint.Info{}, err
	}
	s := endpoint.Spec{Name: name, For: sb.ID()}
	for _, a := range addresses {
		s.Addresses = append(s.Addresses, netip.PrefixFrom(netip.MustParseAddr(a), 24))
	}
	n, err := h.Network(ctx, network)
	if err != nil {
		return endpoint.Info{}, errors.Join(err, sb.Delete(ctx))
	}
	ep, err := n.CreateEndpoint(ctx, s)
	if err != nil {
		return endpoint.Info{}, errors.Join(err, sb.Delete(ctx))
	}
	if err := ep.Join(ctx, sb); err != nil {
		return endpoint.Info{}, errors.Join(err, sb.Delete(ctx))
	}
	return ep.Info(ctx)
}

func (h *member) mustAttach(network, name string, addresses ...string) endpoint.Info {
	h.t.Helper()
	e, err := h.attach(network, name, addresses...)
	if err != nil {
		h.t.Fatalf("%s: %v", h.id, err)
	}
	return e
}

func (h *member) detach(name string) {
	h.t.Helper()
	sb, err := h.Sandbox(h.t.Context(), name)
	if err == nil {
		err = sb.Delete(h.t.Context())
	}
	if err != nil {
		h.t.Fatalf("%s: %v", h.id, err)
	}
}

// peers is who a host believes to be on a network elsewhere, as "name@tunnel address".
func (h *member) peers(network string) []string {
	id := h.on(network).ID()
	var all []string
	for _, p := range h.Peers(id) {
		all = append(all, fmt.Sprintf("%s@%s %s", p.Name, p.Tunnel, p.Addresses[0].Addr()))
	}
	slices.Sort(all)
	return all
}

func (h *member) seesPeers(network string, want ...string) {
	h.t.Helper()
	slices.Sort(want)
	var got []string
	nstest.Eventually(h.t, h.id+" sees "+fmt.Sprint(want), func() bool {
		got = h.peers(network)
		return slices.Equal(got, want)
	})
}

func TestSharedNetworkIsSeenByAll(t *testing.T) { sharedNetworkIsSeenByAll(t, newCluster(t, 3)) }

func sharedNetworkIsSeenByAll(t *testing.T, hosts []*member) {
	a, b, c := hosts[0], hosts[1], hosts[2]
	blue := a.network("blue", "10.9.0.0/24")
	for _, h := range hosts {
		if id := h.on("blue").ID(); id != blue.ID() {
			t.Errorf("%s: %s is another network", h.id, id)
		}
		if id := h.on(string(blue.ID())[:8]).ID(); id != blue.ID() {
			t.Errorf("%s: by prefix: %s", h.id, id)
		}
	}
	if _, err := b.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: "blue", Scope: netdriver.Global}); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), string(blue.ID())) {
		t.Errorf("the name again, on another host: %v", err)
	}
	if _, err := b.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: "red", Scope: netdriver.Global, IPAM: ipamOf("10.9.0.128/25")}); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), string(blue.ID())) {
		t.Errorf("the subnet again, on another host: %v", err)
	}
	one := a.mustAttach("blue", "one")
	two := b.mustAttach("blue", "two")
	if one.Addresses[0] == two.Addresses[0] {
		t.Errorf("both have %s", one.Addresses[0])
	}
	a.seesPeers("blue", "two@192.0.2.2 "+two.Addresses[0].Addr().String())
	b.seesPeers("blue", "one@192.0.2.1 "+one.Addresses[0].Addr().String())
	if _, err := c.attach("blue", "two"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a name that another host has: %v", err)
	}
	for _, h := range hosts {
		if err := h.on("blue").Delete(t.Context()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: delete a used network: %v", h.id, err)
		}
	}
	a.detach("one")
	b.seesPeers("blue")
	b.detach("two")
	if err := c.on("blue").Delete(t.Context()); err != nil {
		t.Errorf("delete by a host that did not make it: %v", err)
	}
	for _, h := range hosts {
		if _, err := h.Network(t.Context(), "blue"); !errdefs.IsNotFound(err) {
			t.Errorf("%s: a deleted network: %v", h.id, err)
		}
	}
	id := string(blue.ID())
	if left := storetest.Keys(t, a.link, "net", "name/net", "vni", "pool/default", "ep/"+id, "name/ep/"+id, "block/"+id, "hostnet/h1", "hostnet/h2", "hostnet/h3", "look/h1", "look/h2"); len(left) > 0 {
		t.Errorf("left in the store: %v", left)
	}
	a.network("blue", "10.9.0.0/24") // all of it is free again
	a.mustAttach("blue", "one")
}

// What one host changes of a network the others take over, and the names of all hosts' endpoints resolve.
func TestChangesAndNamesReachTheOthers(t *testing.T) {
	hosts := newCluster(t, 2)
	changesAndNamesReachTheOthers(t, hosts)
}

func changesAndNamesReachTheOthers(t *testing.T, hosts []*member) {
	a, b := hosts[0], hosts[1]
	blue := a.network("blue", "10.9.0.0/24")
	a.mustAttach("blue", "one")
	b.mustAttach("blue", "two")
	knows := func(h *member, name string) bool {
		return strings.Contains(fmt.Sprint(h.names.Names(blue.ID())), name)
	}
	nstest.Eventually(t, "h1 knows two", func() bool { return knows(a, "two") && knows(a, "one") })
	nstest.Eventually(t, "h2 knows one", func() bool { return knows(b, "one") && knows(b, "two") })
	ports := func(name string) string {
		for _, p := range a.Peers(blue.ID()) {
			if p.Name == name {
				return fmt.Sprint(p.Ports)
			}
		}
		return "no such peer"
	}
	box, err := b.Sandbox(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range []string{"8080:80", "8053:53/udp"} { // what the sandbox publishes, SRV tells on all hosts
		err := b.ChangePorts(t.Context(), box.ID(), func(p *endpoint.Ports, _ []endpoint.PortBinding) error {
			p.Publish = []endpoint.PortBinding{must(endpoint.ParsePort(spec))}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"8080:80": "[80/tcp]", "8053:53/udp": "[53/udp]"}[spec]
		nstest.Eventually(t, "h1 is told of port "+spec+" of two: "+ports("two"), func() bool { return ports("two") == want })
	}
	err = b.on("blue").Update(t.Context(), func(s *sealane.NetworkSpec) error {
		s.Labels = map[string]string{"tier": "web"}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, "h1 has the label", func() bool {
		n, err := a.on("blue").Info(t.Context())
		return err == nil && n.Labels["tier"] == "web"
	})
	a.die()
	a.names.Crash()
	if err := a.start(); err != nil {
		t.Fatal(err)
	}
	if !knows(a, "two") || !knows(a, "one") {
		t.Errorf("after a restart: %v", a.names.Names(blue.ID()))
	}
	b.detach("two")
	nstest.Eventually(t, "h1 forgets two", func() bool { return !knows(a, "two") })
	if left := storetest.Keys(t, a.link, "look/h1", "look/h2"); len(left) > 0 {
		t.Errorf("notices left: %v", left)
	}
}

// A host that was rebooted has no endpoints; one that only cannot be reached keeps them.
func TestRebootedAndUnreachableHosts(t *testing.T) { rebootedAndUnreachableHosts(t, newCluster(t, 3)) }

func rebootedAndUnreachableHosts(t *testing.T, hosts []*member) {
	a, b := hosts[0], hosts[1]
	a.network("blue", "10.9.0.0/24")
	one := a.mustAttach("blue", "one")
	b.mustAttach("blue", "two")
	seen := "one@192.0.2.1 " + one.Addresses[0].Addr().String()
	b.seesPeers("blue", seen)
	a.link.cut()
	nstest.Eventually(t, "h1 is unreachable", func() bool { return b.stateOf("h1") == "unreachable" })
	b.mustAttach("blue", "three") // the others go on
	b.seesPeers("blue", seen)
	a.link.heal()
	nstest.Eventually(t, "h1 is back", func() bool { return b.stateOf("h1") == "ready" })
	a.die()
	if err := a.start(); err != nil { // the daemon alone: the endpoint is there
		t.Fatal(err)
	}
	b.seesPeers("blue", seen)
	a.reboot()
	b.seesPeers("blue")
	again := a.mustAttach("blue", "one", one.Addresses[0].Addr().String())
	b.seesPeers("blue", "one@192.0.2.1 "+again.Addresses[0].Addr().String())
}

func (h *member) stateOf(id string) string {
	for other, err := range h.Hosts(h.t.Context()) {
		if err != nil {
			return err.Error()
		}
		if other.ID == id {
			return other.State
		}
	}
	return "unknown"
}

// The death of a host: an operator says so, its name and its address are used elsewhere, and when it comes back after all it takes down
// what was given away and keeps the rest.
func TestRemovedHost(t *testing.T) { removedHost(t, newCluster(t, 3)) }

func removedHost(t *testing.T, hosts []*member) {
	a, b := hosts[0], hosts[1]
	a.network("blue", "10.9.0.0/24")
	web, db := a.mustAttach("blue", "web"), a.mustAttach("blue", "db")
	other := b.mustAttach("blue", "other")
	if err := b.RemoveHost(t.Context(), "h1"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove a host that is alive: %v", err)
	}
	if err := b.RemoveHost(t.Context(), "name-h2"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove oneself: %v", err)
	}
	events := a.watchEvents()
	a.link.cut()
	nstest.Eventually(t, "h1 is unreachable", func() bool { return b.stateOf("h1") == "unreachable" })
	if _, err := b.attach("blue", "web", web.Addresses[0].Addr().String()); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "host rm h1") {
		t.Errorf("an address in the block of a host that does not answer: %v", err)
	}
	if _, err := b.attach("blue", "web"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a name of a host that does not answer: %v", err)
	}
	if err := b.RemoveHost(t.Context(), "name-h1"); err != nil {
		t.Fatal(err)
	}
	b.seesPeers("blue")
	again := b.mustAttach("blue", "web", web.Addresses[0].Addr().String())
	if again.Addresses[0] != web.Addresses[0] {
		t.Errorf("got %s, want %s", again.Addresses[0], web.Addresses[0])
	}
	if left := storetest.Keys(t, b.link, "hostnet/h1", "look/h1", "wish/h1"); len(left) > 0 || b.stateOf("h1") != "unknown" {
		t.Errorf("left of h1: %v", left)
	}
	a.link.heal()
	b.seesPeers("blue", "db@192.0.2.1 "+db.Addresses[0].Addr().String())
	nstest.Eventually(t, "h1 took web down", func() bool {
		_, err := a.on("blue").Endpoint(t.Context(), string(web.ID))
		return errdefs.IsNotFound(err)
	})
	nstest.Eventually(t, "an event tells of it", func() bool { return strings.Contains(events(), "conflict web") })
	a.seesPeers("blue", "other@192.0.2.2 "+other.Addresses[0].Addr().String(), "web@192.0.2.2 "+web.Addresses[0].Addr().String())
}

// watchEvents gathers events as "action name".
func (h *member) watchEvents() (told func() string) {
	var mu sync.Mutex
	var all []string
	events := h.Events(h.t.Context())
	go func() {
		for e, err := range events {
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, e.Action+" "+e.Attrs["name"])
			mu.Unlock()
		}
	}()
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(all, "; ")
	}
}

// An endpoint of a dead host is given up alone: `network disconnect -f`.
func TestForgetEndpointOfDeadHost(t *testing.T) { forgetEndpointOfDeadHost(t, newCluster(t, 2)) }

func forgetEndpointOfDeadHost(t *testing.T, hosts []*member) {
	a, b := hosts[0], hosts[1]
	a.network("blue", "10.9.0.0/24")
	web := a.mustAttach("blue", "web")
	b.mustAttach("blue", "other")
	far, err := b.on("blue").Endpoint(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"delete": far.Delete(t.Context()), "leave": far.Leave(t.Context())} {
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "h1") {
			t.Errorf("%s an endpoint of a live host: %v", what, err)
		}
	}
	a.link.cut()
	nstest.Eventually(t, "h1 is unreachable", func() bool { return b.stateOf("h1") == "unreachable" })
	if err := far.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := b.mustAttach("blue", "web", web.Addresses[0].Addr().String())
	if again.Addresses[0] != web.Addresses[0] {
		t.Errorf("got %s, want %s", again.Addresses[0], web.Addresses[0])
	}
	a.link.heal()
	nstest.Eventually(t, "h1 took web down", func() bool {
		for e := range a.on("blue").Endpoints(t.Context()) {
			if e.Spec.Name == "web" {
				return false
			}
		}
		return true
	})
	b.seesPeers("blue")
}

// An endpoint of a host that is alive is given up by force: its host takes it down with an event, and its name and address can be had at
// once on any host.
func TestForgetEndpointOfLiveHost(t *testing.T) { forgetEndpointOfLiveHost(t, newCluster(t, 3)) }

func forgetEndpointOfLiveHost(t *testing.T, hosts []*member) {
	a, b, c := hosts[0], hosts[1], hosts[2]
	a.network("blue", "10.9.0.0/24")
	web := a.mustAttach("blue", "web")
	b.mustAttach("blue", "other")
	events := a.watchEvents()
	far, err := b.on("blue").Endpoint(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := far.Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := b.mustAttach("blue", "web", web.Addresses[0].Addr().String())
	if again.Addresses[0] != web.Addresses[0] {
		t.Errorf("got %s, want %s", again.Addresses[0], web.Addresses[0])
	}
	nstest.Eventually(t, "an event tells h1's user", func() bool {
		return strings.Contains(events(), "conflict web") && strings.Contains(events(), "destroy web")
	})
	for e := range a.on("blue").Endpoints(t.Context()) {
		t.Errorf("h1 still has %s", e.Spec.Name)
	}
	third := c.mustAttach("blue", "third")
	c.seesPeers("blue", "web@192.0.2.2 "+again.Addresses[0].Addr().String(), "other@192.0.2.2 "+b.addressOf("blue", "other"))
	a.detach("web")
	next := a.mustAttach("blue", "next")
	if next.Addresses[0] == again.Addresses[0] || next.Addresses[0] == third.Addresses[0] {
		t.Errorf("h1 gives %s again", next.Addresses[0])
	}
	if err := far.Forget(t.Context()); !errdefs.IsNotFound(err) {
		t.Errorf("give it up again: %v", err)
	}
}

func (h *member) addressOf(network, name string) string {
	h.t.Helper()
	ep, err := h.on(network).Endpoint(h.t.Context(), name)
	if err != nil {
		h.t.Fatal(err)
	}
	e, err := ep.Info(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	return e.Addresses[0].Addr().String()
}

// With the store away endpoints come and go in held blocks, and what needs the others is Unavailable. When it is back all is told, and a
// name that was taken meanwhile is dropped with an event.
// A daemon that starts is told of endpoints before it is told of hosts: it goes on sending to who was there before.
func TestRestartCutsNobodyOff(t *testing.T) {
	hosts := newCluster(t, 2)
	a, b := hosts[0], hosts[1]
	blue := a.network("blue", "10.9.0.0/24").ID()
	one, two := a.mustAttach("blue", "one"), b.mustAttach("blue", "two")
	want := "two@192.0.2.2 " + two.Addresses[0].Addr().String()
	a.seesPeers("blue", want)
	a.die()
	told := make(chan struct{})
	a.link.late = map[string]chan struct{}{"host": told}
	key := datastore.Key("ep", string(blue), string(one.ID))
	if err := b.link.Update(t.Context(), func(tx datastore.Tx) error { return tx.Delete(key) }); err != nil {
		t.Fatal(err)
	}
	if err := a.start(); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, "it has settled what it knows", func() bool {
		return slices.Contains(storetest.Keys(t, b.link, datastore.Key("ep", string(blue))), key)
	})
	if got := a.peers("blue"); !slices.Equal(got, []string{want}) {
		t.Errorf("with the hosts unknown it believes in %v, want %s", got, want)
	}
	close(told)
	three := b.mustAttach("blue", "three")
	a.seesPeers("blue", want, "three@192.0.2.2 "+three.Addresses[0].Addr().String())
}

func TestStoreAway(t *testing.T) { storeAway(t, newCluster(t, 2)) }

func storeAway(t *testing.T, hosts []*member) {
	a, b := hosts[0], hosts[1]
	a.network("blue", "10.9.0.0/24")
	a.mustAttach("blue", "one")
	two := b.mustAttach("blue", "two")
	a.seesPeers("blue", "two@192.0.2.2 "+two.Addresses[0].Addr().String())
	a.link.cut()
	three := a.mustAttach("blue", "three")
	web := a.mustAttach("blue", "web")
	a.detach("one")
	for what, err := range map[string]error{
		"create": func() error {
			_, err := a.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: "red", Scope: netdriver.Global})
			return err
		}(),
		"look up": func() error { _, err := a.Network(t.Context(), "green"); return err }(),
		"static":  func() error { _, err := a.attach("blue", "static", "10.9.0.200"); return err }(),
		"delete":  a.on("blue").Delete(t.Context()),
	} {
		if !errdefs.IsUnavailable(err) && !(what == "delete" && errdefs.IsFailedPrecondition(err)) {
			t.Errorf("%s with the store away: %v", what, err)
		}
	}
	a.die()
	if err := a.start(); err != nil { // a restart of the daemon changes nothing
		t.Fatal(err)
	}
	events := a.watchEvents()
	a.seesPeers("blue", "two@192.0.2.2 "+two.Addresses[0].Addr().String())
	four := a.mustAttach("blue", "four") // of a block that it held before
	for _, other := range []endpoint.Info{two, three, web} {
		if four.Addresses[0] == other.Addresses[0] {
			t.Errorf("%s is given to four and to %s", four.Addresses[0], other.Spec.Name)
		}
	}
	their := b.mustAttach("blue", "web")
	a.link.heal()
	b.seesPeers("blue", "three@192.0.2.1 "+three.Addresses[0].Addr().String(), "four@192.0.2.1 "+four.Addresses[0].Addr().String(),
		string(web.ID)[:12]+"@192.0.2.1 "+web.Addresses[0].Addr().String())
	a.seesPeers("blue", "two@192.0.2.2 "+two.Addresses[0].Addr().String(), "web@192.0.2.2 "+their.Addresses[0].Addr().String())
	nstest.Eventually(t, "an event tells of the name", func() bool { return strings.Contains(events(), "conflict web") })
}
