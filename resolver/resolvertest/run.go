// Package resolvertest is a resolver in memory and the facts that every room of resolver is tested against.
package resolvertest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// Env is a room and what the suite needs to ask it.
type Env struct {
	Resolver resolver.Resolver
	Space    func() sandbox.Namespace // makes a namespace
	Host     sandbox.Namespace
	// Ask asks from inside a sandbox, as Fake.Lookup does.
	Ask func(id sandbox.ID, name, typ string) (answers []string, known bool, err error)
}

// Run runs the facts that hold for every room. open is called once for each, and cleans up with t.
func Run(t *testing.T, open func(t testing.TB) Env) {
	for _, fact := range []struct {
		name string
		test func(*testing.T, Env)
	}{
		{"names, aliases and names with their network are answered", testNames},
		{"a known name without the family is known and empty", testNoData},
		{"addresses have names", testReverse},
		{"a sandbox sees its own networks only", testOwnNetworks},
		{"networks are asked in order", testOrder},
		{"link aliases are private", testPrivate},
		{"an alias may be shared", testShared},
		{"a wildcard stands for what has no name of its own", testWildcard},
		{"an alias may lead to another name", testCanonical},
		{"what is put replaces, what is dropped is gone", testChange},
		{"a view is replaced", testView},
		{"a sandbox keeps its redirects", testRedirects},
		{"removing ends the answers", testRemove},
		{"a sweep leaves those it is told", testSweep},
		{"the host has no resolver", testHost},
		{"changes and questions go on at once", testConcurrent},
	} {
		t.Run(fact.name, func(t *testing.T) { fact.test(t, open(t)) })
	}
}

const blue, green = endpoint.NetworkID("b1"), endpoint.NetworkID("9e")

func published(id, name string, addrs ...string) endpoint.Published {
	p := endpoint.Published{ID: endpoint.ID(id), Name: name}
	for _, a := range addrs {
		p.Addresses = append(p.Addresses, netip.MustParsePrefix(a))
	}
	return p
}

func (e Env) set(t *testing.T, v resolver.View) sandbox.Namespace {
	t.Helper()
	ns := e.Space()
	if _, err := e.Resolver.Set(t.Context(), ns, v); err != nil {
		t.Fatal(err)
	}
	return ns
}

func (e Env) zone(t *testing.T, id endpoint.NetworkID, c resolver.Change) {
	t.Helper()
	if err := e.Resolver.SetZone(t.Context(), id, c); err != nil {
		t.Fatal(err)
	}
}

// says fails unless the answer is want: addresses or names, "none" for a known name without them, "unknown".
func (e Env) says(t *testing.T, id sandbox.ID, name, typ, want string) {
	t.Helper()
	answers, known, err := e.Ask(id, name, typ)
	got := strings.Join(answers, " ")
	switch {
	case err != nil:
		got = err.Error()
	case got == "" && known:
		got = "none"
	case got == "":
		got = "unknown"
	}
	if got != want {
		t.Errorf("%s %s: %s, want %s", name, typ, got, want)
	}
}

// two is a dual-stack endpoint and one with IPv4 only, in the network blue.
func (e Env) two(t *testing.T) sandbox.ID {
	t.Helper()
	web := published("1", "web", "10.1.0.2/24", "fd00:1::2/64")
	web.Aliases = []string{"www", "0123456789ab"}
	e.zone(t, blue, resolver.Change{Name: "blue", Put: []endpoint.Published{web, published("2", "db", "10.1.0.3/24")}})
	e.set(t, resolver.View{Sandbox: "5b", Zones: []endpoint.NetworkID{blue}})
	return "5b"
}

func testNames(t *testing.T, e Env) {
	sb := e.two(t)
	for _, name := range []string{"web", "WeB", "www", "0123456789ab", "web.blue", "www.Blue"} {
		e.says(t, sb, name, "A", "10.1.0.2")
		e.says(t, sb, name, "AAAA", "fd00:1::2")
	}
	e.says(t, sb, "other", "A", "unknown")
	e.says(t, sb, "web.green", "A", "unknown")
}

func testNoData(t *testing.T, e Env) {
	e.says(t, e.two(t), "db", "AAAA", "none")
	e.set(t, resolver.View{Sandbox: "4", Zones: []endpoint.NetworkID{blue}, NoIPv6: true})
	e.says(t, "4", "web", "AAAA", "none")
}

func testReverse(t *testing.T, e Env) {
	sb := e.two(t)
	e.says(t, sb, "10.1.0.2", "PTR", "web.blue.")
	e.says(t, sb, "fd00:1::2", "PTR", "web.blue.")
	e.says(t, sb, "10.1.0.9", "PTR", "unknown")
}

func testOwnNetworks(t *testing.T, e Env) {
	sb := e.two(t)
	e.zone(t, green, resolver.Change{Name: "green", Put: []endpoint.Published{published("3", "cache", "10.2.0.2/24")}})
	e.says(t, sb, "cache", "A", "unknown")
	e.says(t, sb, "cache.green", "A", "unknown")
	e.says(t, sb, "10.2.0.2", "PTR", "unknown")
}

func testOrder(t *testing.T, e Env) {
	e.two(t)
	e.zone(t, green, resolver.Change{Name: "green", Put: []endpoint.Published{published("3", "web", "10.2.0.2/24"), published("4", "db", "fd00:2::3/64")}})
	e.set(t, resolver.View{Sandbox: "a", Zones: []endpoint.NetworkID{blue, green}})
	e.set(t, resolver.View{Sandbox: "b", Zones: []endpoint.NetworkID{green, blue}})
	e.says(t, "a", "web", "A", "10.1.0.2")
	e.says(t, "b", "web", "A", "10.2.0.2")
	e.says(t, "a", "web.green", "A", "10.2.0.2")
	e.says(t, "a", "db", "AAAA", "fd00:2::3") // the first that has such an address
}

func testPrivate(t *testing.T, e Env) {
	e.two(t)
	e.set(t, resolver.View{Sandbox: "a", Zones: []endpoint.NetworkID{blue}, Private: map[string]string{"Postgres": "db"}})
	e.says(t, "a", "postgres", "A", "10.1.0.3")
	e.says(t, "a", "postgres", "AAAA", "none")
	e.says(t, "5b", "postgres", "A", "unknown")
}

func testShared(t *testing.T, e Env) {
	sb := e.two(t)
	one, two := published("3", "one", "10.1.0.5/24"), published("4", "two", "10.1.0.6/24")
	one.Aliases, two.Aliases = []string{"pool"}, []string{"POOL"}
	e.zone(t, blue, resolver.Change{Name: "blue", Put: []endpoint.Published{one, two}})
	e.says(t, sb, "pool", "A", "10.1.0.5 10.1.0.6")
	e.zone(t, blue, resolver.Change{Name: "blue", Drop: []endpoint.ID{"3"}})
	e.says(t, sb, "pool", "A", "10.1.0.6")
	e.says(t, sb, "one", "A", "unknown")
}

func testWildcard(t *testing.T, e Env) {
	sb := e.two(t)
	one, own := published("3", "one", "10.1.0.5/24"), published("4", "own.api", "10.1.0.6/24")
	one.Aliases = []string{"*.api"}
	e.zone(t, blue, resolver.Change{Name: "blue", Put: []endpoint.Published{one, own}})
	for name, want := range map[string]string{"v1.api": "10.1.0.5", "a.b.API": "10.1.0.5", "v1.api.blue": "10.1.0.5", "own.api": "10.1.0.6", "api": "unknown"} {
		e.says(t, sb, name, "A", want)
	}
}

func testCanonical(t *testing.T, e Env) {
	sb := e.two(t)
	one := published("3", "one", "10.1.0.5/24")
	one.Aliases = []string{"site=WEB", "chain=site", "loop=loop"}
	e.zone(t, blue, resolver.Change{Name: "blue", Put: []endpoint.Published{one}})
	e.says(t, sb, "site", "A", "10.1.0.2")
	e.says(t, sb, "chain", "AAAA", "fd00:1::2")
	e.says(t, sb, "loop", "A", "none")
}

func testChange(t *testing.T, e Env) {
	sb := e.two(t)
	e.zone(t, blue, resolver.Change{Name: "blue", Put: []endpoint.Published{published("1", "web2", "10.1.0.7/24")}})
	e.says(t, sb, "web", "A", "unknown")
	e.says(t, sb, "www", "A", "unknown")
	e.says(t, sb, "10.1.0.2", "PTR", "unknown")
	e.says(t, sb, "web2", "A", "10.1.0.7")
	e.zone(t, blue, resolver.Change{Name: "blue", Drop: []endpoint.ID{"1", "2", "77"}})
	e.says(t, sb, "web2", "A", "unknown")
	e.says(t, sb, "10.1.0.7", "PTR", "unknown")
	e.zone(t, blue, resolver.Change{Name: "blue", Put: []endpoint.Published{published("8", "back", "10.1.0.8/24")}})
	e.says(t, sb, "back", "A", "10.1.0.8")
}

func testView(t *testing.T, e Env) {
	e.two(t)
	ns := e.set(t, resolver.View{Sandbox: "a"})
	e.says(t, "a", "web", "A", "unknown")
	if _, err := e.Resolver.Set(t.Context(), ns, resolver.View{Sandbox: "a", Zones: []endpoint.NetworkID{blue}}); err != nil {
		t.Fatal(err)
	}
	e.says(t, "a", "web", "A", "10.1.0.2")
}

func testRedirects(t *testing.T, e Env) {
	ns := e.Space()
	first, err := e.Resolver.Set(t.Context(), ns, resolver.View{Sandbox: "a"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.Resolver.Set(t.Context(), ns, resolver.View{Sandbox: "a", Forward: true})
	if err != nil {
		t.Fatal(err)
	}
	want := netip.AddrPortFrom(resolver.Address(), 53)
	if len(first) != 1 || first[0].To != want || first[0].Port == 0 || !slices.Equal(first, again) {
		t.Errorf("redirects %v, then %v", first, again)
	}
}

func testRemove(t *testing.T, e Env) {
	sb := e.two(t)
	for range 2 {
		if err := e.Resolver.Remove(t.Context(), sb); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := e.Ask(sb, "web", "A"); err == nil {
		t.Error("it is answered after Remove")
	}
}

func testSweep(t *testing.T, e Env) {
	s, able := e.Resolver.(resolver.Sweeper)
	if !able {
		t.Skip("the room keeps nothing")
	}
	sb := e.two(t)
	if err := s.Sweep(t.Context(), []sandbox.ID{sb, "77"}); err != nil {
		t.Fatal(err)
	}
	e.says(t, sb, "web", "A", "10.1.0.2")
}

func testHost(t *testing.T, e Env) {
	if _, err := e.Resolver.Set(t.Context(), e.Host, resolver.View{Sandbox: "a"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Set in the host's namespace: %v, want InvalidArgument", err)
	}
	if _, err := e.Resolver.Set(t.Context(), e.Space(), resolver.View{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Set of no sandbox: %v, want InvalidArgument", err)
	}
}

func testConcurrent(t *testing.T, e Env) {
	sb := e.two(t)
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			for n := range 50 {
				id, name := fmt.Sprintf("c%d", i), fmt.Sprintf("n%d-%d", i, n)
				p := published(id, name, fmt.Sprintf("10.1.%d.%d/16", i+1, n+1))
				if err := e.Resolver.SetZone(t.Context(), blue, resolver.Change{Name: "blue", Put: []endpoint.Published{p}}); err != nil {
					t.Error(err)
				}
				e.says(t, sb, name, "A", p.Addresses[0].Addr().String())
				e.says(t, sb, "web", "A", "10.1.0.2")
			}
		})
	}
	work.Wait()
}
