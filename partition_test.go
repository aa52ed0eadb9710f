package sealane_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/storetest"
	"github.com/sealane/sealane/drivers"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/netdriver"
)

// The numbers of all networks at once, from 256 to 1000, each to one network whichever host makes it; the next is told which option to
// widen.
func TestNumbersOfNetworks(t *testing.T) {
	hosts := newCluster(t, 3)
	overlay := func(h *member, i int, options map[string]string) (sealane.Network, error) {
		return h.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: fmt.Sprint("net", i), Driver: "overlay", Options: options})
	}
	var all sync.WaitGroup
	for k, h := range hosts {
		all.Go(func() {
			for i := k; i < 745; i += len(hosts) {
				if _, err := overlay(h, i, nil); err != nil {
					t.Errorf("network %d: %v", i, err)
					return
				}
			}
		})
	}
	all.Wait()
	numbers, subnets := map[uint32]bool{}, map[netip.Prefix]bool{}
	for n, err := range hosts[0].Networks(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if n.Number < 256 || n.Number > 1000 || numbers[n.Number] || subnets[n.Subnets[0].Pool.Subnet] {
			t.Errorf("%s: number %d, subnet %s", n.Name, n.Number, n.Subnets[0].Pool.Subnet)
		}
		numbers[n.Number], subnets[n.Subnets[0].Pool.Subnet] = true, true
	}
	if len(numbers) != 745 {
		t.Errorf("%d networks, want 745", len(numbers))
	}
	if _, err := overlay(hosts[1], 745, nil); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "vni") {
		t.Errorf("the 746th: %v, want ResourceExhausted naming the option", err)
	}
	n, err := overlay(hosts[2], 746, map[string]string{"vni": "256-1001"})
	if err != nil {
		t.Fatalf("with the range widened: %v", err)
	}
	if info, err := n.Info(t.Context()); err != nil || info.Number != 1001 {
		t.Errorf("number %d, %v, want 1001", info.Number, err)
	}
	if err := hosts[0].on("net300").Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := overlay(hosts[1], 745, nil); err != nil {
		t.Errorf("a number that is free again: %v", err)
	}
}

// Whoever asks at once: one has the name, one the subnet, one the address, one the number.
func TestOneOwnerWhoeverAsksAtOnce(t *testing.T) { oneOwnerWhoeverAsksAtOnce(t, newCluster(t, 5)) }

func oneOwnerWhoeverAsksAtOnce(t *testing.T, hosts []*member) {
	var all sync.WaitGroup
	var mu sync.Mutex
	won := map[string]int{}
	try := func(what string, do func() error) {
		all.Go(func() {
			err := do()
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won[what]++
			} else if !errdefs.IsAlreadyExists(err) {
				t.Errorf("%s: %v, want AlreadyExists", what, err)
			}
		})
	}
	for i := range 50 {
		h := hosts[i%5]
		try("name", func() error {
			_, err := h.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: "same", Scope: netdriver.Global})
			return err
		})
		try("subnet", func() error {
			_, err := h.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: fmt.Sprint("n", i), Scope: netdriver.Global, IPAM: ipamOf("10.77.0.0/16")})
			return err
		})
		try("number", func() error {
			_, err := h.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: fmt.Sprint("v", i), Driver: "overlay", Options: map[string]string{"vni": "777"}})
			return err
		})
	}
	all.Wait()
	for _, what := range []string{"name", "subnet", "number"} {
		if won[what] != 1 {
			t.Errorf("%s: %d have it", what, won[what])
		}
	}
	hosts[0].network("blue", "10.9.0.0/24")
	for i, h := range hosts {
		try("endpoint", func() error { _, err := h.attach("blue", "web"); return err })
		try("address", func() error { _, err := h.attach("blue", fmt.Sprint("s", i), "10.9.0.200"); return err })
	}
	all.Wait()
	if won["endpoint"] != 1 || won["address"] != 1 {
		t.Errorf("%d have the endpoint's name, %d the address", won["endpoint"], won["address"])
	}
	checkCluster(t, hosts)
}

// checkCluster fails for an address, a number, a subnet or a name that two have, and for what the hosts do not agree on.
func checkCluster(t *testing.T, hosts []*member) {
	t.Helper()
	all := map[string]*sealane.Controller{}
	for _, h := range hosts {
		all[h.id] = h.Controller
	}
	nothingTwice(t, all)
}

func nothingTwice(t *testing.T, hosts map[string]*sealane.Controller) {
	t.Helper()
	ctx := t.Context()
	numbers, subnets := map[uint32]string{}, map[netip.Prefix]string{}
	for n, err := range slices.Collect(maps.Values(hosts))[0].Networks(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if n.Scope != netdriver.Global {
			continue
		}
		if other, twice := numbers[n.Number]; twice && n.Number != 0 {
			t.Errorf("number %d: %s and %s", n.Number, other, n.Name)
		}
		numbers[n.Number] = n.Name
		for _, sub := range n.Subnets {
			for p, other := range subnets {
				if p.Overlaps(sub.Pool.Subnet) {
					t.Errorf("subnet %s: %s and %s", p, other, n.Name)
				}
			}
			subnets[sub.Pool.Subnet] = n.Name
		}
		addresses, names := map[netip.Addr]string{}, map[string]string{}
		for id, h := range hosts {
			on, err := h.Network(ctx, n.Name)
			if err != nil {
				t.Fatalf("%s: %v", id, err)
			}
			for e, err := range on.Endpoints(ctx) {
				if err != nil {
					t.Fatal(err)
				}
				for _, a := range e.Addresses {
					if other := addresses[a.Addr()]; other != "" {
						t.Errorf("%s: address %s: %s and %s", n.Name, a.Addr(), other, id)
					}
					addresses[a.Addr()] = id
				}
				if other := names[e.Spec.Name]; other != "" {
					t.Errorf("%s: name %s: %s and %s", n.Name, e.Spec.Name, other, id)
				}
				names[e.Spec.Name] = id
			}
		}
	}
}

// agree waits until every host that has endpoints of a network sees all the others' and no more, and says how long that took.
func agree(t *testing.T, hosts []*member, network string) time.Duration {
	t.Helper()
	began := time.Now()
	var wrong string
	defer func() {
		if t.Failed() {
			t.Log(wrong)
		}
	}()
	nstest.Eventually(t, "all see the same of "+network, func() bool {
		own := map[string][]string{}
		for _, h := range hosts {
			for e, err := range h.on(network).Endpoints(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				own[h.id] = append(own[h.id], fmt.Sprintf("%s@%s %s", e.Spec.Name, h.advertise, e.Addresses[0].Addr()))
			}
		}
		for _, h := range hosts {
			var want []string
			for _, id := range slices.Sorted(maps.Keys(own)) {
				if id != h.id {
					want = append(want, own[id]...)
				}
			}
			slices.Sort(want)
			if got := h.peers(network); len(own[h.id]) > 0 && !slices.Equal(got, want) {
				wrong = fmt.Sprintf("%s sees %v, want %v", h.id, got, want)
				return false
			}
		}
		return true
	})
	return time.Since(began)
}

// Two of five hosts are cut off while both sides make endpoints, some of one name, and remove others. Healed, nothing exists twice, and
// all agree within 5 s.
func TestPartition(t *testing.T) {
	hosts := newCluster(t, 5)
	partition(t, hosts)
}

func partition(t *testing.T, hosts []*member) {
	hosts[0].network("blue", "10.9.0.0/16")
	for i, h := range hosts {
		h.mustAttach("blue", fmt.Sprint("first", i))
		h.mustAttach("blue", fmt.Sprint("second", i))
	}
	agree(t, hosts, "blue")
	for _, h := range hosts[:2] {
		h.link.cut()
	}
	var all sync.WaitGroup
	for i, h := range hosts {
		all.Go(func() {
			for j := range 10 {
				if _, err := h.attach("blue", fmt.Sprintf("c%d-%d", i, j)); err != nil {
					t.Errorf("%s: %v", h.id, err)
				}
			}
			if _, err := h.attach("blue", "web"); err != nil && !errdefs.IsAlreadyExists(err) {
				t.Errorf("%s: web: %v", h.id, err)
			}
			h.detach(fmt.Sprint("second", i))
			_, err := h.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: "red", Driver: "overlay"})
			switch {
			case i < 2 && !errdefs.IsUnavailable(err), i >= 2 && err != nil && !errdefs.IsAlreadyExists(err):
				t.Errorf("%s: red: %v", h.id, err)
			}
		})
	}
	all.Wait()
	for _, h := range hosts[:2] {
		h.link.heal()
	}
	nstest.Within(t, "agreeing", agree(t, hosts, "blue"), 5*time.Second)
	checkCluster(t, hosts)
}

// An attach touches the cluster store once and lists nothing of it; a detach too.
func TestAttachTouchesTheStoreOnce(t *testing.T) { attachTouchesTheStoreOnce(t, newCluster(t, 2)) }

func attachTouchesTheStoreOnce(t *testing.T, hosts []*member) {
	a, b := hosts[0], hosts[1]
	a.network("blue", "10.9.0.0/24")
	a.mustAttach("blue", "first") // claims a block
	b.mustAttach("blue", "far")
	agree(t, hosts, "blue")
	const all = 5
	var attach, detach [all]int // the background may look at an endpoint that is being made: what counts is what no call does without
	for i := range all {
		name := "c" + strconv.Itoa(i)
		before := a.link.touched()
		a.mustAttach("blue", name)
		attach[i] = a.link.touched() - before
		agree(t, hosts, "blue")
	}
	for i := range all {
		before := a.link.touched()
		a.detach("c" + strconv.Itoa(i))
		detach[i] = a.link.touched() - before
		agree(t, hosts, "blue")
	}
	if slices.Min(attach[:]) != 1 || slices.Min(detach[:]) != 1 {
		t.Errorf("attach: %d updates, views and lists, detach: %d; want 1", attach, detach)
	}
}

// touched counts updates, views, and directories listed in updates.
func (l *link) touched() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.updates + l.views + l.lists
}

// What another host wrote is checked before it is believed.
func TestOtherHostsAreNotBelieved(t *testing.T) { otherHostsAreNotBelieved(t, newCluster(t, 2)) }

func otherHostsAreNotBelieved(t *testing.T, hosts []*member) {
	a, b := hosts[0], hosts[1]
	blue := a.network("blue", "10.9.0.0/24")
	a.mustAttach("blue", "one")
	good := b.mustAttach("blue", "two")
	seen := "two@192.0.2.2 " + good.Addresses[0].Addr().String()
	a.seesPeers("blue", seen)
	const boot = "a host that only this test knows" // a live one would put right what it did not write
	err := b.link.Store.Update(t.Context(), func(tx datastore.Tx) error {
		return datastore.Table[sealane.Host]{Dir: "host"}.Put(tx, "h3", sealane.Host{ID: "h3", Boot: boot, Advertise: addr("192.0.2.3")})
	})
	if err != nil {
		t.Fatal(err)
	}
	mac := endpoint.MAC(addr("10.9.0.77"))
	record := func(change func(*endpoint.Published)) endpoint.Published {
		p := endpoint.Published{ID: endpoint.ID(id(99)), Name: "evil", Addresses: []netip.Prefix{prefix("10.9.0.77/24")}, MAC: mac, Host: "h3", Boot: boot}
		change(&p)
		return p
	}
	table := datastore.Table[endpoint.Published]{Dir: "ep/" + string(blue.ID())}
	write := func(p endpoint.Published) {
		err := b.link.Store.Update(t.Context(), func(tx datastore.Tx) error { return table.Put(tx, id(99), p) })
		if err != nil {
			t.Fatal(err)
		}
	}
	for what, change := range map[string]func(*endpoint.Published){
		"an unknown host":      func(p *endpoint.Published) { p.Host = "h9" },
		"another boot":         func(p *endpoint.Published) { p.Boot = "old" },
		"a foreign address":    func(p *endpoint.Published) { p.Addresses = []netip.Prefix{prefix("10.8.0.7/24")} },
		"another length":       func(p *endpoint.Published) { p.Addresses = []netip.Prefix{prefix("10.9.0.77/32")} },
		"the gateway":          func(p *endpoint.Published) { p.Addresses = []netip.Prefix{prefix("10.9.0.1/24")} },
		"a multicast MAC":      func(p *endpoint.Published) { p.MAC = []byte{1, 0, 0, 0, 0, 1} },
		"no MAC":               func(p *endpoint.Published) { p.MAC = nil },
		"a name with newlines": func(p *endpoint.Published) { p.Name = "a\n127.0.0.1 b" },
		"another's id":         func(p *endpoint.Published) { p.ID = good.ID },
	} {
		write(record(change))
		b.mustAttach("blue", "marker")
		nstest.Eventually(t, what+" was read", func() bool { return strings.Contains(strings.Join(a.peers("blue"), " "), "marker") })
		if got := strings.Join(a.peers("blue"), " "); strings.Contains(got, "10.9.0.77") || strings.Contains(got, "10.8") || strings.Contains(got, "evil") {
			t.Errorf("%s is believed: %s", what, got)
		}
		b.detach("marker")
		a.seesPeers("blue", seen)
	}
	write(record(func(*endpoint.Published) {}))
	a.seesPeers("blue", seen, "evil@192.0.2.3 10.9.0.77") // the record itself is nothing special
}

// A second host that lives under an id is refused and told what to do.
func TestSecondHostOfAnIDIsRefused(t *testing.T) {
	s := datastore.NewMemory()
	a := newMember(t, "h1", addr("192.0.2.1"), s)
	if err := a.start(); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, "h1 is there", func() bool { return a.stateOf("h1") == "ready" })
	clone := newMember(t, "h1", addr("192.0.2.9"), s)
	clone.kernel.Reboot() // another machine
	started := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	go func() {
		o := sealane.Options{Run: clone.run, Spaces: clone.kernel, IPAM: map[string]ipam.Driver{}}
		o.Cluster, o.Host, o.Advertise = clone.link, clone.id, clone.advertise
		c, err := sealane.New(ctx, o)
		if err == nil {
			c.Close()
		}
		started <- err
	}()
	if err := <-started; !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("a second host of an id: %v", err)
	}
	a.die()
	if err := clone.start(); err != nil {
		t.Errorf("when the first is gone: %v", err)
	}
}

// Overlay networks keep apart: a subnet that is named may be two networks' at once, each with its own addresses on every host. One that is
// chosen is nobody else's, and no sandbox can be on both.
func TestSameSubnetTwice(t *testing.T) { sameSubnetTwice(t, newCluster(t, 2)) }

func sameSubnetTwice(t *testing.T, hosts []*member) {
	a, b := hosts[0], hosts[1]
	ctx := t.Context()
	make := func(h *member, name, driver string, subnets ...string) (netdriver.Network, error) {
		n, err := h.CreateNetwork(ctx, sealane.NetworkSpec{Name: name, Driver: driver, Scope: netdriver.Global, IPAM: ipamOf(subnets...)})
		if err != nil {
			return netdriver.Network{}, err
		}
		return n.Info(ctx)
	}
	for h, names := range map[*member][]string{a: {"blue", "green"}, b: {"red"}} {
		for _, name := range names {
			if _, err := make(h, name, "overlay", "10.9.0.0/24"); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	if _, err := make(a, "near", "bridge", "10.9.0.128/25"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a network that does not keep apart: %v", err)
	}
	chosen, err := make(b, "chosen", "overlay")
	if err != nil || chosen.Subnets[0].Pool.Subnet.Overlaps(prefix("10.9.0.0/24")) {
		t.Errorf("chosen: %v, %v", chosen.Subnets, err)
	}
	for _, h := range hosts {
		for _, name := range []string{"blue", "red", "green"} {
			h.mustAttach(name, h.id+name)
		}
	}
	for _, name := range []string{"blue", "red", "green"} {
		if on := []string{a.addressOf(name, "h1"+name), a.addressOf(name, "h2"+name)}; on[0] != "10.9.0.2" && on[1] != "10.9.0.2" || on[0] == on[1] {
			t.Errorf("%s gives %v", name, on)
		}
		a.seesPeers(name, "h2"+name+"@192.0.2.2 "+a.addressOf(name, "h2"+name))
	}
	again := b.mustAttach("blue", "named", a.addressOf("red", "h1red")[:len("10.9.0.")]+"77")
	if _, err := a.attach("blue", "named2", again.Addresses[0].Addr().String()); !errdefs.IsAlreadyExists(err) {
		t.Errorf("an address of one network twice: %v", err)
	}
	a.mustAttach("red", "named2", again.Addresses[0].Addr().String())
	box := must(a.Sandbox(ctx, "h1blue"))
	ep, err := a.on("red").CreateEndpoint(ctx, endpoint.Spec{Name: "both", For: box.ID()})
	if err == nil {
		err = errors.Join(ep.Join(ctx, box), ep.Delete(ctx))
	}
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "blue") {
		t.Errorf("a sandbox on both: %v", err)
	}
	a.reboot() // and everything of it goes
	for _, name := range []string{"h2blue", "h2red", "h2green", "named"} {
		b.detach(name)
	}
	for _, name := range []string{"blue", "red", "green", "chosen"} {
		if err := b.on(name).Delete(ctx); err != nil {
			t.Error(err)
		}
	}
	if left := storetest.Keys(t, a.link, "net", "name/net", "vni", "pool/default", "hostnet/h1", "hostnet/h2"); len(left) > 0 {
		t.Errorf("left in the store: %v", left)
	}
}

// A network with IPv6 that names no subnet is given a unique local /64, which no other network has.
func TestChosenIPv6(t *testing.T) { chosenIPv6(t, newCluster(t, 3)) }

func chosenIPv6(t *testing.T, hosts []*member) {
	const each = 8
	seen := map[netip.Prefix]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, h := range hosts {
		all.Go(func() {
			for i := range each {
				name := fmt.Sprint(h.id, "-", i)
				n, err := h.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: name, Driver: "overlay", IPv6: true, NoIPv4: i%2 == 0})
				if err != nil {
					t.Error(err)
					return
				}
				info := must(n.Info(t.Context()))
				mu.Lock()
				for _, sub := range info.Subnets {
					p := sub.Pool.Subnet
					if other := seen[p]; other != "" || p.Addr().Is6() && (p.Bits() != 64 || !prefix("fd00::/8").Contains(p.Addr())) {
						t.Errorf("%s has %s, and so has %q", name, p, other)
					}
					seen[p] = name
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if want := len(hosts) * each * 3 / 2; len(seen) != want {
		t.Errorf("%d subnets, want %d", len(seen), want)
	}
	one, two := hosts[0].mustAttach("h3-1", "one"), hosts[1].mustAttach("h3-1", "two")
	if len(one.Addresses) != 2 || len(two.Addresses) != 2 || one.Addresses[1] == two.Addresses[1] || !one.Addresses[1].Addr().Is6() {
		t.Errorf("addresses %v and %v", one.Addresses, two.Addresses)
	}
}

// Of two machines that come to life under one id at one moment one is refused, and nothing of the other is written over.
func TestTwinsStartTogether(t *testing.T) { twinsStartTogether(t, newCluster(t, 1)) }

func twinsStartTogether(t *testing.T, hosts []*member) {
	s := hosts[0].link.Store
	twins := []*member{newMember(t, "twin", addr("192.0.2.8"), s), newMember(t, "twin", addr("192.0.2.9"), s)}
	twins[1].kernel.Reboot() // another machine
	errs := make(chan error, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for _, h := range twins {
		go func() {
			o := sealane.Options{Run: h.run, Root: h.root, Spaces: h.kernel, Drivers: drivers.All(), IPAM: map[string]ipam.Driver{}}
			h.options(&o, must(pool.New(pool.Options{})))
			c, err := sealane.New(ctx, o)
			h.Controller = c
			errs <- err
		}()
	}
	var winner, loser *member
	one, two := <-errs, <-errs
	for _, h := range twins {
		if h.Controller == nil {
			loser = h
		} else {
			winner = h
		}
	}
	if winner == nil || loser == nil {
		t.Fatalf("want one refused: %v, %v", one, two)
	}
	if err := cmp.Or(one, two); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("refused: %v", err)
	}
	winner.network("blue", "10.9.0.0/24")
	web := winner.mustAttach("blue", "web")
	hosts[0].mustAttach("blue", "other")
	hosts[0].seesPeers("blue", fmt.Sprintf("web@%s %s", winner.advertise, web.Addresses[0].Addr()))
	winner.die()
	if err := loser.start(); err != nil { // as a machine that was rebooted: its id is known in another boot
		t.Errorf("when the first is gone: %v", err)
	}
	hosts[0].seesPeers("blue")
}

// Twins that came to life with the store away: when it is back one is known, the other says why it is not and writes nothing.
func TestTwinsMeet(t *testing.T) {
	s := datastore.NewMemory()
	var twins []*member
	for i := range 2 {
		h := newMember(t, "twin", netip.AddrFrom4([4]byte{192, 0, 2, byte(8 + i)}), s)
		if i == 1 {
			h.kernel.Reboot()
		}
		h.link.cut()
		if err := h.start(); err != nil {
			t.Fatal(err)
		}
		twins = append(twins, h)
	}
	third := newMember(t, "h1", addr("192.0.2.1"), s)
	if err := third.start(); err != nil {
		t.Fatal(err)
	}
	third.network("blue", "10.9.0.0/24")
	told := []iter.Seq2[sealane.Event, error]{twins[0].Events(t.Context()), twins[1].Events(t.Context())}
	twins[0].link.heal()
	nstest.Eventually(t, "the first is there", func() bool { return third.stateOf("twin") == "ready" })
	twins[1].link.heal()
	for e, err := range told[1] {
		if err != nil || e.Type == "host" && e.Action == "conflict" {
			break
		}
	}
	if _, err := twins[1].attach("blue", "web"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "another host that is alive") {
		t.Errorf("attach of the second: %v", err)
	}
	web := twins[0].mustAttach("blue", "web")
	third.mustAttach("blue", "other")
	third.seesPeers("blue", "web@192.0.2.8 "+web.Addresses[0].Addr().String())
	twins[0].die()
	nstest.Eventually(t, "the second is known", func() bool { _, err := twins[1].attach("blue", "web"); return err == nil })
}

// A host that stays away for Options.HostLost is given up without an operator.
func TestLostHostIsGivenUp(t *testing.T) {
	s := datastore.NewMemory()
	a, b := newMember(t, "h1", addr("192.0.2.1"), s), newMember(t, "h2", addr("192.0.2.2"), s)
	b.hostLost = 300 * time.Millisecond
	for _, h := range []*member{a, b} {
		if err := h.start(); err != nil {
			t.Fatal(err)
		}
	}
	a.network("blue", "10.9.0.0/24")
	web := a.mustAttach("blue", "web")
	b.mustAttach("blue", "other")
	b.seesPeers("blue", "web@192.0.2.1 "+web.Addresses[0].Addr().String())
	a.link.cut()
	b.seesPeers("blue")
	nstest.Eventually(t, "h1 is forgotten", func() bool { return b.stateOf("h1") == "unknown" })
	b.mustAttach("blue", "web", web.Addresses[0].Addr().String())
	a.link.heal()
	nstest.Eventually(t, "h1 is back without its endpoint", func() bool {
		for range a.on("blue").Endpoints(t.Context()) {
			return false
		}
		return b.stateOf("h1") == "ready"
	})
}

// A delete waits for the blocks of hosts that are alive and names those that are not.
func TestBlocksHoldTheNetwork(t *testing.T) { blocksHoldTheNetwork(t, newCluster(t, 3)) }

func blocksHoldTheNetwork(t *testing.T, hosts []*member) {
	a, b := hosts[0], hosts[1]
	a.network("blue", "10.9.0.0/24")
	b.mustAttach("blue", "one")
	b.detach("one") // its block stays for the next
	b.mustAttach("blue", "two")
	b.link.cut()
	b.detach("two")
	b.mustAttach("blue", "hidden") // nobody but b knows
	nstest.Eventually(t, "h2 is unreachable", func() bool { return a.stateOf("h2") == "unreachable" })
	for what, err := range map[string]error{"rm": a.on("blue").Delete(t.Context())} {
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "h2") {
			t.Errorf("%s: %v, want FailedPrecondition naming h2", what, err)
		}
	}
	b.link.heal()
	nstest.Eventually(t, "hidden is published", func() bool {
		return slices.Contains(storetest.Keys(t, a.link, "name/ep/"+string(a.on("blue").ID())), "name/ep/"+string(a.on("blue").ID())+"/hidden")
	})
	if err := a.on("blue").Delete(t.Context()); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "hidden") {
		t.Errorf("a network with an endpoint elsewhere: %v", err)
	}
	b.detach("hidden")
	nstest.Eventually(t, "h2 is back", func() bool { return a.stateOf("h2") == "ready" })
	if err := a.on("blue").Delete(t.Context()); err != nil { // b is asked for its block and gives it
		t.Error(err)
	}
	a.network("blue", "10.9.0.0/24")
	b.mustAttach("blue", "one")
	b.link.cut()
	nstest.Eventually(t, "h2 is unreachable", func() bool { return a.stateOf("h2") == "unreachable" })
	if err := a.on("blue").Forget(t.Context()); err != nil {
		t.Errorf("by force: %v", err)
	}
	b.link.heal()
	nstest.Eventually(t, "the endpoint of a network that is gone is taken down", func() bool {
		sb, err := b.Sandbox(t.Context(), "one")
		if err != nil {
			t.Fatal(err)
		}
		for range b.Controller.Endpoints(t.Context(), sb.ID()) {
			return false
		}
		return true
	})
}
