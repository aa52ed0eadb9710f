package dns_test

import (
	"runtime"
	"testing"

	mdns "github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// TestSharedAlias: the addresses of an alias that several have come in another order now and then, whichever way they are answered; the name
// is written as it was asked.
func TestSharedAlias(t *testing.T) {
	w := newWorld(t, nil)
	one, two := published("1", "one", "10.1.0.2/24"), published("2", "two", "10.1.0.3/24")
	one.Aliases, two.Aliases = []string{"pool"}, []string{"pool"}
	w.zone(blue, "blue", one, two)
	w.set(w.space(), resolver.View{Sandbox: "a", Zones: []endpoint.NetworkID{blue}})
	for _, typ := range []uint16{mdns.TypeA, mdns.TypeANY} { // prepared, and by the library
		first := map[string]int{}
		for range 100 {
			m := w.ask("a", "PooL.Blue", typ)
			if data(m) != "10.1.0.2 10.1.0.3" || m.Question[0].Name != "PooL.Blue." || m.Answer[0].Header().Name != "PooL.Blue." {
				t.Fatal(m)
			}
			first[m.Answer[0].(*mdns.A).A.String()]++
		}
		if len(first) != 2 {
			t.Errorf("%s: the first was always one: %v", mdns.TypeToString[typ], first)
		}
	}
}

// TestNothingPerSandbox: a sandbox more is two sockets more, and no goroutine.
func TestNothingPerSandbox(t *testing.T) {
	w := newWorld(t, nil)
	w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
	more := func(id sandbox.ID) {
		w.set(w.space(), resolver.View{Sandbox: id, Zones: []endpoint.NetworkID{blue}})
		w.answers(id, "web", "10.1.0.2")
	}
	more("first")
	before := runtime.NumGoroutine()
	for i := range 30 {
		more(sandbox.ID(rune('a' + i)))
	}
	nstest.Eventually(t, "there are no more goroutines", func() bool { return runtime.NumGoroutine() <= before })
}
