package ipamtest

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/ipam"
)

func capability(t *testing.T, s *session) {
	if c := s.capability; c.LocalSpace == "" || c.GlobalSpace == "" {
		t.Errorf("a driver has default address spaces: %+v", c)
	}
}

func namedPool(t *testing.T, s *session) {
	for _, r := range []ipam.PoolRequest{
		{Subnet: prefix("10.1.0.0/16"), Owner: "net/a"},
		{Subnet: prefix("10.2.0.0/16"), Range: prefix("10.2.5.0/24"), Owner: "net/b"},
		{Subnet: prefix("10.3.0.0/24"), Range: prefix("10.3.0.0/24"), Owner: "net/c"},
		{Subnet: prefix("fd00:1::/64"), Owner: "net/a"},
		{Subnet: prefix("fd00:2::/64"), Range: prefix("fd00:2::100/120"), Owner: "net/b"},
		{Subnet: prefix("10.1.0.0/16"), Owner: "net/g", Space: s.capability.GlobalSpace},
	} {
		p := s.must(r)
		if p.Subnet != r.Subnet {
			t.Errorf("%v: got %v", r.Subnet, p.Subnet)
		}
		a := s.mustAddress(p, ipam.AddressRequest{Owner: "ep/1"})
		again := s.must(r)
		if again.ID != p.ID || again.Gateway != p.Gateway {
			t.Errorf("%v asked for again by its owner: got %+v, want %+v", r.Subnet, again, p)
		}
		_, err := s.address(p, ipam.AddressRequest{Address: a, Owner: "ep/2"})
		s.wantKind("an address of a pool that was asked for again", err, errdefs.IsAlreadyExists)
	}
	p := s.must(ipam.PoolRequest{Subnet: prefix("10.9.0.0/16"), Owner: "net/d", Space: s.capability.LocalSpace})
	if again := s.subnet("10.9.0.0/16", "net/d"); again.ID != p.ID {
		t.Errorf("no space is the local one: got %s, want %s", again.ID, p.ID)
	}
}

func overlappingPools(t *testing.T, s *session) {
	s.subnet("10.1.0.0/16", "net/a")
	s.must(ipam.PoolRequest{Subnet: prefix("10.2.0.0/16"), Range: prefix("10.2.5.0/24"), Owner: "net/a"})
	s.subnet("fd00:1::/64", "net/a")
	for _, r := range []ipam.PoolRequest{
		{Subnet: prefix("10.1.0.0/16"), Owner: "net/b"},
		{Subnet: prefix("10.1.0.0/16")},
		{Subnet: prefix("10.1.0.0/16"), Range: prefix("10.1.5.0/24"), Owner: "net/b"},
		{Subnet: prefix("10.1.0.0/16"), Range: prefix("10.1.5.0/24"), Owner: "net/a"}, // not exactly what it has
		{Subnet: prefix("10.1.5.0/24"), Owner: "net/b"},
		{Subnet: prefix("10.1.255.255/32"), Owner: "net/b"},
		{Subnet: prefix("10.0.0.0/8"), Owner: "net/b"},
		{Subnet: prefix("10.2.0.0/16"), Range: prefix("10.2.6.0/24"), Owner: "net/b"}, // ranges apart, subnets not
		{Subnet: prefix("10.2.0.0/16"), Owner: "net/a"},
		{Subnet: prefix("fd00:1::/64"), Owner: "net/b"},
		{Subnet: prefix("fd00:1::/80"), Owner: "net/b"},
		{Subnet: prefix("fd00::/16"), Owner: "net/b"},
	} {
		p, err := s.pool(r)
		s.wantKind(fmt.Sprintf("%v by %q, got %s", r.Subnet, r.Owner, p.ID), err, errdefs.IsAlreadyExists)
	}
	nobody := s.subnet("10.4.0.0/16", "")
	_, err := s.pool(ipam.PoolRequest{Subnet: nobody.Subnet})
	s.wantKind("nobody again", err, errdefs.IsAlreadyExists)
	s.subnet("10.3.0.0/16", "net/b") // beside them
	s.must(ipam.PoolRequest{Subnet: prefix("10.1.0.0/16"), Space: s.capability.GlobalSpace, Owner: "net/b"})
	if t.Failed() {
		t.FailNow()
	}
}

// Spaces that are named below a default one are apart from it and from each other, but for what the driver chooses.
func subspaces(t *testing.T, s *session) {
	if !s.capability.Subspaces {
		return
	}
	for _, above := range []string{s.capability.LocalSpace, s.capability.GlobalSpace} {
		named := ipam.PoolRequest{Subnet: prefix("10.1.0.0/16"), Space: above, Owner: "net/a"}
		seen := map[ipam.PoolID]bool{s.must(named).ID: true}
		taken := s.must(ipam.PoolRequest{Space: above, Owner: "net/a"})
		for _, owner := range []string{"b", "c"} {
			named.Space, named.Owner = above+"/"+owner, "net/"+owner
			p := s.must(named)
			if seen[p.ID] {
				t.Errorf("%s is the id of two pools", p.ID)
			}
			seen[p.ID] = true
			if again := s.must(named); again.ID != p.ID {
				t.Errorf("asked again: %s, before %s", again.ID, p.ID)
			}
			_, err := s.pool(ipam.PoolRequest{Subnet: prefix("10.1.7.0/24"), Space: named.Space, Owner: "net/x"})
			s.wantKind("an overlap in "+named.Space, err, errdefs.IsAlreadyExists)
			if chosen := s.must(ipam.PoolRequest{Space: named.Space, Owner: named.Owner}); chosen.Subnet.Overlaps(taken.Subnet) {
				t.Errorf("%s chosen, which is in %s", chosen.Subnet, above)
			}
			if a := s.mustAddress(p, ipam.AddressRequest{Address: addr("10.1.0.9"), Owner: "ep/" + owner}); a != addr("10.1.0.9") {
				t.Errorf("the same address in %s: %s", named.Space, a)
			}
			s.releasePool(p.ID)
		}
	}
	_, err := s.pool(ipam.PoolRequest{Subnet: prefix("10.1.0.0/16"), Space: s.capability.LocalSpace + "/"})
	s.wantKind("a space without a name", err, errdefs.IsInvalidArgument)
}

func predefinedPools(t *testing.T, s *session) {
	var seen []ipam.Pool
	for i := range 12 {
		r := ipam.PoolRequest{IPv6: i%3 == 2, Owner: "net/a"} // nobody can tell such requests from repeats: each has its own
		if i%3 == 1 {
			r.Space = s.capability.GlobalSpace
		}
		p := s.must(r)
		if p.Subnet.Addr().Is6() != r.IPv6 {
			t.Errorf("IPv6 %v: got %v", r.IPv6, p.Subnet)
		}
		for j, q := range seen {
			if p.ID == q.ID || j%3 == i%3 && p.Subnet.Overlaps(q.Subnet) {
				t.Errorf("%s overlaps %s", p.ID, q.ID)
			}
		}
		seen = append(seen, p)
	}
	_, err := s.pool(ipam.PoolRequest{Subnet: seen[0].Subnet, Owner: "net/b"})
	s.wantKind("a subnet that was given", err, errdefs.IsAlreadyExists)
	s.releasePool(seen[0].ID)
	if p := s.must(ipam.PoolRequest{Owner: "net/b"}); p.Subnet != seen[0].Subnet {
		t.Errorf("a gap is filled first: got %v, want %v", p.Subnet, seen[0].Subnet)
	}
}

func poolsOfSize(t *testing.T, s *session) {
	var seen []netip.Prefix
	for _, size := range []string{"0.0.0.0/24", "0.0.0.0/24", "0.0.0.0/28", "0.0.0.0/20", "0.0.0.0/31", "::/64", "::/80", "::/80", "::/112"} {
		want := prefix(size)
		p := s.must(ipam.PoolRequest{Subnet: want, Owner: "net/a"})
		if p.Subnet.Bits() != want.Bits() || p.Subnet.Addr().Is4() != want.Addr().Is4() || p.Subnet.Addr().IsUnspecified() {
			t.Errorf("%s: got %v", size, p.Subnet)
		}
		for _, q := range seen {
			if p.Subnet.Overlaps(q) {
				t.Errorf("%v overlaps %v", p.Subnet, q)
			}
		}
		seen = append(seen, p.Subnet)
	}
	_, err := s.pool(ipam.PoolRequest{Subnet: prefix("0.0.0.0/1"), Owner: "net/a"})
	s.wantKind("half of all addresses", err, errdefs.IsResourceExhausted)
}

func exclude(t *testing.T, s *session) {
	first := s.must(ipam.PoolRequest{Owner: "net/a"})
	s.releasePool(first.ID)
	inside := netip.PrefixFrom(first.Subnet.Addr().Next(), 32)
	for _, r := range []ipam.PoolRequest{{Owner: "net/a"}, {Owner: "net/a", Subnet: prefix("0.0.0.0/24")}} {
		r.Exclude = []netip.Prefix{inside, netip.PrefixFrom(inside.Addr(), 24), prefix("192.0.2.1/32"), prefix("fe80::/10")}
		p := s.must(r)
		for _, e := range r.Exclude {
			if p.Subnet.Overlaps(e) {
				t.Errorf("%v overlaps %v, which was excluded", p.Subnet, e)
			}
		}
		s.releasePool(p.ID)
	}
	everything := []netip.Prefix{prefix("0.0.0.0/0")}
	_, err := s.pool(ipam.PoolRequest{Owner: "net/a", Exclude: everything})
	s.wantKind("everything excluded", err, errdefs.IsResourceExhausted)
	if p, err := s.pool(ipam.PoolRequest{Subnet: first.Subnet, Owner: "net/a", Exclude: everything}); err != nil {
		t.Errorf("a subnet that is named is not offered: %v, %v", p, err)
	}
}

func badPools(t *testing.T, s *session) {
	for _, r := range []ipam.PoolRequest{
		{Subnet: prefix("10.1.0.1/16")},
		{Subnet: prefix("fd00::1/64")},
		{Subnet: netip.PrefixFrom(addr("10.1.0.0"), 33)},
		{Subnet: netip.PrefixFrom(addr("10.1.0.0"), -1)},
		{Subnet: netip.PrefixFrom(addr("fd00::"), 129)},
		{Subnet: netip.PrefixFrom(addr("::ffff:10.1.0.0"), 112)},
		{Subnet: prefix("224.1.0.0/16")},
		{Subnet: prefix("128.0.0.0/1")},
		{Subnet: prefix("ff02::/64")},
		{Subnet: prefix("127.0.0.0/24")},
		{Subnet: prefix("::1/128")},
		{Subnet: prefix("10.1.0.0/16"), Range: prefix("10.1.5.1/24")},
		{Subnet: prefix("10.1.0.0/16"), Range: prefix("10.2.5.0/24")},
		{Subnet: prefix("10.1.0.0/16"), Range: prefix("10.0.0.0/8")},
		{Subnet: prefix("10.1.0.0/16"), Range: prefix("fd00::/64")},
		{Subnet: prefix("10.1.0.0/16"), Range: netip.PrefixFrom(addr("10.1.0.0"), 40)},
		{Subnet: prefix("fd00:1::/64"), Range: prefix("10.1.5.0/24")},
		{Subnet: prefix("0.0.0.0/24"), Range: prefix("10.1.5.0/24")},
		{Range: prefix("10.1.5.0/24")},
		{Subnet: prefix("10.1.0.0/16"), Space: "no such space"},
		{Exclude: []netip.Prefix{{}}},
	} {
		r.Owner = "net/bad"
		p, err := s.pool(r)
		s.wantKind(fmt.Sprintf("%+v, got %s", r, p.ID), err, errdefs.IsInvalidArgument)
		if err != nil && r.Subnet.IsValid() && !strings.Contains(err.Error(), r.Subnet.String()) {
			t.Errorf("the error does not name %v: %v", r.Subnet, err)
		}
	}
	s.subnet("10.1.0.0/16", "net/a") // none of them left anything
	s.subnet("fd00:1::/64", "net/a")
}

func releasePool(t *testing.T, s *session) {
	s.releasePool("never/10.1.0.0/16")
	s.releasePool("")
	p := s.subnet("10.1.0.0/16", "net/a")
	a := s.mustAddress(p, ipam.AddressRequest{Address: addr("10.1.0.9"), Owner: "ep/1"})
	for range 2 {
		s.releasePool(p.ID)
		s.release(p, a)
	}
	_, err := s.address(p, ipam.AddressRequest{Owner: "ep/1"})
	s.wantKind("an address of a pool that was released", err, errdefs.IsNotFound)
	_, err = s.address(ipam.Pool{ID: "never/10.1.0.0/16"}, ipam.AddressRequest{Address: a, Owner: "ep/1"})
	s.wantKind("an address of a pool that never was", err, errdefs.IsNotFound)
	p = s.subnet("10.1.0.0/17", "net/b")
	s.mustAddress(p, ipam.AddressRequest{Address: addr("10.1.0.9"), Owner: "ep/2"}) // its addresses went with it
}

func poolsAtOnce(t *testing.T, s *session) {
	const askers = 8
	var wg sync.WaitGroup
	got := make([][]ipam.Pool, askers)
	named := make([]error, askers)
	for i := range askers {
		wg.Go(func() {
			for j := range 6 {
				p, err := s.pool(ipam.PoolRequest{Subnet: prefix("0.0.0.0/24"), IPv6: j%2 == 1, Owner: "net/a"})
				if err != nil {
					t.Errorf("RequestPool: %v", err)
					return
				}
				if j%3 == 2 {
					if err := s.d.ReleasePool(t.Context(), p.ID); err != nil {
						t.Errorf("ReleasePool: %v", err)
					}
					continue
				}
				got[i] = append(got[i], p)
			}
			_, named[i] = s.pool(ipam.PoolRequest{Subnet: prefix("10.200.0.0/16"), Owner: fmt.Sprint("net/", i)})
		})
	}
	wg.Wait()
	var all []ipam.Pool
	for _, pools := range got {
		for _, p := range pools {
			for _, q := range all {
				if p.Subnet.Overlaps(q.Subnet) {
					t.Errorf("%s and %s were both given", p.ID, q.ID)
				}
			}
			all = append(all, p)
		}
	}
	winners := 0
	for _, err := range named {
		if err == nil {
			winners++
		} else {
			s.wantKind("a subnet that all name", err, errdefs.IsAlreadyExists)
		}
	}
	if winners != 1 {
		t.Errorf("%d have 10.200.0.0/16", winners)
	}
}
