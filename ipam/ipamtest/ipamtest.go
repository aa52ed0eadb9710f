// Package ipamtest holds the facts that every ipam.Driver with addresses must show, and a driver that acts elsewhere.
package ipamtest

import (
	"context"
	"net"
	"net/netip"
	"testing"

	"github.com/sealane/sealane/ipam"
)

// Run shows each fact on a driver of its own, which has handed out nothing.
func Run(t *testing.T, open func(t testing.TB) ipam.Driver) {
	for _, fact := range []struct {
		name string
		show func(*testing.T, *session)
	}{
		{"Capability", capability},
		{"NamedPool", namedPool},
		{"OverlappingPools", overlappingPools},
		{"PredefinedPools", predefinedPools},
		{"Subspaces", subspaces},
		{"PoolsOfSize", poolsOfSize},
		{"Exclude", exclude},
		{"BadPools", badPools},
		{"ReleasePool", releasePool},
		{"PoolsAtOnce", poolsAtOnce},

		{"AnyAddress", anyAddress},
		{"NamedAddress", namedAddress},
		{"BadAddresses", badAddresses},
		{"Range", addressesOfRange},
		{"Gateway", gateway},
		{"SmallSubnets", smallSubnets},
		{"LargeSubnets", largeSubnets},
		{"Release", release},
		{"AddressesAtOnce", addressesAtOnce},

		{"SetRanges", setRanges},
		{"Usage", usage},
	} {
		t.Run(fact.name, func(t *testing.T) { fact.show(t, start(t, open(t))) })
	}
	t.Run("Replay", func(t *testing.T) { replay(t, start(t, open(t)), start(t, open(t))) })
}

// session asks one driver, and fails the test where an answer breaks the contract whatever the question was.
type session struct {
	t          testing.TB
	d          ipam.Driver
	capability ipam.Capability
}

func start(t testing.TB, d ipam.Driver) *session {
	c, err := d.Capability(context.Background())
	if err != nil {
		t.Fatalf("Capability: %v", err)
	}
	return &session{t, d, c}
}

var mac = net.HardwareAddr{2, 0, 0, 0, 0, 1}

func (s *session) pool(r ipam.PoolRequest) (ipam.Pool, error) {
	p, err := s.d.RequestPool(context.Background(), r)
	if err != nil {
		if p.ID != "" || p.Subnet.IsValid() {
			s.t.Errorf("RequestPool %v: an error and an answer: %v, %v", r, p, err)
		}
		return p, err
	}
	switch {
	case p.ID == "" || len(p.ID) > 256:
		s.t.Errorf("RequestPool %v: an id of %d bytes", r, len(p.ID))
	case !p.Subnet.IsValid() || p.Subnet != p.Subnet.Masked():
		s.t.Errorf("RequestPool %v: subnet %v", r, p.Subnet)
	case p.Range != r.Range:
		s.t.Errorf("RequestPool %v: range %v", r, p.Range)
	case p.Gateway.IsValid() && !p.Subnet.Contains(p.Gateway):
		s.t.Errorf("RequestPool %v: gateway %v", r, p.Gateway)
	}
	return p, err
}

// must asks for a pool that there must be.
func (s *session) must(r ipam.PoolRequest) ipam.Pool {
	s.t.Helper()
	p, err := s.pool(r)
	if err != nil {
		s.t.Fatalf("RequestPool %v: %v", r, err)
	}
	return p
}

func (s *session) subnet(subnet, owner string) ipam.Pool {
	s.t.Helper()
	return s.must(ipam.PoolRequest{Subnet: prefix(subnet), Owner: owner})
}

func (s *session) address(p ipam.Pool, r ipam.AddressRequest) (netip.Addr, error) {
	r.Pool, r.MAC = p.ID, mac
	a, err := s.d.RequestAddress(context.Background(), r)
	if err != nil {
		if a.Prefix.IsValid() {
			s.t.Errorf("RequestAddress %v: an error and an answer: %v, %v", r, a, err)
		}
		return netip.Addr{}, err
	}
	switch got := a.Prefix.Addr(); {
	case !p.Subnet.Contains(got):
		s.t.Errorf("RequestAddress %v: %v lies outside %v", r, got, p.Subnet)
	case a.Prefix.Bits() != p.Subnet.Bits():
		s.t.Errorf("RequestAddress %v: %v has the length of another subnet than %v", r, a.Prefix, p.Subnet)
	case r.Address.IsValid() && got != r.Address:
		s.t.Errorf("RequestAddress %v: got %v", r, got)
	}
	return a.Prefix.Addr(), nil
}

func (s *session) mustAddress(p ipam.Pool, r ipam.AddressRequest) netip.Addr {
	s.t.Helper()
	a, err := s.address(p, r)
	if err != nil {
		s.t.Fatalf("RequestAddress %v of %s: %v", r, p.ID, err)
	}
	return a
}

func (s *session) releasePool(id ipam.PoolID) {
	s.t.Helper()
	if err := s.d.ReleasePool(context.Background(), id); err != nil {
		s.t.Fatalf("ReleasePool %s: %v", id, err)
	}
}

func (s *session) release(p ipam.Pool, a netip.Addr) {
	s.t.Helper()
	if err := s.d.ReleaseAddress(context.Background(), p.ID, a); err != nil {
		s.t.Fatalf("ReleaseAddress %s %v: %v", p.ID, a, err)
	}
}

func (s *session) wantKind(what string, err error, is func(error) bool) {
	s.t.Helper()
	if err == nil || !is(err) {
		s.t.Errorf("%s: got error %v of another kind", what, err)
	}
}

func prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
