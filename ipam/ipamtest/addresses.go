package ipamtest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/ipam"
)

func anyAddress(t *testing.T, s *session) {
	for _, subnet := range []string{"10.1.0.0/16", "fd00:1::/64"} {
		p := s.subnet(subnet, "net/a")
		seen := map[netip.Addr]bool{p.Gateway: true}
		for i := range 300 {
			a := s.mustAddress(p, ipam.AddressRequest{Owner: "ep/" + fmt.Sprint(i%3)}) // nobody can tell such requests from repeats
			if seen[a] {
				t.Fatalf("%v was given twice", a)
			}
			seen[a] = true
			if a == p.Subnet.Addr() || a == addr("10.1.255.255") {
				t.Fatalf("%v has a meaning of its own in %s", a, subnet)
			}
		}
	}
}

func namedAddress(t *testing.T, s *session) {
	for _, c := range []struct{ subnet, address string }{{"10.1.0.0/16", "10.1.200.7"}, {"fd00:1::/64", "fd00:1::dead:beef"}} {
		p := s.subnet(c.subnet, "net/a")
		want := ipam.AddressRequest{Address: addr(c.address), Owner: "ep/1"}
		for range 3 {
			s.mustAddress(p, want)
		}
		for _, owner := range []string{"ep/2", "ep/11", "EP/1", ""} {
			_, err := s.address(p, ipam.AddressRequest{Address: want.Address, Owner: owner})
			s.wantKind(fmt.Sprintf("%s by %q", c.address, owner), err, errdefs.IsAlreadyExists)
		}
		s.release(p, want.Address)
		s.mustAddress(p, ipam.AddressRequest{Address: want.Address, Owner: "ep/2"})
		_, err := s.address(p, want)
		s.wantKind(c.address+" by who had it", err, errdefs.IsAlreadyExists)

		nobody := ipam.AddressRequest{Address: want.Address.Next()}
		s.mustAddress(p, nobody)
		_, err = s.address(p, nobody)
		s.wantKind("nobody again", err, errdefs.IsAlreadyExists)

		given := s.mustAddress(p, ipam.AddressRequest{Owner: "ep/3"})
		s.mustAddress(p, ipam.AddressRequest{Address: given, Owner: "ep/3"}) // by name what was given without one
	}
}

func badAddresses(t *testing.T, s *session) {
	p4, p6 := s.subnet("10.1.0.0/24", "net/a"), s.subnet("fd00:1::/64", "net/a")
	for _, c := range []struct {
		p       ipam.Pool
		address netip.Addr
		is      func(error) bool
	}{
		{p4, addr("10.1.1.0"), errdefs.IsOutOfRange},
		{p4, addr("10.0.255.255"), errdefs.IsOutOfRange},
		{p4, addr("fd00:1::5"), errdefs.IsOutOfRange},
		{p4, addr("10.1.0.0"), errdefs.IsOutOfRange},
		{p4, addr("10.1.0.255"), errdefs.IsOutOfRange},
		{p4, addr("::ffff:10.1.0.5"), errdefs.IsInvalidArgument},
		{p4, addr("0.0.0.0"), errdefs.IsInvalidArgument},
		{p6, addr("fd00:1:0:1::"), errdefs.IsOutOfRange},
		{p6, addr("10.1.0.5"), errdefs.IsOutOfRange},
		{p6, addr("fd00:1::"), errdefs.IsOutOfRange},
		{p6, addr("fd00:1::5%eth0"), errdefs.IsInvalidArgument},
		{p6, addr("::"), errdefs.IsInvalidArgument},
	} {
		for _, gateway := range []bool{false, true} {
			got, err := s.address(c.p, ipam.AddressRequest{Address: c.address, Gateway: gateway, Owner: "ep/1"})
			s.wantKind(fmt.Sprintf("%v of %v, got %v", c.address, c.p.Subnet, got), err, c.is)
		}
	}
	s.mustAddress(p4, ipam.AddressRequest{Address: addr("10.1.0.5"), Owner: "ep/2"})
	s.mustAddress(p6, ipam.AddressRequest{Address: addr("fd00:1::5"), Owner: "ep/2"})
	s.mustAddress(p6, ipam.AddressRequest{Address: addr("fd00:1::ffff:ffff:ffff:ffff"), Owner: "ep/2"}) // IPv6 has no broadcast
}

func addressesOfRange(t *testing.T, s *session) {
	p := s.must(ipam.PoolRequest{Subnet: prefix("10.1.0.0/16"), Range: prefix("10.1.5.0/29"), Owner: "net/a"})
	s.mustAddress(p, ipam.AddressRequest{Address: addr("10.1.5.3"), Owner: "aux/x"})
	s.mustAddress(p, ipam.AddressRequest{Address: addr("10.1.0.77"), Owner: "ep/1"})
	given := s.untilExhausted(p)
	want := 7 // the ends of a range are like any other address
	if p.Range.Contains(p.Gateway) {
		want--
	}
	if len(given) != want {
		t.Errorf("%d addresses of the range, want %d: %v", len(given), want, given)
	}
	for _, a := range given {
		if !p.Range.Contains(a) {
			t.Errorf("%v lies outside the range %v", a, p.Range)
		}
	}
	s.mustAddress(p, ipam.AddressRequest{Address: addr("10.1.0.78"), Owner: "ep/2"})

	whole := s.must(ipam.PoolRequest{Subnet: prefix("10.2.0.0/28"), Range: prefix("10.2.0.8/29"), Owner: "net/b"})
	for _, a := range s.untilExhausted(whole) {
		if a == addr("10.2.0.15") {
			t.Error("the broadcast address is in the range, and given")
		}
	}
}

func gateway(t *testing.T, s *session) {
	for _, subnet := range []string{"10.1.0.0/16", "fd00:1::/64"} {
		p := s.subnet(subnet, "net/a")
		if p.Gateway.IsValid() {
			_, err := s.address(p, ipam.AddressRequest{Address: p.Gateway, Owner: "ep/1"})
			s.wantKind("the gateway that the driver chose", err, errdefs.IsAlreadyExists)
			continue
		}
		r := ipam.AddressRequest{Gateway: true, Owner: "gateway/a"}
		gw := s.mustAddress(p, r)
		if gw != p.Subnet.Addr().Next() {
			t.Errorf("the gateway of %s is %v, want the first usable", subnet, gw)
		}
		s.mustAddress(p, ipam.AddressRequest{Owner: "ep/1"})
		if again := s.mustAddress(p, r); again != gw {
			t.Errorf("asked for again by its owner: got %v, want %v", again, gw)
		}
		r.Address = gw
		s.mustAddress(p, r)
		r.Owner = "gateway/b"
		_, err := s.address(p, r)
		s.wantKind("by another", err, errdefs.IsAlreadyExists)
		s.release(p, gw)
		if got := s.mustAddress(p, r); got != gw {
			t.Errorf("named after release: got %v, want %v", got, gw)
		}
		r.Address = netip.Addr{}
		if again := s.mustAddress(p, r); again != gw {
			t.Errorf("unnamed by who named it: got %v, want %v", again, gw)
		}
		s.release(p, gw)
		s.mustAddress(p, ipam.AddressRequest{Address: gw, Owner: "ep/2"})
		if other := s.mustAddress(p, r); other == gw {
			t.Errorf("%v is given to who released it, while another has it", gw)
		}
	}
	p := s.must(ipam.PoolRequest{Subnet: prefix("10.2.0.0/16"), Range: prefix("10.2.5.0/24"), Owner: "net/a"})
	if !p.Gateway.IsValid() {
		s.mustAddress(p, ipam.AddressRequest{Address: addr("10.2.255.254"), Gateway: true, Owner: "gateway/a"}) // outside the range
	}
}

func smallSubnets(t *testing.T, s *session) {
	for i, c := range []struct {
		bits4, bits6, usable4, usable6 int
	}{{29, 125, 6, 7}, {30, 126, 2, 3}, {31, 127, 2, 2}, {32, 128, 1, 1}} {
		for subnet, usable := range map[netip.Prefix]int{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), c.bits4):            c.usable4,
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 3: byte(i), 15: 0}), c.bits6): c.usable6,
		} {
			p := s.must(ipam.PoolRequest{Subnet: subnet, Owner: "net/a"})
			if p.Gateway.IsValid() {
				usable--
			}
			given := s.untilExhausted(p)
			if len(given) != usable {
				t.Errorf("%v: %d addresses, want %d: %v", subnet, len(given), usable, given)
			}
			if len(given) == 0 {
				continue
			}
			back := given[len(given)/2]
			s.release(p, back)
			if a := s.mustAddress(p, ipam.AddressRequest{Owner: "ep/2"}); a != back {
				t.Errorf("%v: got %v, only %v is free", subnet, a, back)
			}
		}
	}
}

// untilExhausted takes what there is.
func (s *session) untilExhausted(p ipam.Pool) []netip.Addr {
	s.t.Helper()
	var given []netip.Addr
	for range 1000 {
		a, err := s.address(p, ipam.AddressRequest{Owner: "ep/1"})
		if err != nil {
			s.wantKind("an address of a full pool", err, errdefs.IsResourceExhausted)
			slices.SortFunc(given, netip.Addr.Compare)
			if len(slices.Compact(slices.Clone(given))) != len(given) {
				s.t.Errorf("%v: an address was given twice: %v", p.Subnet, given)
			}
			return given
		}
		given = append(given, a)
	}
	s.t.Fatalf("%v never ends", p.Subnet)
	return nil
}

func largeSubnets(t *testing.T, s *session) {
	for _, subnet := range []string{"10.0.0.0/8", "fd00:1::/64", "fd00:2::/48", "fd10::/12"} {
		p := s.subnet(subnet, "net/a")
		seen := map[netip.Addr]bool{}
		for i := range 200 {
			r := ipam.AddressRequest{Owner: "ep/1"}
			if i%2 == 1 { // scattered over all of it
				r.Address = scattered(p.Subnet, uint64(i))
			}
			a := s.mustAddress(p, r)
			if seen[a] {
				t.Fatalf("%s: %v was given twice", subnet, a)
			}
			seen[a] = true
		}
	}
}

// scattered is an address of a large subnet, another for each n.
func scattered(p netip.Prefix, n uint64) netip.Addr {
	b := p.Addr().AsSlice()
	r := rand.New(rand.NewPCG(n, 1))
	for i := p.Bits() / 8; i < len(b); i++ {
		if keep := p.Bits() - 8*i; keep > 0 {
			b[i] |= byte(r.Uint32()) >> keep
		} else {
			b[i] = byte(r.Uint32())
		}
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func release(t *testing.T, s *session) {
	p := s.subnet("10.1.0.0/24", "net/a")
	a := s.mustAddress(p, ipam.AddressRequest{Address: addr("10.1.0.9"), Owner: "ep/1"})
	for range 2 {
		s.release(p, a)
	}
	for _, never := range []string{"10.1.0.77", "10.1.0.0", "10.1.0.255", "10.9.0.1", "fd00::1", "::ffff:10.1.0.9"} {
		s.release(p, addr(never))
	}
	s.release(p, netip.Addr{})
	_, err := s.address(p, ipam.AddressRequest{Address: addr("10.1.0.255"), Owner: "ep/1"})
	s.wantKind("broadcast, released", err, errdefs.IsOutOfRange)
	for _, a := range s.untilExhausted(p) {
		if a == addr("10.1.0.0") || a == addr("10.1.0.255") {
			t.Errorf("%v, released, is given", a)
		}
	}
}

// No address has two users, whatever is asked and given back meanwhile.
func addressesAtOnce(t *testing.T, s *session) {
	p := s.subnet("10.1.0.0/23", "net/a")
	var mu sync.Mutex
	users := map[netip.Addr]int{}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			var mine []netip.Addr
			for range 300 {
				if len(mine) > 0 && r.IntN(3) == 0 {
					j := r.IntN(len(mine))
					a := mine[j]
					mine = slices.Delete(mine, j, j+1)
					mu.Lock()
					delete(users, a)
					mu.Unlock()
					s.release(p, a)
					continue
				}
				q := ipam.AddressRequest{Owner: fmt.Sprint("ep/", i, "/", r.Uint64())}
				if r.IntN(4) == 0 {
					q.Address = netip.AddrFrom4([4]byte{10, 1, byte(r.IntN(2)), byte(1 + r.IntN(250))})
				}
				a, err := s.address(p, q)
				if err != nil {
					if !errdefs.IsAlreadyExists(err) && !errdefs.IsResourceExhausted(err) {
						t.Errorf("RequestAddress: %v", err)
					}
					continue
				}
				mu.Lock()
				if other, ok := users[a]; ok {
					t.Errorf("%v is given to %d while %d has it", a, i, other)
				}
				users[a] = i
				mu.Unlock()
				mine = append(mine, a)
			}
		})
	}
	wg.Wait()
}

func setRanges(t *testing.T, s *session) {
	d, ok := s.d.(ipam.Ranger)
	if !ok {
		return // an ability that not every driver has
	}
	p := s.subnet("10.1.0.0/16", "net/a")
	held := s.mustAddress(p, ipam.AddressRequest{Owner: "ep/1"})
	set := func(ranges ...string) {
		t.Helper()
		var prefixes []netip.Prefix
		for _, r := range ranges {
			prefixes = append(prefixes, prefix(r))
		}
		if err := d.SetRanges(p.ID, prefixes); err != nil {
			t.Fatal(err)
		}
	}
	set("10.1.9.0/30", "10.1.7.0/31")
	want := []netip.Addr{addr("10.1.7.0"), addr("10.1.7.1"), addr("10.1.9.0"), addr("10.1.9.1"), addr("10.1.9.2"), addr("10.1.9.3")}
	if got := s.untilExhausted(p); !slices.Equal(got, want) {
		t.Errorf("of two blocks: got %v, want %v", got, want)
	}
	s.mustAddress(p, ipam.AddressRequest{Address: addr("10.1.200.1"), Owner: "ep/2"}) // by name from everywhere
	set("10.1.9.0/29")
	if got := s.untilExhausted(p); len(got) != 4 {
		t.Errorf("of a block that grew by four: got %v", got)
	}
	set()
	if got := s.untilExhausted(p); len(got) != 0 {
		t.Errorf("without a block: got %v", got)
	}
	_, err := s.address(p, ipam.AddressRequest{Address: held, Owner: "ep/2"})
	s.wantKind("what was given before", err, errdefs.IsAlreadyExists)
	for _, bad := range []netip.Prefix{prefix("10.2.0.0/24"), prefix("10.1.0.1/24"), prefix("10.0.0.0/8"), prefix("fd00::/64"), {}} {
		s.wantKind("range "+bad.String(), d.SetRanges(p.ID, []netip.Prefix{prefix("10.1.5.0/24"), bad}), errdefs.IsInvalidArgument)
	}
	if got := s.untilExhausted(p); len(got) != 0 {
		t.Errorf("after bad ranges: got %v", got)
	}
	s.wantKind("an unknown pool", d.SetRanges("never", nil), errdefs.IsNotFound)
}

func usage(t *testing.T, s *session) {
	d, ok := s.d.(ipam.Counter)
	if !ok {
		return // an ability that not every driver has
	}
	want := func(p ipam.Pool, inUse, free uint64) {
		t.Helper()
		u, err := d.Usage(p.ID)
		if err != nil || u != (ipam.Usage{InUse: inUse, Free: free}) {
			t.Errorf("%s: got %+v, %v, want %d in use, %d free", p.ID, u, err, inUse, free)
		}
	}
	p := s.must(ipam.PoolRequest{Subnet: prefix("10.1.0.0/24"), Range: prefix("10.1.0.0/25"), Owner: "net/a"})
	s.mustAddress(p, ipam.AddressRequest{Gateway: true, Owner: "gateway/a"})
	aux := s.mustAddress(p, ipam.AddressRequest{Address: addr("10.1.0.20"), Owner: "aux/x"})
	want(p, 4, 125) // network, broadcast, gateway and aux; broadcast lies outside the range
	s.mustAddress(p, ipam.AddressRequest{Address: addr("10.1.0.200"), Owner: "ep/1"})
	want(p, 5, 125)
	s.release(p, aux)
	want(p, 4, 126)
	s.untilExhausted(p)
	want(p, 130, 0)
	want(s.subnet("10.2.0.0/31", "net/a"), 0, 2)
	p = s.subnet("fd00:1::/64", "net/a")
	want(p, 1, 1<<64-1)
	s.mustAddress(p, ipam.AddressRequest{Owner: "ep/1"})
	want(p, 2, 1<<64-2)
	want(s.subnet("fd00:2::/48", "net/a"), 1, 1<<64-1)
	_, err := d.Usage("never")
	s.wantKind("an unknown pool", err, errdefs.IsNotFound)
}

// A driver that forgot everything, asked by name for what the records say, gives exactly that, in any order.
func replay(t *testing.T, s, fresh *session) {
	if !s.capability.Replay {
		return // it does not forget
	}
	type lease struct {
		pool  ipam.Pool
		owner string
	}
	pools := map[ipam.PoolID]ipam.PoolRequest{}
	leases := map[netip.Addr]lease{}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 6 {
		q := ipam.PoolRequest{IPv6: i%2 == 1, Owner: fmt.Sprint("net/", i)}
		if i == 4 {
			q.Subnet, q.Range = prefix("10.77.0.0/16"), prefix("10.77.3.0/24")
		}
		p := s.must(q)
		q.Subnet = p.Subnet
		pools[p.ID] = q
		for j := range 40 {
			owner := fmt.Sprint("ep/", i, ".", j)
			a := s.mustAddress(p, ipam.AddressRequest{Gateway: j == 0, Owner: owner})
			if r.IntN(4) == 0 {
				s.release(p, a)
			} else {
				leases[a] = lease{p, owner}
			}
		}
	}
	for id, q := range pools {
		if p := fresh.must(q); p.ID != id {
			t.Errorf("%v: got pool %s, was %s", q.Subnet, p.ID, id)
		}
	}
	for a, l := range leases {
		fresh.mustAddress(l.pool, ipam.AddressRequest{Address: a, Owner: l.owner})
	}
	for _, id := range slices.Sorted(maps.Keys(pools)) { // and goes on as the first would
		p := ipam.Pool{ID: id, Subnet: pools[id].Subnet}
		q := ipam.AddressRequest{Owner: "ep/next"}
		if was, is := s.mustAddress(p, q), fresh.mustAddress(p, q); was != is {
			t.Errorf("the next of %s: got %v, the first would give %v", id, is, was)
		}
	}
}
