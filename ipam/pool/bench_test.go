package pool_test

import (
	"context"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/pool"
)

const endpoint = "ep/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// A /16 with 0, 50 and 99 % of its addresses taken, those left free scattered over it. A hundred addresses are taken and then given
// back, so that each verb has a figure of its own.
func BenchmarkRequestRelease(b *testing.B) {
	for _, percent := range []int{0, 50, 99} {
		b.Run(strconv.Itoa(percent), func(b *testing.B) {
			ctx := context.Background()
			d, p := filled(b, percent)
			var taken [100]netip.Addr
			var requests, releases time.Duration
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				for i := range taken {
					a, err := d.RequestAddress(ctx, ipam.AddressRequest{Pool: p.ID, Owner: endpoint})
					if err != nil {
						b.Fatal(err)
					}
					taken[i] = a.Prefix.Addr()
				}
				half := time.Now()
				for _, a := range taken {
					if err := d.ReleaseAddress(ctx, p.ID, a); err != nil {
						b.Fatal(err)
					}
				}
				requests, releases = requests+half.Sub(start), releases+time.Since(half)
			}
			n := float64(b.N * len(taken))
			b.ReportMetric(float64(requests.Nanoseconds())/n, "ns/request")
			b.ReportMetric(float64(releases.Nanoseconds())/n, "ns/release")
		})
	}
}

func filled(b *testing.B, percent int) (*pool.Driver, ipam.Pool) {
	b.Helper()
	ctx := context.Background()
	d, err := pool.New(pool.Options{})
	if err != nil {
		b.Fatal(err)
	}
	p, err := d.RequestPool(ctx, ipam.PoolRequest{Subnet: netip.MustParsePrefix("10.7.0.0/16"), Owner: "net/blue"})
	if err != nil {
		b.Fatal(err)
	}
	for a := p.Subnet.Addr().Next(); p.Subnet.Contains(a.Next()); a = a.Next() {
		b4 := a.As4()
		scattered := (int(b4[2])<<8 | int(b4[3])) * 7919 % 100
		if scattered >= percent {
			continue
		}
		if _, err := d.RequestAddress(ctx, ipam.AddressRequest{Pool: p.ID, Address: a, Owner: "ep/" + a.String()}); err != nil {
			b.Fatal(err)
		}
	}
	return d, p
}
