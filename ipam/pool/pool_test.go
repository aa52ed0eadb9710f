package pool_test

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"pgregory.net/rapid"

	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/ipamtest"
	"github.com/sealane/sealane/ipam/pool"
)

func TestDriver(t *testing.T) {
	ipamtest.Run(t, func(t testing.TB) ipam.Driver { return open(t, pool.Options{}) })
}

func TestFake(t *testing.T) {
	ipamtest.Run(t, func(t testing.TB) ipam.Driver { return &ipamtest.Fake{Driver: open(t, pool.Options{})} })
}

func open(t testing.TB, o pool.Options) *pool.Driver {
	t.Helper()
	d, err := pool.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func requestPool(t testing.TB, d *pool.Driver, r ipam.PoolRequest) ipam.Pool {
	t.Helper()
	p, err := d.RequestPool(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func request(t testing.TB, d *pool.Driver, r ipam.AddressRequest) netip.Addr {
	t.Helper()
	a, err := d.RequestAddress(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return a.Prefix.Addr()
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// drain takes all predefined subnets of a kind.
func drain(t *testing.T, d *pool.Driver, r ipam.PoolRequest) []string {
	t.Helper()
	var all []string
	for {
		p, err := d.RequestPool(context.Background(), r)
		if errdefs.IsResourceExhausted(err) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p.Subnet.String())
	}
}

func TestPredefined(t *testing.T) {
	var docker []string
	for i := 17; i < 32; i++ {
		docker = append(docker, fmt.Sprintf("172.%d.0.0/16", i))
	}
	for i := 0; i < 256; i += 16 {
		docker = append(docker, fmt.Sprintf("192.168.%d.0/20", i))
	}
	d := open(t, pool.Options{})
	if got := drain(t, d, ipam.PoolRequest{}); !slices.Equal(got, docker) || len(got) != 31 {
		t.Errorf("local: got %v", got)
	}
	for _, gap := range []string{"192.168.32.0/20", "172.18.0.0/16"} {
		if err := d.ReleasePool(context.Background(), ipam.PoolID("local/"+gap)); err != nil {
			t.Fatal(err)
		}
	}
	if got := drain(t, d, ipam.PoolRequest{}); !slices.Equal(got, []string{"172.18.0.0/16", "192.168.32.0/20"}) {
		t.Errorf("gaps: got %v", got)
	}
	for _, want := range []string{"10.0.0.0/24", "10.0.1.0/24"} {
		if p := requestPool(t, d, ipam.PoolRequest{Space: pool.Global}); p.Subnet.String() != want || p.ID != ipam.PoolID("global/"+want) {
			t.Errorf("global: got %+v, want %s", p, want)
		}
	}
	// A named subnet is stepped over, whatever part of the predefined ones it takes.
	d = open(t, pool.Options{})
	requestPool(t, d, ipam.PoolRequest{Subnet: prefix("172.18.5.0/24")})
	requestPool(t, d, ipam.PoolRequest{Subnet: prefix("172.20.0.0/14")})
	requestPool(t, d, ipam.PoolRequest{Subnet: prefix("172.24.0.0/13")})
	if got := drain(t, d, ipam.PoolRequest{}); !slices.Equal(got[:3], []string{"172.17.0.0/16", "172.19.0.0/16", "192.168.0.0/20"}) {
		t.Errorf("beside named ones: got %v", got)
	}
}

func TestHostsHaveTheirOwnIPv6(t *testing.T) {
	seen := map[netip.Prefix]string{}
	for _, id := range []string{"a", "b", "c"} {
		first := requestPool(t, open(t, pool.Options{HostID: id}), ipam.PoolRequest{IPv6: true}).Subnet
		again := requestPool(t, open(t, pool.Options{HostID: id}), ipam.PoolRequest{IPv6: true}).Subnet
		if first != again || first.Bits() != 64 || !prefix("fd00::/8").Contains(first.Addr()) || first.Addr().As16()[7] != 0 {
			t.Errorf("host %s: got %v and %v", id, first, again)
		}
		global := netip.PrefixFrom(first.Addr(), 48).Masked()
		if other, ok := seen[global]; ok {
			t.Errorf("hosts %s and %s share %v", id, other, global)
		}
		seen[global] = id
	}
	d := open(t, pool.Options{HostID: "a"})
	shared := requestPool(t, d, ipam.PoolRequest{IPv6: true, Space: pool.Global}).Subnet
	if _, local := seen[netip.PrefixFrom(shared.Addr(), 48).Masked()]; local || shared.Bits() != 64 || !prefix("fd00::/8").Contains(shared.Addr()) {
		t.Errorf("networks that hosts share: got %v", shared)
	}
	d = open(t, pool.Options{Global: []pool.Base{}})
	_, err := d.RequestPool(context.Background(), ipam.PoolRequest{IPv6: true, Space: pool.Global})
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "name one") {
		t.Errorf("nothing predefined: got %v", err)
	}
}

func TestOwnBases(t *testing.T) {
	d := open(t, pool.Options{Local: []pool.Base{{prefix("10.9.0.0/30"), 31}, {prefix("10.8.0.0/24"), 25}, {prefix("fd00::/8"), 127}}, Global: []pool.Base{}})
	if got := drain(t, d, ipam.PoolRequest{}); !slices.Equal(got, []string{"10.9.0.0/31", "10.9.0.2/31", "10.8.0.0/25", "10.8.0.128/25"}) {
		t.Errorf("IPv4, in the order given: got %v", got)
	}
	for range 3 { // a base of 2^119 subnets
		requestPool(t, d, ipam.PoolRequest{IPv6: true, Exclude: []netip.Prefix{prefix("fd00::/16")}})
	}
	p := requestPool(t, d, ipam.PoolRequest{IPv6: true, Exclude: []netip.Prefix{prefix("fd00::/16")}})
	if p.Subnet != prefix("fd01::6/127") {
		t.Errorf("IPv6: got %v", p.Subnet)
	}
	if _, err := d.RequestPool(context.Background(), ipam.PoolRequest{Space: pool.Global}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("no bases: got %v", err)
	}
	end := open(t, pool.Options{Local: []pool.Base{{prefix("fdff:ffff:ffff:ffff::/64"), 65}, {prefix("223.255.255.0/24"), 24}}})
	for range 2 {
		requestPool(t, end, ipam.PoolRequest{IPv6: true})
	}
	if got := drain(t, end, ipam.PoolRequest{IPv6: true}); len(got) != 0 {
		t.Errorf("beyond the end: got %v", got)
	}
	for _, b := range []pool.Base{{}, {prefix("10.0.0.1/8"), 24}, {prefix("10.0.0.0/8"), 7}, {prefix("10.0.0.0/8"), 33}, {prefix("fd00::/8"), 129},
		{prefix("224.0.0.0/8"), 24}} {
		if _, err := pool.New(pool.Options{Local: []pool.Base{b}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("base %v: got %v, want InvalidArgument", b, err)
		}
	}
}

// The first subnet that is free is found as by trying them one by one.
func TestPickIsFirstFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, err := pool.New(pool.Options{Local: []pool.Base{{prefix("10.0.0.0/24"), 28}, {prefix("10.0.2.0/25"), 27}}})
		if err != nil {
			t.Fatal(err)
		}
		some := rapid.Custom(func(t *rapid.T) netip.Prefix {
			a := netip.AddrFrom4([4]byte{10, 0, byte(rapid.IntRange(0, 2).Draw(t, "third")), rapid.Byte().Draw(t, "fourth")})
			return netip.PrefixFrom(a, rapid.IntRange(22, 32).Draw(t, "bits")).Masked()
		})
		var taken []netip.Prefix
		for _, p := range rapid.SliceOfN(some, 0, 8).Draw(t, "named") {
			if _, err := d.RequestPool(context.Background(), ipam.PoolRequest{Subnet: p}); err == nil {
				taken = append(taken, p)
			}
		}
		exclude := rapid.SliceOfN(some, 0, 4).Draw(t, "exclude")
		r := ipam.PoolRequest{Exclude: exclude}
		bits := 0
		if rapid.Bool().Draw(t, "sized") {
			bits = rapid.IntRange(23, 32).Draw(t, "size")
			r.Subnet = netip.PrefixFrom(netip.IPv4Unspecified(), bits)
		}
		want := firstFit(bits, slices.Concat(taken, exclude))
		got, err := d.RequestPool(context.Background(), r)
		if err != nil && !errdefs.IsResourceExhausted(err) || got.Subnet != want {
			t.Fatalf("got %v, %v, want %v", got.Subnet, err, want)
		}
	})
}

func firstFit(bits int, taken []netip.Prefix) netip.Prefix {
	for _, b := range []pool.Base{{prefix("10.0.0.0/24"), 28}, {prefix("10.0.2.0/25"), 27}} {
		size := b.Bits
		if bits != 0 {
			size = bits
		}
		if size < b.Net.Bits() {
			continue
		}
		for a := b.Net.Addr(); b.Net.Contains(a); a = a.Next() {
			p := netip.PrefixFrom(a, size)
			if p == p.Masked() && !slices.ContainsFunc(taken, p.Overlaps) {
				return p
			}
		}
	}
	return netip.Prefix{}
}

func TestPoolIDs(t *testing.T) {
	d := open(t, pool.Options{})
	for want, r := range map[ipam.PoolID]ipam.PoolRequest{
		"local/10.1.0.0/16":             {Subnet: prefix("10.1.0.0/16")},
		"local/10.2.0.0/16/10.2.5.0/24": {Subnet: prefix("10.2.0.0/16"), Range: prefix("10.2.5.0/24")},
		"global/fd00:1::/64":            {Subnet: prefix("fd00:1::/64"), Space: pool.Global},
	} {
		if p := requestPool(t, d, r); p.ID != want {
			t.Errorf("got %s, want %s", p.ID, want)
		}
	}
}

func TestOrder(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name          string
		pool, address map[string]string
		want          string
	}{
		{"lowest free", nil, nil, "1 2 3 2 1 4 5 6"},
		{"serial", map[string]string{"serial": "true"}, nil, "1 2 3 4 5 6 1 2"},
		{"serial, Docker's name", map[string]string{"com.docker.network.ipam.serial": "1"}, nil, "1 2 3 4 5 6 1 2"},
		{"serial by request", nil, map[string]string{"com.docker.network.ipam.serial": "true"}, "1 2 3 4 5 6 1 2"},
		{"lowest by request", map[string]string{"serial": "true"}, map[string]string{"serial": "false"}, "1 2 3 2 1 4 5 6"},
	} {
		d := open(t, pool.Options{})
		p := requestPool(t, d, ipam.PoolRequest{Subnet: prefix("10.1.0.0/29"), Options: c.pool})
		var got []string
		give := func() netip.Addr {
			a := request(t, d, ipam.AddressRequest{Pool: p.ID, Options: c.address})
			got = append(got, fmt.Sprint(a.As4()[3]))
			return a
		}
		first, second := give(), give()
		give()
		for _, a := range []netip.Addr{second, first} {
			if err := d.ReleaseAddress(ctx, p.ID, a); err != nil {
				t.Fatal(err)
			}
			give()
		}
		for range 3 {
			give()
		}
		if order := strings.Join(got, " "); order != c.want {
			t.Errorf("%s: got %s, want %s", c.name, order, c.want)
		}
	}
}

// Serial order goes on over blocks, and begins again with the first.
func TestSerialOverRanges(t *testing.T) {
	d := open(t, pool.Options{})
	p := requestPool(t, d, ipam.PoolRequest{Subnet: prefix("10.1.0.0/16"), Options: map[string]string{"serial": "true"}})
	if err := d.SetRanges(p.ID, []netip.Prefix{prefix("10.1.9.0/31"), prefix("10.1.5.0/31"), prefix("10.1.5.0/32")}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"10.1.5.0", "10.1.5.1", "10.1.9.0", "10.1.9.1", "10.1.5.0"} {
		a := request(t, d, ipam.AddressRequest{Pool: p.ID})
		if a.String() != want {
			t.Errorf("got %v, want %s", a, want)
		}
		if err := d.ReleaseAddress(context.Background(), p.ID, a); err != nil {
			t.Fatal(err)
		}
	}
	if u, err := d.Usage(p.ID); err != nil || u.Free != 4 {
		t.Errorf("a range inside another counts once: got %+v, %v", u, err)
	}
}

func TestOptions(t *testing.T) {
	ctx := context.Background()
	d := open(t, pool.Options{})
	p := requestPool(t, d, ipam.PoolRequest{Options: map[string]string{"com.example.other": "1"}})
	for _, o := range []map[string]string{{"serial": "perhaps"}, {"com.docker.network.ipam.serial": ""}, {"seriall": "true"}} {
		if _, err := d.RequestPool(ctx, ipam.PoolRequest{Options: o}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("pool %v: got %v, want InvalidArgument", o, err)
		}
		if _, err := d.RequestAddress(ctx, ipam.AddressRequest{Pool: p.ID, Options: o}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("address %v: got %v, want InvalidArgument", o, err)
		}
	}
	if u, err := d.Usage(p.ID); err != nil || u.InUse != 2 {
		t.Errorf("after refusals: %+v, %v", u, err)
	}
}

// A pool does what a map of owners does.
func TestPoolIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		d, err := pool.New(pool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := d.RequestPool(ctx, ipam.PoolRequest{Subnet: prefix("10.1.0.0/24"), Range: prefix("10.1.0.64/27")})
		if err != nil {
			t.Fatal(err)
		}
		owners := map[netip.Addr]string{}
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			a := netip.AddrFrom4([4]byte{10, 1, 0, byte(rapid.IntRange(60, 100).Draw(t, "address"))})
			owner := rapid.SampledFrom([]string{"ep/1", "ep/2", "ep/3"}).Draw(t, "owner")
			switch rapid.IntRange(0, 2).Draw(t, "verb") {
			case 0:
				_, err := d.RequestAddress(ctx, ipam.AddressRequest{Pool: p.ID, Address: a, Owner: owner})
				if holder, held := owners[a]; held && holder != owner {
					if !errdefs.IsAlreadyExists(err) {
						t.Fatalf("%v by %s, %s has it: %v", a, owner, holder, err)
					}
				} else if err != nil {
					t.Fatal(err)
				} else {
					owners[a] = owner
				}
			case 1:
				want := netip.Addr{}
				for b := p.Range.Addr(); p.Range.Contains(b); b = b.Next() {
					if _, held := owners[b]; !held {
						want = b
						break
					}
				}
				got, err := d.RequestAddress(ctx, ipam.AddressRequest{Pool: p.ID, Owner: owner})
				if got.Prefix.Addr() != want || want.IsValid() != (err == nil) || err != nil && !errdefs.IsResourceExhausted(err) {
					t.Fatalf("any: got %v, %v, want %v", got, err, want)
				}
				if err == nil {
					owners[want] = owner
				}
			case 2:
				if err := d.ReleaseAddress(ctx, p.ID, a); err != nil {
					t.Fatal(err)
				}
				delete(owners, a)
			}
		}
		if u, err := d.Usage(p.ID); err != nil || u.InUse != uint64(len(owners))+2 {
			t.Fatalf("%+v, %v, want %v", u, err, slices.Collect(maps.Keys(owners)))
		}
	})
}

// What was taken all over a large subnet and given back leaves nothing behind.
func TestMemoryIsGivenBack(t *testing.T) {
	ctx := context.Background()
	d := open(t, pool.Options{})
	p := requestPool(t, d, ipam.PoolRequest{Subnet: prefix("fd00:1::/64"), Options: map[string]string{"serial": "true"}})
	cycle := func() {
		for range 10_000 {
			a := request(t, d, ipam.AddressRequest{Pool: p.ID})
			if err := d.ReleaseAddress(ctx, p.ID, a); err != nil {
				t.Fatal(err)
			}
		}
	}
	cycle()
	if n := testing.AllocsPerRun(3, cycle); n > 100 { // each leaf and branch is the last one again
		t.Errorf("10,000 addresses one after the other make %v allocations", n)
	}
}
