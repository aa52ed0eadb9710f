package dns_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/resolver/dns"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// BenchmarkSet gives a new sandbox its resolver, rules included and with a holder as a daemon has it: the goal is 200 µs. What the processors
// spent on it tells more on a busy machine.
func BenchmarkSet(b *testing.B) {
	w := newWorld(b, func(o *dns.Options) { o.Keeper = held(b, filepath.Join(b.TempDir(), "resolver.sock")) })
	var cpu time.Duration
	for i := range b.N {
		b.StopTimer()
		ns := w.space()
		w.inside[sandbox.ID(fmt.Sprint(i))] = w.host // nobody asks: no handle need be opened
		before := spent(b)
		b.StartTimer()
		w.set(ns, resolver.View{Sandbox: sandbox.ID(fmt.Sprint(i)), Zones: []endpoint.NetworkID{blue}})
		b.StopTimer()
		cpu += spent(b) - before
		b.StartTimer()
	}
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// spent is the time of processors that this process has used.
func spent(b *testing.B) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
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
