package pool

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/ipam"
)

// space is an address space: no two of its subnets overlap.
type space struct {
	name    string
	bases   []Base
	above   *space    // whose subnets are kept clear of where one is chosen; nil: none
	subnets []*subnet // IPv4 first, by address
}

func byAddress(a *subnet, prefix netip.Prefix) int { return a.prefix.Addr().Compare(prefix.Addr()) }

func (s *space) add(p *subnet) {
	i, _ := slices.BinarySearchFunc(s.subnets, p.prefix, byAddress)
	s.subnets = slices.Insert(s.subnets, i, p)
}

func (s *space) remove(p *subnet) {
	i, _ := slices.BinarySearchFunc(s.subnets, p.prefix, byAddress)
	s.subnets = slices.Delete(s.subnets, i, i+1)
}

// held finds what a named subnet may meet: nil when it is free, the pool when the same owner has exactly this.
func (s *space) held(r ipam.PoolRequest) (*subnet, error) {
	for _, p := range s.subnets {
		if !p.prefix.Overlaps(r.Subnet) {
			continue
		}
		if p.owner == r.Owner && r.Owner != "" && p.prefix == r.Subnet && p.sub == r.Range {
			return p, nil
		}
		return nil, fmt.Errorf("%w: overlaps %s, which %s has: choose another subnet", errdefs.ErrAlreadyExists, p.id, cmp.Or(p.owner, "somebody"))
	}
	return nil, nil
}

// pick finds the lowest predefined subnet of a family that is free: any, or any of a size.
func (s *space) pick(r ipam.PoolRequest) (netip.Prefix, error) {
	v4 := !r.IPv6
	if r.Subnet.IsValid() {
		v4 = r.Subnet.Addr().Is4()
	}
	blocked := s.blocked(v4, r.Exclude)
	for _, b := range s.bases {
		if b.Net.Addr().Is4() != v4 {
			continue
		}
		bits := b.Bits
		if r.Subnet.IsValid() {
			bits = r.Subnet.Bits()
		}
		if bits < b.Net.Bits() {
			continue
		}
		if from, ok := firstGap(spanOf(b.Net), uint(b.Net.Addr().BitLen()-bits), blocked); ok {
			return netip.PrefixFrom(from.addr(v4), bits), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w: no predefined subnet in space %s is free: name one", errdefs.ErrResourceExhausted, s.name)
}

// blocked are the addresses that no subnet may overlap, by address.
func (s *space) blocked(v4 bool, exclude []netip.Prefix) []span {
	var blocked []span
	subnets := s.subnets
	if s.above != nil {
		subnets = slices.Concat(subnets, s.above.subnets)
	}
	for _, p := range subnets {
		if p.v4 == v4 {
			blocked = append(blocked, p.all)
		}
	}
	for _, e := range exclude {
		if e.Addr().Is4() == v4 {
			blocked = append(blocked, spanOf(e.Masked()))
		}
	}
	slices.SortFunc(blocked, span.compare)
	return blocked
}

// firstGap finds the first run of 2^bits addresses in base, aligned, that is not blocked. It steps over what is in the way, so that
// a base may hold more subnets than can be counted.
func firstGap(base span, bits uint, blocked []span) (from key, ok bool) {
	from = base.from
	for _, b := range blocked {
		if b.to.less(from) {
			continue
		}
		if to := from.plus(low(bits)); to.less(b.from) || base.to.less(to) {
			break
		}
		past := b.to.plus(low(bits)).next() // the end of a blocked run, rounded up
		past = past.shiftRight(bits).shiftLeft(bits)
		if past.less(b.to) {
			return key{}, false // beyond the highest address of all
		}
		from = past
	}
	return from, !base.to.less(from.plus(low(bits))) && !from.plus(low(bits)).less(from)
}

// localBases are Docker's, and a unique local /48 for this host.
func localBases(hostID string) []Base {
	bases := []Base{
		{netip.MustParsePrefix("172.17.0.0/16"), 16}, {netip.MustParsePrefix("172.18.0.0/16"), 16}, {netip.MustParsePrefix("172.19.0.0/16"), 16},
		{netip.MustParsePrefix("172.20.0.0/14"), 16}, {netip.MustParsePrefix("172.24.0.0/14"), 16}, {netip.MustParsePrefix("172.28.0.0/14"), 16},
		{netip.MustParsePrefix("192.168.0.0/16"), 20},
	}
	return append(bases, Base{uniqueLocal(hostID), 64})
}

// uniqueLocal is a unique local /48 (RFC 4193) whose number is a hash of whose it is.
func uniqueLocal(of string) netip.Prefix {
	sum := sha256.Sum256([]byte("sealane ula\x00" + of))
	ula := [16]byte{0: 0xfd}
	copy(ula[1:6], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(ula), 48)
}
