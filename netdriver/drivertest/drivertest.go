// Package drivertest holds the facts that every network driver is tested against, and a driver that acts in memory.
package drivertest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/sandboxtest"
)

// Fixtures are what the driver is asked.
type Fixtures struct {
	Input     netdriver.Input // a network that it can make
	Endpoints []endpoint.Info // at least two that it can join to it, of different ids, nonces, addresses and ports, with Key set
	Bad       []Bad
	// Links are added to the host before plans are applied: parents, and what an acting driver made elsewhere.
	Links []sandbox.Link
}

// Bad is something that the driver must refuse as InvalidArgument, naming it.
type Bad struct {
	Options map[string]string // of the network, beside those of the Input
	Names   string            // what the error must name
}

// Run runs the facts. open is called once for each.
func Run(t *testing.T, open func(t testing.TB) netdriver.Driver, f Fixtures) {
	if len(f.Endpoints) < 2 {
		t.Fatal("the fixtures have fewer than two endpoints")
	}
	for _, fact := range []struct {
		name string
		test func(*testing.T, netdriver.Driver, Fixtures)
	}{
		{"it says what it is", testCapability},
		{"verbs are answered as the first time", testRepeat},
		{"undoing what is not there succeeds", testUndoNothing},
		{"bad options are refused and named", testBad},
		{"what was given is not contradicted", testGiven},
		{"records are not changed", testPure},
		{"names fit and belong to their owner", testNames},
		{"plans survive being stored", testStored},
		{"endpoints are told apart", testApart},
		{"plans can be done and undone", testDone},
		{"endpoints are served at once", testConcurrent},
	} {
		t.Run(fact.name, func(t *testing.T) { fact.test(t, open(t), f) })
	}
}

func testCapability(t *testing.T, d netdriver.Driver, _ Fixtures) {
	c, err := d.Capability(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	scope := func(s netdriver.Scope) bool { return s == netdriver.Local || s == netdriver.Global }
	if c.Type == "" || !scope(c.Scope) || !scope(c.Connectivity) {
		t.Errorf("capability %+v", c)
	}
	if again, err := d.Capability(t.Context()); err != nil || again != c {
		t.Errorf("asked again: %+v, %v", again, err)
	}
}

// make creates the network and an endpoint and joins it: the three answers.
func (f Fixtures) make(ctx context.Context, d netdriver.Driver, e endpoint.Info) (network netdriver.Plan, i netdriver.Interface, joined netdriver.Plan, err error) {
	if network, err = d.CreateNetwork(ctx, f.Input); err != nil {
		return network, i, joined, fmt.Errorf("create network: %w", err)
	}
	if i, err = d.CreateEndpoint(ctx, f.Input, before(e)); err != nil {
		return network, i, joined, fmt.Errorf("create endpoint: %w", err)
	}
	if joined, err = d.Join(ctx, f.Input, e); err != nil {
		return network, i, joined, fmt.Errorf("join: %w", err)
	}
	return network, i, joined, nil
}

// before is an endpoint as it is when it is created and nobody has joined it.
func before(e endpoint.Info) endpoint.Info {
	e.Nonce, e.Key, e.Sandbox, e.Ports = "", "", "", nil
	return e
}

func testRepeat(t *testing.T, d netdriver.Driver, f Fixtures) {
	ctx, e := t.Context(), f.Endpoints[0]
	type answer struct {
		Network netdriver.Plan
		Chosen  netdriver.Interface
		Joined  netdriver.Plan
	}
	var answers [2]answer
	for i := range answers {
		a := &answers[i]
		var err error
		if a.Network, a.Chosen, a.Joined, err = f.make(ctx, d, e); err != nil {
			t.Fatal(err)
		}
	}
	if diff := diff(answers[0], answers[1]); diff != "" {
		t.Errorf("the second answers differ: %s", diff)
	}
	for _, verb := range []struct {
		name string
		do   func() error
	}{
		{"leave", func() error { return d.Leave(ctx, f.Input.Network, e) }},
		{"delete endpoint", func() error { return d.DeleteEndpoint(ctx, f.Input.Network, e) }},
		{"delete network", func() error { return d.DeleteNetwork(ctx, f.Input.Network) }},
	} {
		for range 2 {
			if err := verb.do(); err != nil {
				t.Errorf("%s: %v", verb.name, err)
			}
		}
	}
}

func testUndoNothing(t *testing.T, d netdriver.Driver, f Fixtures) {
	ctx, e := t.Context(), f.Endpoints[0]
	if err := d.Leave(ctx, f.Input.Network, e); err != nil {
		t.Errorf("leave: %v", err)
	}
	if err := d.DeleteEndpoint(ctx, f.Input.Network, e); err != nil {
		t.Errorf("delete endpoint: %v", err)
	}
	if err := d.DeleteNetwork(ctx, f.Input.Network); err != nil {
		t.Errorf("delete network: %v", err)
	}
}

func testBad(t *testing.T, d netdriver.Driver, f Fixtures) {
	for _, bad := range f.Bad {
		in := f.Input
		in.Network.Options = map[string]string{}
		maps.Copy(in.Network.Options, f.Input.Network.Options)
		maps.Copy(in.Network.Options, bad.Options)
		plan, err := d.CreateNetwork(t.Context(), in)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), bad.Names) {
			t.Errorf("options %v: %v, want InvalidArgument naming %s", bad.Options, err, bad.Names)
		}
		if len(plan.Shares) > 0 || plan.Attachment != nil {
			t.Errorf("options %v: refused, and a plan: %s", bad.Options, Text(plan))
		}
	}
	if _, _, _, err := f.make(t.Context(), d, f.Endpoints[0]); err != nil {
		t.Errorf("after refusals: %v", err)
	}
}

func testGiven(t *testing.T, d netdriver.Driver, f Fixtures) {
	for _, e := range f.Endpoints {
		_, chosen, plan, err := f.make(t.Context(), d, e)
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Addresses) > 0 && len(chosen.Addresses) > 0 && !slices.Equal(chosen.Addresses, e.Addresses) {
			t.Errorf("given addresses %v, chosen %v", e.Addresses, chosen.Addresses)
		}
		if e.MAC != nil && chosen.MAC != nil && chosen.MAC.String() != e.MAC.String() {
			t.Errorf("given MAC %s, chosen %s", e.MAC, chosen.MAC)
		}
		if a := plan.Attachment; a != nil {
			for _, given := range e.Addresses {
				if !slices.ContainsFunc(a.Link.Addrs, func(p netip.Prefix) bool { return p.Addr() == given.Addr() }) {
					t.Errorf("given address %s, and brings %v", given, a.Link.Addrs)
				}
			}
			if e.MAC != nil && a.Link.MAC != nil && a.Link.MAC.String() != e.MAC.String() {
				t.Errorf("given MAC %s, and brings %s", e.MAC, a.Link.MAC)
			}
		}
	}
}

func testPure(t *testing.T, d netdriver.Driver, f Fixtures) {
	was := mustJSON(t, f)
	for _, e := range f.Endpoints {
		if _, _, _, err := f.make(t.Context(), d, e); err != nil {
			t.Fatal(err)
		}
		if err := d.Leave(t.Context(), f.Input.Network, e); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(was, mustJSON(t, f)); diff != "" {
		t.Errorf("records changed: %s", diff)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func testNames(t *testing.T, d netdriver.Driver, f Fixtures) {
	for _, e := range f.Endpoints {
		network, _, joined, err := f.make(t.Context(), d, e)
		if err != nil {
			t.Fatal(err)
		}
		for owner, plan := range map[string]netdriver.Plan{"net/" + string(f.Input.Network.ID): network, "ep/" + string(e.ID): joined.Named("eth0")} {
			for _, share := range plan.Shares {
				for _, l := range share.Config.Links {
					if err := sandbox.CheckLinkName(l.Name); err != nil {
						t.Errorf("%s: %v", owner, err)
					}
					if share.Space == "" && !l.Adopt && l.Owner != owner {
						t.Errorf("%s: link %s belongs to %q", owner, l.Name, l.Owner)
					}
					if l.Veth != nil && l.Veth.Peer == "" {
						t.Errorf("%s: the far end of %s has no name", owner, l.Name)
					}
				}
			}
		}
	}
}

func testStored(t *testing.T, d netdriver.Driver, f Fixtures) {
	for _, e := range f.Endpoints {
		network, _, joined, err := f.make(t.Context(), d, e)
		if err != nil {
			t.Fatal(err)
		}
		for _, plan := range []netdriver.Plan{network, joined, joined.Named("eth0")} {
			var back netdriver.Plan
			if err := json.Unmarshal([]byte(mustJSON(t, plan)), &back); err != nil {
				t.Fatal(err)
			}
			if diff := diff(plan, back); diff != "" {
				t.Errorf("stored and read again: %s", diff)
			}
		}
	}
}

func testApart(t *testing.T, d netdriver.Driver, f Fixtures) {
	links, ports := make(map[string]endpoint.ID), make(map[string]endpoint.ID)
	take := func(taken map[string]endpoint.ID, what string, by endpoint.ID) {
		if other, ok := taken[what]; ok {
			t.Errorf("%s and %s both plan %s", other, by, what)
		}
		taken[what] = by
	}
	for _, e := range f.Endpoints {
		_, _, plan, err := f.make(t.Context(), d, e)
		if err != nil {
			t.Fatal(err)
		}
		for _, share := range plan.Shares {
			for _, l := range share.Config.Links {
				if !l.Adopt {
					take(links, share.Space+" link "+l.Name, e.ID)
				}
			}
			for _, p := range share.Terms.Ports {
				take(ports, fmt.Sprintf("%s port %d %s %v", share.Space, p.Proto, p.Host, p.HostPorts), e.ID)
			}
		}
	}
}

func testConcurrent(t *testing.T, d netdriver.Driver, f Fixtures) {
	if _, err := d.CreateNetwork(t.Context(), f.Input); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, e := range f.Endpoints {
		wg.Go(func() {
			if _, err := d.CreateEndpoint(t.Context(), f.Input, before(e)); err != nil {
				t.Error(err)
			}
			if _, err := d.Join(t.Context(), f.Input, e); err != nil {
				t.Error(err)
			}
			if err := d.Leave(t.Context(), f.Input.Network, e); err != nil {
				t.Error(err)
			}
			if err := d.DeleteEndpoint(t.Context(), f.Input.Network, e); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// diff compares what may hold addresses; nil and empty are the same, as they are to who reads a plan.
func diff(a, b any) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{}))
}

// testDone applies the plans to a kernel, each endpoint in a namespace of its own, and undoes them.
func testDone(t *testing.T, d netdriver.Driver, f Fixtures) {
	k := kernel{t: t, Fake: sandboxtest.NewFake(), spaces: map[string]sandbox.Namespace{}}
	for _, l := range f.Links {
		if err := k.Meddle("", sandbox.Step{Op: sandbox.AddLink, Link: l}); err != nil {
			t.Fatal(err)
		}
	}
	before := k.Dump()
	var undo []func()
	for i, e := range f.Endpoints {
		inside, err := k.Create(t.Context(), fmt.Sprintf("%02x", i))
		if err != nil {
			t.Fatal(err)
		}
		e.Key = inside.Key()
		network, _, joined, err := f.make(t.Context(), d, e)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			undo = append(undo, k.do("net/x", network))
		}
		content, err := sandbox.Merge(attachments(e, joined))
		if err != nil {
			t.Fatal(err)
		}
		undo = append(undo, k.do("ep/"+string(e.ID), joined.Named(content.Names[string(e.ID)])))
		if _, err := inside.Apply(t.Context(), "sb/x", sandbox.Config{}, content.Config); err != nil {
			t.Fatal(err)
		}
		undo = append(undo, func() {
			if _, err := inside.Apply(t.Context(), "sb/x", content.Config, sandbox.Config{}); err != nil {
				t.Error(err)
			}
			if err := d.Leave(t.Context(), f.Input.Network, e); err != nil {
				t.Error(err)
			}
			if err := d.DeleteEndpoint(t.Context(), f.Input.Network, e); err != nil {
				t.Error(err)
			}
		})
	}
	for _, u := range slices.Backward(undo) {
		u()
	}
	for i := range f.Endpoints {
		if err := k.Remove(t.Context(), fmt.Sprintf("%02x", i)); err != nil {
			t.Error(err)
		}
	}
	for space := range k.spaces {
		if err := k.Remove(t.Context(), id(space)); err != nil {
			t.Error(err)
		}
	}
	if after := k.Dump(); before != after {
		t.Errorf("done and undone, the kernel changed from\n%sto\n%s", before, after)
	}
}

func attachments(e endpoint.Info, p netdriver.Plan) map[string]sandbox.Attachment {
	if p.Attachment == nil {
		return nil
	}
	return map[string]sandbox.Attachment{string(e.ID): *p.Attachment}
}

// kernel is a host on which plans are done.
type kernel struct {
	*sandboxtest.Fake
	t      *testing.T
	spaces map[string]sandbox.Namespace // of networks
}

// id names the namespace of a network's own.
func id(space string) string { return fmt.Sprintf("%x", space) }

// located is a config in which veths name namespaces by their keys, as the Controller does it.
func (k kernel) located(c sandbox.Config) sandbox.Config {
	c.Links = slices.Clone(c.Links)
	for i, l := range c.Links {
		if l.Veth == nil || !strings.HasPrefix(l.Veth.Space, "net/") {
			continue
		}
		n, err := k.Create(k.t.Context(), id(l.Veth.Space))
		if err != nil {
			k.t.Fatal(err)
		}
		k.spaces[l.Veth.Space] = n
		veth := *l.Veth
		veth.Space = n.Key()
		c.Links[i].Veth = &veth
	}
	return c
}

// do applies a plan and returns what undoes it.
func (k kernel) do(owner string, p netdriver.Plan) func() {
	k.t.Helper()
	apply := func(s netdriver.Share, have, want sandbox.Config) {
		n, err := k.Open(k.t.Context(), sandbox.Origin{Host: true})
		if s.Space != "" {
			n, err = k.Create(k.t.Context(), id(s.Space))
			k.spaces[s.Space] = n
		}
		if err == nil {
			_, err = n.Apply(k.t.Context(), owner, k.located(have), k.located(want))
		}
		if err != nil {
			k.t.Errorf("%s: %v", owner, err)
		}
	}
	for _, s := range p.Shares {
		apply(s, sandbox.Config{}, s.Config)
	}
	return func() {
		for _, s := range slices.Backward(p.Shares) {
			apply(s, s.Config, sandbox.Config{})
		}
	}
}
