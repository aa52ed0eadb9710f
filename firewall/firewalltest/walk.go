package firewalltest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/firewall"
	"pgregory.net/rapid"
)

// walk makes random changes in the room and in a Fake: both say yes or no to the same ones, and then the same is there, however it came
// about.
func walk(t *testing.T, f table) {
	ctx := context.Background()
	rapid.Check(t, func(r *rapid.T) {
		if err := f.Flush(ctx); err != nil {
			r.Fatal(err)
		}
		fake, err := new(Fake).Open(ctx, "")
		if err != nil {
			r.Fatal(err)
		}
		have := map[string]firewall.Terms{}
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			changes := drawChanges(r, have)
			err, want := f.Apply(ctx, changes), fake.Apply(ctx, changes)
			if (err == nil) != (want == nil) || err != nil && errdefs.Resolve(err) != errdefs.Resolve(want) {
				r.Fatalf("%v: got %v, want %v", changes, err, want)
			}
			if err == nil {
				for _, c := range changes {
					have[c.Owner] = c.Want
				}
			}
			compareWithFake(r, f, fake)
		}
	})
}

func compareWithFake(r *rapid.T, f, fake firewall.Firewall) {
	got, err := f.Observe(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	want, err := fake.Observe(context.Background())
	if err != nil {
		r.Fatal(err)
	}
	if diff := compare(want, got); diff != "" {
		r.Fatalf("(-fake +room):\n%s", diff)
	}
}

// drawChanges changes some of four owners; Have is right, or tells also of what is not there.
func drawChanges(r *rapid.T, have map[string]firewall.Terms) []firewall.Change {
	owners := rapid.Permutation([]string{"net/1", "net/2", "ep/1", "ep/2"}).Draw(r, "owners")
	var changes []firewall.Change
	for _, owner := range owners[:rapid.IntRange(1, len(owners)).Draw(r, "changes")] {
		c := firewall.Change{Owner: owner, Have: have[owner], Want: drawTerms(r)}
		if rapid.IntRange(0, 9).Draw(r, "stale") == 0 {
			c.Have.Ports = append(slices.Clone(c.Have.Ports), port(firewall.TCP, "192.0.2.99", 1, 3, "10.1.0.9", 1))
		}
		changes = append(changes, c)
	}
	return changes
}

func drawTerms(r *rapid.T) (t firewall.Terms) {
	for _, device := range []string{"br1", "br2"} {
		if rapid.IntRange(0, 3).Draw(r, "network") == 0 {
			n := network(device)
			n.Subnets = rapid.SliceOfDistinct(rapid.SampledFrom(prefixes("10.1.0.0/24", "10.2.0.0/16", "10.3.0.1/32", "fd00::/8", "0.0.0.0/1")), rapid.ID).
				Filter(func(p []netip.Prefix) bool { return !overlap(p) }).Draw(r, "subnets")
			n.Internal, n.NoMasq = rapid.Bool().Draw(r, "internal"), rapid.Bool().Draw(r, "no masquerade")
			n.Mode6 = rapid.SampledFrom([]firewall.Mode{firewall.NAT, firewall.Off}).Draw(r, "IPv6")
			t.Networks = append(t.Networks, n)
		}
	}
	hosts := map[string]string{"0.0.0.0": "10.1.0.2", "192.0.2.1": "10.1.0.2", "::": "fd00:1::2", "2001:db8::1": "fd00:1::2"}
	for i := range rapid.IntRange(0, 3).Draw(r, "ports") {
		host := rapid.SampledFrom(slices.Sorted(maps.Keys(hosts))).Draw(r, fmt.Sprint("host ", i))
		first := rapid.Uint16Range(8000, 8005).Draw(r, "first")
		last := rapid.Uint16Range(first, first+2).Draw(r, "last")
		proto := rapid.SampledFrom([]firewall.Proto{firewall.TCP, firewall.UDP}).Draw(r, "proto")
		t.Ports = append(t.Ports, port(proto, host, first, last, hosts[host], rapid.Uint16Range(1, 3).Draw(r, "to")))
	}
	return t
}

func overlap(prefixes []netip.Prefix) bool {
	for i, p := range prefixes {
		if slices.ContainsFunc(prefixes[:i], p.Overlaps) {
			return true
		}
	}
	return false
}
