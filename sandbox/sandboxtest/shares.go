package sandboxtest

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox"
)

func testAttach(t *testing.T, e Env) {
	host := e.host(t)
	inside, _ := e.create(t)
	a := attach(1, 0, inside.Key())
	a.make(t, host, inside)
	same(t, host, a.network(), a.bridge)
	same(t, host, a.owner(), a.endpoint)
	same(t, inside, "", a.inside)
	if got := e.Links(inside.Key()); !slices.Equal(got, []string{"eth0"}) {
		t.Errorf("links inside: %v", got)
	}
	shares, err := host.Observe(t.Context())
	if err != nil || len(shares) != 2 {
		t.Errorf("shares on the host: %v, %v", shares, err)
	}
	a.undo(t, host, inside)
}

func testAgain(t *testing.T, e Env) {
	host := e.host(t)
	inside, _ := e.create(t)
	a := attach(1, 0, inside.Key())
	a.make(t, host, inside)
	before := e.Links("")
	for range 2 {
		apply(t, host, a.owner(), a.endpoint, a.endpoint)
		got := apply(t, inside, "sb/x", observe(t, inside, "").Within(a.inside), a.inside)
		if len(sandbox.Diff(got, a.inside)) != 0 {
			t.Errorf("reached %+v", got)
		}
	}
	same(t, host, a.owner(), a.endpoint)
	same(t, inside, "", a.inside)
	if after := e.Links(""); !slices.Equal(before, after) {
		t.Errorf("links %v became %v", before, after)
	}
	a.undo(t, host, inside)
}

func testTearDown(t *testing.T, e Env) {
	host := e.host(t)
	inside, _ := e.create(t)
	a := attach(1, 0, inside.Key())
	a.make(t, host, inside)
	for range 2 { // undoing what is not there succeeds
		a.undo(t, host, inside)
	}
	eventually(t, "gone", func() bool { return len(e.Links("")) == 0 && len(e.Links(inside.Key())) == 0 })
	if shares, err := host.Observe(t.Context()); err != nil || len(shares) != 0 {
		t.Errorf("shares left: %v, %v", shares, err)
	}
}

func testNameAgain(t *testing.T, e Env) {
	host := e.host(t)
	inside, _ := e.create(t)
	a := attach(1, 0, inside.Key())
	apply(t, host, a.network(), sandbox.Config{}, a.bridge)
	for i := range 3 { // each join has a name of its own on the host, and the same one inside
		a.endpoint.Links[0].Name = "sv00000000000" + string(rune('0'+i))
		apply(t, host, a.owner(), sandbox.Config{}, a.endpoint)
		apply(t, inside, "sb/x", sandbox.Config{}, a.inside)
		same(t, inside, "", a.inside)
		apply(t, inside, "sb/x", a.inside, sandbox.Config{})
		apply(t, host, a.owner(), a.endpoint, sandbox.Config{})
	}
	apply(t, host, a.network(), a.bridge, sandbox.Config{})
}

func testRemoveTakesLinks(t *testing.T, e Env) {
	host := e.host(t)
	inside, id := e.create(t)
	a := attach(1, 0, inside.Key())
	a.make(t, host, inside)
	inside.Close()
	if err := e.Provider.Remove(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "gone with the namespace", func() bool { return !slices.Contains(e.Links(""), a.endpoint.Links[0].Name) })
	apply(t, host, a.owner(), a.endpoint, sandbox.Config{})
	apply(t, host, a.network(), a.bridge, sandbox.Config{})
}

func testChange(t *testing.T, e Env) {
	host := e.host(t)
	inside, _ := e.create(t)
	a := attach(1, 0, inside.Key())
	a.make(t, host, inside)

	bridge := a.bridge.Links[0]
	bridge.MTU, bridge.Addrs = 1300, append(slices.Clone(bridge.Addrs[:1]), netip.MustParsePrefix("10.77.0.1/24"))
	changed := sandbox.Config{Links: []sandbox.Link{bridge}}
	apply(t, host, a.network(), a.bridge, changed)
	same(t, host, a.network(), changed)

	eth := a.inside.Links[0]
	eth.Addrs = append(slices.Clone(eth.Addrs), netip.MustParsePrefix("10.77.0.9/24"), netip.MustParsePrefix("fe80::9/64"))
	moved := sandbox.Config{Links: []sandbox.Link{eth}, Routes: []sandbox.Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.77.0.1"), Link: "eth0", Metric: 100},
		{Dst: netip.MustParsePrefix("172.20.0.0/16"), Type: "blackhole"},
		{Dst: netip.MustParsePrefix("fd77::/64"), Via: netip.MustParseAddr("fe80::1"), Link: "eth0", Metric: 7},
	}, Rules: []sandbox.Rule{{Source: netip.MustParsePrefix("10.77.0.9/32"), Table: 77}}}
	apply(t, inside, "sb/x", a.inside, moved)
	same(t, inside, "", moved)
	apply(t, inside, "sb/x", moved, a.inside)
	same(t, inside, "", a.inside)
	if left := observe(t, inside, ""); len(left.Rules) != 0 || len(left.Routes) != len(a.inside.Routes) {
		t.Errorf("left: routes %v, rules %v", left.Routes, left.Rules)
	}
	a.bridge = changed
	a.undo(t, host, inside)
}

func testOwners(t *testing.T, e Env) {
	host := e.host(t)
	inside, _ := e.create(t)
	a, b := attach(1, 0, inside.Key()), attach(2, 1, inside.Key())
	a.make(t, host, inside)
	apply(t, host, b.network(), sandbox.Config{}, b.bridge)
	apply(t, host, b.owner(), sandbox.Config{}, b.endpoint)
	apply(t, inside, "sb/x", a.inside, sandbox.Config{
		Links: slices.Concat(a.inside.Links, b.inside.Links), Routes: slices.Clone(a.inside.Routes),
	})
	apply(t, host, b.owner(), b.endpoint, sandbox.Config{})
	same(t, host, a.network(), a.bridge)
	same(t, host, a.owner(), a.endpoint)
	same(t, host, b.network(), b.bridge)
	same(t, inside, "", a.inside)
	apply(t, host, b.network(), b.bridge, sandbox.Config{})
	a.undo(t, host, inside)
}

func testInstances(t *testing.T, e Env) {
	host := e.host(t)
	other, err := e.Beside.Open(t.Context(), sandbox.Origin{Host: true})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	a, b := attach(1, 0, ""), attach(2, 0, "")
	apply(t, host, a.network(), sandbox.Config{}, a.bridge)
	apply(t, other, b.network(), sandbox.Config{}, b.bridge)
	same(t, host, a.network(), a.bridge)
	same(t, other, b.network(), b.bridge)
	for _, n := range []sandbox.Namespace{host, other} {
		if shares, err := n.Observe(t.Context()); err != nil || len(shares) != 1 {
			t.Errorf("an instance sees %v, %v", shares, err)
		}
	}
	apply(t, other, b.network(), b.bridge, sandbox.Config{})
	apply(t, host, a.network(), a.bridge, sandbox.Config{})
}

func testInTheWay(t *testing.T, e Env) {
	host := e.host(t)
	inside, _ := e.create(t)
	a := attach(1, 0, inside.Key())
	e.AddLink("", "br1")
	got, err := host.Apply(t.Context(), a.network(), sandbox.Config{}, a.bridge)
	if !errdefs.IsAlreadyExists(err) || len(got.Links) != 0 {
		t.Errorf("a bridge where a link is: reached %+v, %v", got, err)
	}
	if shares, err := host.Observe(t.Context()); err != nil || len(shares) != 0 {
		t.Errorf("somebody's link was taken: %v, %v", shares, err)
	}
	e.DelLink("", "br1")
	apply(t, host, a.network(), got, a.bridge)

	e.AddLink(inside.Key(), "eth0")
	got, err = host.Apply(t.Context(), a.owner(), sandbox.Config{}, a.endpoint)
	if !errdefs.IsAlreadyExists(err) || len(got.Links) != 0 {
		t.Errorf("a veth where its far end's name is taken: reached %+v, %v", got, err)
	}
	if links := e.Links(""); !slices.Equal(links, []string{"br1"}) {
		t.Errorf("half a veth was left: %v", links)
	}
	e.DelLink(inside.Key(), "eth0")
	apply(t, host, a.owner(), got, a.endpoint)
	apply(t, inside, "sb/x", sandbox.Config{}, a.inside)
	same(t, inside, "", a.inside)
	a.undo(t, host, inside)
}

func testRefusals(t *testing.T, e Env) {
	host := e.host(t)
	veth := func(change func(*sandbox.Link)) sandbox.Config {
		l := attach(1, 0, "").endpoint.Links[0]
		l.Master, l.Owner = "", "ep/x"
		change(&l)
		return sandbox.Config{Links: []sandbox.Link{l}}
	}
	addr := netip.MustParsePrefix("10.1.0.2/24")
	for _, c := range []struct {
		what string
		want sandbox.Config
		kind func(error) bool
	}{
		{"a name of 16 bytes", veth(func(l *sandbox.Link) { l.Name = "sv00000000000000" }), errdefs.IsInvalidArgument},
		{"a name with a slash", veth(func(l *sandbox.Link) { l.Name = "sv/0" }), errdefs.IsInvalidArgument},
		{"an MTU of 67", veth(func(l *sandbox.Link) { l.MTU = 67 }), errdefs.IsInvalidArgument},
		{"an MTU of 65,536", veth(func(l *sandbox.Link) { l.MTU = 65536 }), errdefs.IsInvalidArgument},
		{"a multicast MAC", veth(func(l *sandbox.Link) { l.MAC = []byte{3, 0, 0, 0, 0, 1} }), errdefs.IsInvalidArgument},
		{"a bridge that is not there", veth(func(l *sandbox.Link) { l.Master = "br9" }), errdefs.IsNotFound},
		{"a far end in no namespace", veth(func(l *sandbox.Link) { l.Veth = &sandbox.Veth{Peer: "eth0", Space: "/nowhere/at/all"} }), errdefs.IsNotFound},
		{"a far end that was never made", sandbox.Config{Links: []sandbox.Link{{Name: "eth7", Addrs: []netip.Prefix{addr}}}}, errdefs.IsNotFound},
		{"a route by a link that is not there", sandbox.Config{Routes: []sandbox.Route{{Dst: addr.Masked(), Link: "eth7"}}}, errdefs.IsNotFound},
		{"a gateway that is nobody's neighbour", sandbox.Config{
			Links:  veth(func(l *sandbox.Link) { l.Addrs = []netip.Prefix{addr} }).Links,
			Routes: []sandbox.Route{{Dst: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("10.8.0.1"), Link: "sv000000000010"}},
		}, errdefs.IsFailedPrecondition},
		{"a sysctl that there is not", sandbox.Config{Sysctls: []sandbox.Sysctl{{Key: "ipv4/conf/nolink/forwarding", Value: "1"}}}, errdefs.IsNotFound},
	} {
		reached, err := host.Apply(t.Context(), "ep/x", sandbox.Config{}, c.want)
		if !c.kind(err) {
			t.Errorf("%s: %v", c.what, err)
		}
		if _, err := host.Apply(t.Context(), "ep/x", reached, sandbox.Config{}); err != nil {
			t.Errorf("%s: undo what was reached: %v", c.what, err)
		}
		eventually(t, "undone: "+c.what, func() bool { return len(e.Links("")) == 0 })
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := host.Apply(ctx, "ep/x", sandbox.Config{}, veth(func(*sandbox.Link) {})); err == nil {
		t.Error("applied though the caller had given up")
	}
}

func testReached(t *testing.T, e Env) {
	host := e.host(t)
	inside, _ := e.create(t)
	a := attach(1, 0, inside.Key())
	apply(t, host, a.network(), sandbox.Config{}, a.bridge)
	apply(t, host, a.owner(), sandbox.Config{}, a.endpoint)
	bad := a.inside
	bad.Routes = append(slices.Clone(bad.Routes), sandbox.Route{Dst: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("10.8.0.1"), Link: "eth0"})
	reached, err := inside.Apply(t.Context(), "sb/x", sandbox.Config{}, bad)
	if err == nil {
		t.Fatal("a route by an unreachable gateway was taken")
	}
	same(t, inside, "", reached)
	if got := observe(t, inside, ""); len(sandbox.Diff(got, seen(reached, false))) != 0 {
		t.Errorf("there is %+v, and it says that it reached %+v", got, reached)
	}
	apply(t, inside, "sb/x", reached, a.inside)
	same(t, inside, "", a.inside)

	if reached, err = inside.Apply(t.Context(), "sb/x", a.inside, bad); err == nil {
		t.Fatal("a route by an unreachable gateway was taken")
	}
	apply(t, inside, "sb/x", reached, sandbox.Config{})
	a.undo(t, host, inside)
	eventually(t, "gone", func() bool { return len(e.Links("")) == 0 && len(e.Links(inside.Key())) == 0 })
}

func testRepair(t *testing.T, e Env) {
	host := e.host(t)
	inside, _ := e.create(t)
	a := attach(1, 0, inside.Key())
	a.make(t, host, inside)
	e.DelLink("", a.endpoint.Links[0].Name)
	eventually(t, "deleted at both ends", func() bool { return len(e.Links(inside.Key())) == 0 })
	apply(t, host, a.owner(), observe(t, host, a.owner()), a.endpoint)
	apply(t, inside, "sb/x", observe(t, inside, "").Within(a.inside), a.inside)
	same(t, host, a.owner(), a.endpoint)
	same(t, inside, "", a.inside)

	e.DelLink("", "br1")
	apply(t, host, a.network(), observe(t, host, a.network()), a.bridge)
	apply(t, host, a.owner(), observe(t, host, a.owner()), a.endpoint)
	same(t, host, a.network(), a.bridge)
	same(t, host, a.owner(), a.endpoint)
	a.undo(t, host, inside)
}

func testWatch(t *testing.T, e Env) {
	host := e.host(t)
	inside, _ := e.create(t)
	a := attach(1, 0, inside.Key())
	a.make(t, host, inside)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	told := make(chan string)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for owner, err := range host.Watch(ctx) {
			if err != nil {
				continue
			}
			select {
			case told <- owner:
			case <-ctx.Done():
			}
		}
	}()
	for got := ""; got != a.owner(); { // again and again, since nothing says when the watch has begun
		e.DelLink("", a.endpoint.Links[0].Name)
		select {
		case got = <-told:
		case <-time.After(patience / 50):
		}
		if ctx.Err() != nil {
			t.Fatal("nothing was told")
		}
		eventually(t, "deleted at both ends", func() bool { return len(e.Links(inside.Key())) == 0 })
		apply(t, host, a.owner(), observe(t, host, a.owner()), a.endpoint)
	}
	cancel()
	<-ended
	a.undo(t, host, inside)
}
