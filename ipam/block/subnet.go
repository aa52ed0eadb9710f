package block

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sealane/sealane/ipam"
)

// subnet is a pool of the global space as this host knows it.
type subnet struct {
	id      ipam.PoolID
	network string       // the segment of its blocks' keys
	record  bool         // network is an id with a record in the store
	all     netip.Prefix // addresses asked for by name are from here
	from    netip.Prefix // and blocks are cut from here
	bits    int          // of a block

	claimed atomic.Uint64 // counts looks at the store
	given   sync.Map      // addresses in use here
	use     sync.RWMutex  // shared: an address is being given; exclusive: blocks are being chosen that none shall be given of
	one     chan struct{} // the turn: who has it may claim and change what follows

	released bool // guarded by Driver.mu

	mu    sync.Mutex // guards what follows; who has the turn may read without
	known bool       // held is all that this host holds
	held  map[netip.Prefix]bool
	lent  map[netip.Addr]bool // inside held blocks, and somebody else's: taken in the pool
}

// newSubnet cuts a pool into blocks of half its bits: as many blocks as a block has addresses, 256 of IPv4 and 65,536 of IPv6 at most.
func newSubnet(p ipam.Pool, owner string) *subnet {
	const most4, most6 = 8, 16
	s := &subnet{id: p.ID, all: p.Subnet, from: p.Range, one: make(chan struct{}, 1), held: map[netip.Prefix]bool{}, lent: map[netip.Addr]bool{}}
	if s.network, s.record = strings.CutPrefix(owner, "net/"); !s.record {
		s.network = string(p.ID)
	}
	if !s.from.IsValid() {
		s.from = s.all
	}
	long, most := s.all.Addr().BitLen(), most4
	if s.all.Addr().Is6() {
		most = most6
	}
	s.bits = long - min((long-s.from.Bits())/2, most)
	return s
}

// turn waits until nobody else claims.
func (s *subnet) turn(ctx context.Context) (over func(), err error) {
	select {
	case s.one <- struct{}{}:
		return func() { <-s.one }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *subnet) isLent(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lent[a]
}

// covers says that an address is in a block that this host holds.
func (s *subnet) covers(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held[alone(a)] || s.held[s.around(a)] && s.from.Contains(a)
}

// around is the block that an address is in.
func (s *subnet) around(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, s.bits).Masked() }

// isBlock tells a block that addresses are given of from an address that was claimed alone.
func (s *subnet) isBlock(p netip.Prefix) bool { return p.Bits() == s.bits && s.from.Contains(p.Addr()) }

// idle are the claims that can go back: addresses claimed alone that are not in use, and blocks without one in use, but for the first.
func (s *subnet) idle() []netip.Prefix {
	used := map[netip.Prefix]bool{}
	s.given.Range(func(a, _ any) bool {
		used[alone(a.(netip.Addr))], used[s.around(a.(netip.Addr))] = true, true
		return true
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	var idle []netip.Prefix
	spare := false
	for p := range s.held {
		switch {
		case used[p]:
		case s.isBlock(p) && !spare:
			spare = true
		default:
			idle = append(idle, p)
		}
	}
	return idle
}

// free is the first block that nobody has claimed; zero when there is none.
func (s *subnet) free(claims claims) netip.Prefix {
	for a := s.from.Addr(); a.IsValid() && s.from.Contains(a); {
		p := s.around(a)
		if _, taken := claims[p]; !taken {
			return p
		}
		a = last(p).Next()
	}
	return netip.Prefix{}
}

func alone(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(b)*8; bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
