package pool

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/ipam"
)

// subnet is a pool given out, with its addresses.
type subnet struct {
	id     ipam.PoolID
	space  string
	prefix netip.Prefix
	sub    netip.Prefix // the range asked for; zero: none
	owner  string

	v4           bool
	edges        bool // the network's own address, or all routers' (RFC 4291), and of IPv4 broadcast are nobody's
	all          span
	parts        []span // addresses nobody named come from here, lowest part first
	taken        set
	serial       bool
	follow       key    // serial order goes on here
	gateway      key    // the last one given
	gatewayOwner uint64 // 0: none was, or nobody can be told to have it
}

func newSubnet(space string, prefix, sub netip.Prefix, owner string) *subnet {
	p := &subnet{id: ipam.PoolID(space + "/" + prefix.String()), space: space, prefix: prefix, sub: sub, owner: owner,
		v4: prefix.Addr().Is4(), edges: hostBits(prefix) >= 2, all: spanOf(prefix)}
	p.parts = []span{p.all}
	if sub.IsValid() {
		p.id += ipam.PoolID("/" + sub.String())
		p.parts = []span{spanOf(sub)}
	}
	if p.edges {
		p.taken.take(p.all.from, 0)
	}
	if p.edges && p.v4 {
		p.taken.take(p.all.to, 0)
	}
	return p
}

// reserved says which addresses nobody gets. Both of a /31 and a /127 are usable, and the one of a /32 and a /128.
func (p *subnet) reserved(k key) bool {
	return p.edges && (k == p.all.from || p.v4 && k == p.all.to)
}

// named takes an address that was asked for by name. It may lie outside the range.
func (p *subnet) named(a netip.Addr, owner uint64, gateway bool) (key, error) {
	switch {
	case a.Zone() != "" || a.Is4In6() || a.IsUnspecified():
		return key{}, fmt.Errorf("%w: not an address of a subnet", errdefs.ErrInvalidArgument)
	case !p.prefix.Contains(a):
		return key{}, fmt.Errorf("%w: outside %s", errdefs.ErrOutOfRange, p.prefix)
	}
	k := keyOf(a)
	if p.reserved(k) {
		return key{}, fmt.Errorf("%w: the first address of %s, and of IPv4 the last, have a meaning of their own", errdefs.ErrOutOfRange, p.prefix)
	}
	holder, taken := p.taken.owner(k)
	switch {
	case !taken:
		p.taken.take(k, owner)
	case owner == 0 || holder != owner:
		return key{}, fmt.Errorf("%w: in use", errdefs.ErrAlreadyExists)
	}
	if gateway {
		p.gateway, p.gatewayOwner = k, owner
	}
	return k, nil
}

// anyGateway takes the lowest free address of the subnet. The owner who has it is answered as the first time.
func (p *subnet) anyGateway(owner uint64) (key, error) {
	if owner != 0 && owner == p.gatewayOwner {
		return p.gateway, nil
	}
	k, ok := p.claim(&p.all, owner)
	if !ok {
		return key{}, p.exhausted()
	}
	p.gateway, p.gatewayOwner = k, owner
	return k, nil
}

// claim takes the lowest free address of a span.
func (p *subnet) claim(in *span, owner uint64) (k key, ok bool) {
	if k, ok = p.taken.claim(in.from, owner); ok && in.to.less(k) {
		p.taken.free(k)
		return key{}, false
	}
	return k, ok
}

func (p *subnet) lowest(owner uint64) (key, error) {
	for i := range p.parts {
		if k, ok := p.claim(&p.parts[i], owner); ok {
			p.follow = k.next()
			return k, nil
		}
	}
	return key{}, p.exhausted()
}

// following takes the first free address after the last one given, and begins again at the end.
func (p *subnet) following(owner uint64) (key, error) {
	for _, part := range p.parts {
		if part.to.less(p.follow) {
			continue
		}
		if part.from.less(p.follow) {
			part.from = p.follow
		}
		if k, ok := p.claim(&part, owner); ok {
			p.follow = k.next()
			return k, nil
		}
	}
	return p.lowest(owner)
}

func (p *subnet) exhausted() error {
	return fmt.Errorf("%w: no address is left", errdefs.ErrResourceExhausted)
}

func (p *subnet) release(a netip.Addr) {
	if !p.prefix.Contains(a) {
		return
	}
	k := keyOf(a)
	if p.reserved(k) {
		return
	}
	p.taken.free(k)
	if k == p.gateway {
		p.gatewayOwner = 0
	}
}

func (p *subnet) setRanges(ranges []netip.Prefix) error {
	spans := make([]span, 0, len(ranges))
	for _, r := range ranges {
		if err := checkRange(r, p.prefix); err != nil {
			return err
		}
		spans = append(spans, spanOf(r))
	}
	slices.SortFunc(spans, span.compare)
	p.parts = nil
	for _, s := range spans {
		if n := len(p.parts); n == 0 || p.parts[n-1].to.less(s.from) { // prefixes overlap only as one holds the other
			p.parts = append(p.parts, s)
		}
	}
	return nil
}

func (p *subnet) usage() ipam.Usage {
	free := key{}
	for _, part := range p.parts {
		free = free.plus(part.size()).minus(key{0, p.taken.count(part)})
	}
	return ipam.Usage{InUse: p.taken.taken, Free: free.saturated()}
}
