package nftables_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nstest"
)

// many is n ports of one container.
func many(first, n int) firewall.Terms {
	from := uint16(first)
	return firewall.Terms{Ports: []firewall.Port{{Interface: "sl-1", Proto: firewall.TCP, Host: addr("0.0.0.0"), Target: addr("10.1.0.2"),
		HostPorts: firewall.Range{First: from, Last: from + uint16(n) - 1}, Ports: firewall.Range{First: 1, Last: uint16(n)}}}}
}

// filled is a host with a network and n published ports from 10000 up.
func filled(t testing.TB, n int) (*nstest.Host, firewall.Firewall) {
	h := nstest.New(t, "h")
	_, f := open(t, h, "")
	apply(t, f, firewall.Change{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{net1()}}})
	if n > 0 {
		apply(t, f, firewall.Change{Owner: "ep/filling", Want: many(10000, n)})
	}
	return h, f
}

// BenchmarkPublish publishes one port more and withdraws it, with n there.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{0, 1000, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			_, f := filled(b, n)
			publish := []firewall.Change{{Owner: "ep/1", Want: port80()}}
			withdraw := []firewall.Change{{Owner: "ep/1", Have: port80()}}
			for b.Loop() {
				apply(b, f, publish...)
				apply(b, f, withdraw...)
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(2*b.N), "µs/port")
		})
	}
}

// BenchmarkPublishThousand publishes a thousand ports in one call and withdraws them.
func BenchmarkPublishThousand(b *testing.B) {
	_, f := filled(b, 0)
	for b.Loop() {
		apply(b, f, firewall.Change{Owner: "ep/1", Want: many(20000, 1000)})
		apply(b, f, firewall.Change{Owner: "ep/1", Have: many(20000, 1000)})
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(2*b.N), "µs/call")
}

// BenchmarkNetwork makes a network and removes it.
func BenchmarkNetwork(b *testing.B) {
	_, f := filled(b, 0)
	n := firewall.Terms{Networks: []firewall.Network{net2()}}
	for b.Loop() {
		apply(b, f, firewall.Change{Owner: "net/2", Want: n})
		apply(b, f, firewall.Change{Owner: "net/2", Have: n})
	}
}

// TestFlat: one port more costs no more with 5,000 there than with none, and a thousand go in one call. The limits are several times what
// is promised and the least of many tries is compared, so that a busy machine does not fail the test; the benchmarks print what it is.
func TestFlat(t *testing.T) {
	const rounds = 200
	least := func(n int) time.Duration {
		_, f := filled(t, n)
		var took []time.Duration
		for range rounds {
			begin := time.Now()
			if err := f.Apply(context.Background(), []firewall.Change{{Owner: "ep/1", Want: port80()}}); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(begin))
			apply(t, f, firewall.Change{Owner: "ep/1", Have: port80()})
		}
		return slices.Min(took)
	}
	none, full := least(0), least(5000)
	_, f := filled(t, 0)
	begin := time.Now()
	apply(t, f, firewall.Change{Owner: "ep/1", Want: many(20000, 1000)})
	nstest.Within(t, "1,000 ports in one call", time.Since(begin), 200*time.Millisecond)
	t.Logf("one port with none there: %v", none)
	nstest.Within(t, "one port with 5,000 there", full, 3*none+100*time.Microsecond)
}
