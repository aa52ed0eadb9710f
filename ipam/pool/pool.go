// Package pool is the built-in ipam.Driver, named "default": it hands out subnets and addresses from memory.
//
// It keeps nothing: the Controller records what it was given and asks again at start (ipam.Capability.Replay). An address that was
// released may be given to the next who asks, so release it when nobody remembers its last user any more.
package pool

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/ipam"
)

// The address spaces. Subnets are unique in each.
const (
	Local  = "local"  // the default: networks of one host
	Global = "global" // networks that hosts share
)

// Options of New.
type Options struct {
	// HostID makes the IPv6 subnets that this host chooses its own: the predefined ones are cut from a unique local /48 (RFC 4193) for each
	// space, whose number is a hash of it.
	HostID string

	// Local and Global are the predefined subnets of each space. Nil means Docker's: 172.17.0.0/16 to 172.31.0.0/16 and the sixteen
	// /20 of 192.168.0.0/16, and the /64 of the host's own /48, in Local; the /24 of 10.0.0.0/8, and the /64 of another /48, in Global.
	Local, Global []Base
}

// Base is a run of predefined subnets: all those of Bits bits in Net. They are offered in the order of the bases, lowest first.
type Base struct {
	Net  netip.Prefix
	Bits int
}

// Driver is an ipam.Driver, an ipam.Ranger and an ipam.Counter.
type Driver struct {
	seed   maphash.Seed
	mu     sync.Mutex // guards what follows
	spaces map[string]*space
	pools  map[ipam.PoolID]*subnet
}

var (
	_ ipam.Driver  = (*Driver)(nil)
	_ ipam.Ranger  = (*Driver)(nil)
	_ ipam.Counter = (*Driver)(nil)
)

// New returns a driver that has handed out nothing. InvalidArgument for a base whose host bits are set or whose Bits do not fit.
func New(o Options) (*Driver, error) {
	if o.Local == nil {
		o.Local = localBases(o.HostID)
	}
	if o.Global == nil {
		o.Global = []Base{{netip.MustParsePrefix("10.0.0.0/8"), 24}, {uniqueLocal("global\x00" + o.HostID), 64}}
	}
	for _, b := range slices.Concat(o.Local, o.Global) {
		if err := checkSubnet(b.Net); err != nil {
			return nil, fmt.Errorf("predefined subnets of %s: %w", b.Net, err)
		}
		if b.Bits < b.Net.Bits() || b.Bits > b.Net.Addr().BitLen() {
			return nil, fmt.Errorf("predefined subnets of %s: %w: /%d does not fit", b.Net, errdefs.ErrInvalidArgument, b.Bits)
		}
	}
	return &Driver{
		seed:   maphash.MakeSeed(),
		spaces: map[string]*space{Local: {name: Local, bases: o.Local}, Global: {name: Global, bases: o.Global}},
		pools:  map[ipam.PoolID]*subnet{},
	}, nil
}

// Capability implements ipam.Driver.
func (d *Driver) Capability(context.Context) (ipam.Capability, error) {
	return ipam.Capability{LocalSpace: Local, GlobalSpace: Global, Replay: true, Subspaces: true}, nil
}

// RequestPool implements ipam.Driver. A predefined subnet is the lowest that is free; ResourceExhausted when there is none.
func (d *Driver) RequestPool(_ context.Context, r ipam.PoolRequest) (ipam.Pool, error) {
	p, err := d.requestPool(r)
	if err != nil {
		return ipam.Pool{}, fmt.Errorf("request pool %s: %w", poolName(r), err)
	}
	return ipam.Pool{ID: p.id, Subnet: p.prefix, Range: p.sub}, nil
}

func (d *Driver) requestPool(r ipam.PoolRequest) (*subnet, error) {
	if err := checkPool(r); err != nil {
		return nil, err
	}
	serial, err := serialOrder(r.Options, false)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := d.space(cmp.Or(r.Space, Local))
	if err != nil {
		return nil, err
	}
	prefix := r.Subnet
	if anyOfSize(prefix) || !prefix.IsValid() {
		if prefix, err = s.pick(r); err != nil {
			return nil, err
		}
	} else if p, err := s.held(r); p != nil || err != nil {
		return p, err
	}
	p := newSubnet(s.name, prefix, r.Range, r.Owner)
	p.serial = serial
	s.add(p)
	d.pools[p.id], d.spaces[s.name] = p, s
	return p, nil
}

// space finds an address space. One below another is there while it has pools.
func (d *Driver) space(name string) (*space, error) {
	if s := d.spaces[name]; s != nil {
		return s, nil
	}
	above, own, below := strings.Cut(name, "/")
	s := d.spaces[above]
	if !below || s == nil || own == "" {
		return nil, fmt.Errorf("%w: address space %q: there are %s and %s, and what is named below them", errdefs.ErrInvalidArgument, name, Local, Global)
	}
	return &space{name: name, bases: s.bases, above: s}, nil
}

// ReleasePool implements ipam.Driver. The addresses of the pool go with it.
func (d *Driver) ReleasePool(_ context.Context, id ipam.PoolID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.pools[id]; p != nil {
		delete(d.pools, id)
		s := d.spaces[p.space]
		if s.remove(p); s.above != nil && len(s.subnets) == 0 {
			delete(d.spaces, p.space)
		}
	}
	return nil
}

// RequestAddress implements ipam.Driver. The gateway is the lowest free address of the subnet, any other the lowest free one of the
// range, or in serial order the next after the last one given; ResourceExhausted when there is none.
func (d *Driver) RequestAddress(_ context.Context, r ipam.AddressRequest) (ipam.Address, error) {
	p, k, err := d.requestAddress(&r)
	if err == nil {
		return ipam.Address{Prefix: netip.PrefixFrom(k.addr(p.v4), p.prefix.Bits())}, nil
	}
	what := "address"
	if r.Address.IsValid() {
		what = r.Address.String()
	}
	return ipam.Address{}, fmt.Errorf("request %s of pool %s: %w", what, r.Pool, err)
}

func (d *Driver) requestAddress(r *ipam.AddressRequest) (p *subnet, k key, err error) {
	owner := d.hash(r.Owner)
	d.mu.Lock()
	defer d.mu.Unlock()
	p = d.pools[r.Pool]
	if p == nil {
		return nil, key{}, fmt.Errorf("%w: no such pool", errdefs.ErrNotFound)
	}
	serial := p.serial
	if len(r.Options) != 0 {
		if serial, err = serialOrder(r.Options, p.serial); err != nil {
			return nil, key{}, err
		}
	}
	switch {
	case r.Address.IsValid():
		k, err = p.named(r.Address, owner, r.Gateway)
	case r.Gateway:
		k, err = p.anyGateway(owner)
	case serial:
		k, err = p.following(owner)
	default:
		k, err = p.lowest(owner)
	}
	return p, k, err
}

// ReleaseAddress implements ipam.Driver.
func (d *Driver) ReleaseAddress(_ context.Context, id ipam.PoolID, a netip.Addr) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.pools[id]; p != nil {
		p.release(a)
	}
	return nil
}

// SetRanges implements ipam.Ranger. Without ranges no address is given unless it is named. What was given stays given.
// InvalidArgument for a range that is no part of the subnet.
func (d *Driver) SetRanges(id ipam.PoolID, ranges []netip.Prefix) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.pools[id]
	if p == nil {
		return fmt.Errorf("set ranges of pool %s: %w: no such pool", id, errdefs.ErrNotFound)
	}
	if err := p.setRanges(ranges); err != nil {
		return fmt.Errorf("set ranges of pool %s: %w", id, err)
	}
	return nil
}

// Usage implements ipam.Counter.
func (d *Driver) Usage(id ipam.PoolID) (ipam.Usage, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.pools[id]
	if p == nil {
		return ipam.Usage{}, fmt.Errorf("usage of pool %s: %w: no such pool", id, errdefs.ErrNotFound)
	}
	return p.usage(), nil
}

// hash tells owners apart without keeping their names: one word an address. Nobody is 0, which is never equal to anybody.
func (d *Driver) hash(owner string) uint64 {
	if owner == "" {
		return 0
	}
	return maphash.String(d.seed, owner) | 1
}
