package dns_test

import (
	"fmt"
	"testing"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// BenchmarkSet gives a new sandbox its resolver, rules included: the goal is 200 µs.
func BenchmarkSet(b *testing.B) {
	w := newWorld(b, nil)
	spaces := make([]sandbox.Namespace, b.N)
	for i := range spaces {
		spaces[i] = w.space()
		w.inside[sandbox.ID(fmt.Sprint(i))] = w.host // nobody asks: no handle need be opened
	}
	b.ResetTimer()
	for i, ns := range spaces {
		w.set(ns, resolver.View{Sandbox: sandbox.ID(fmt.Sprint(i)), Zones: []endpoint.NetworkID{blue}})
	}
}

// BenchmarkPut adds a name to a network that has many.
func BenchmarkPut(b *testing.B) {
	for _, many := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(many), func(b *testing.B) {
			w := newWorld(b, nil)
			for i := range many {
				w.zone(blue, "blue", published(fmt.Sprint(i), fmt.Sprint("n", i), fmt.Sprintf("10.%d.%d.2/8", i/200, i%200)))
			}
			p := published("new", "new", "10.200.0.2/8")
			b.ResetTimer()
			for range b.N {
				w.zone(blue, "blue", p)
			}
		})
	}
}
