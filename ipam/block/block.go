// Package block is the ipam.Driver of hosts that share networks: each host claims blocks of a subnet in the cluster store, and gives
// addresses out of its blocks without asking anyone.
//
// Pools of the global space are cut into blocks; those of the local space are handed on to ipam/pool as they are. A block is claimed by
// one compare-and-swap when the host has no address left, and given back when none of its addresses is in use, but for one that is kept
// for the next endpoint. An address that is asked for by name is claimed alone where no host has the block around it, and asked of the
// host that has (see wish). When no block is left, hosts lend each other single addresses the same way.
//
// With the store away addresses are given out of blocks that are held, also by a daemon that starts then (see keep), and everything else
// is Unavailable.
package block

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/ipam"
)

// Options of New.
type Options struct {
	Pool     ipam.Driver     // gives addresses from memory; it is an ipam.Ranger, as ipam/pool is
	Store    datastore.Store // what the hosts share
	Host     string          // id of this host; it has a record in the store while it may claim
	Kept     datastore.Store // of this host, and of this boot: what it holds is kept there, for a start while Store is away; nil: nowhere
	Patience time.Duration   // how long another host is waited for; 0: 5 s
}

// Driver is an ipam.Driver, an ipam.Confirmer and an ipam.Counter. Safe for concurrent use.
type Driver struct {
	o      Options
	ranger ipam.Ranger
	global string // the space of pools that are shared

	mu      sync.Mutex // guards subnets
	subnets map[ipam.PoolID]*subnet
}

var (
	_ ipam.Driver    = (*Driver)(nil)
	_ ipam.Confirmer = (*Driver)(nil)
	_ ipam.Counter   = (*Driver)(nil)
)

// New returns a driver that knows of no pool. InvalidArgument when an option is missing or Pool is no ipam.Ranger.
func New(ctx context.Context, o Options) (*Driver, error) {
	const patience = 5 * time.Second
	ranger, able := o.Pool.(ipam.Ranger)
	if !able || o.Store == nil || o.Host == "" {
		return nil, fmt.Errorf("new block driver: %w: Pool (an ipam.Ranger), Store and Host are required", errdefs.ErrInvalidArgument)
	}
	can, err := o.Pool.Capability(ctx)
	if err != nil {
		return nil, fmt.Errorf("new block driver: %w", err)
	}
	if o.Patience == 0 {
		o.Patience = patience
	}
	return &Driver{o: o, ranger: ranger, global: can.GlobalSpace, subnets: map[ipam.PoolID]*subnet{}}, nil
}

// Capability implements ipam.Driver.
func (d *Driver) Capability(ctx context.Context) (ipam.Capability, error) {
	return d.o.Pool.Capability(ctx)
}

// RequestPool implements ipam.Driver. It keeps pools of this host apart; that no other host has an overlapping one is for the caller to
// claim with the network's record. Blocks are claimed when addresses are asked for.
func (d *Driver) RequestPool(ctx context.Context, r ipam.PoolRequest) (ipam.Pool, error) {
	p, err := d.o.Pool.RequestPool(ctx, r)
	if err != nil || r.Space != d.global && !strings.HasPrefix(r.Space, d.global+"/") {
		return p, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.subnets[p.ID]; s != nil && !s.released {
		return p, nil
	}
	s := newSubnet(p, r.Owner)
	if err := d.recall(ctx, s); err != nil {
		return ipam.Pool{}, fmt.Errorf("recall what this host holds of pool %s: %w", p.ID, err)
	}
	d.subnets[p.ID] = s
	return p, nil
}

// ReleasePool implements ipam.Driver: it gives this host's blocks back. Unavailable when the store is away; the pool is free all the same,
// and releasing it again gives the blocks back then.
func (d *Driver) ReleasePool(ctx context.Context, id ipam.PoolID) error {
	s := d.subnet(id)
	if s == nil {
		return d.o.Pool.ReleasePool(ctx, id)
	}
	over, err := s.turn(ctx)
	if err != nil {
		return err
	}
	defer over()
	d.mu.Lock()
	s.released = true
	d.mu.Unlock()
	s.use.Lock() // nobody is between asking the pool and noting the answer
	err = d.o.Pool.ReleasePool(ctx, id)
	s.use.Unlock()
	if err == nil && !(s.known && len(s.held) == 0) {
		if err = d.keep(ctx, s, claims.clear); err == nil {
			err = d.giveBackAll(ctx, s)
		}
	}
	if err != nil {
		return fmt.Errorf("release pool %s: %w", id, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.subnets[id] == s {
		delete(d.subnets, id)
	}
	return nil
}

// RequestAddress implements ipam.Driver. Unavailable when the store or the host that has the address does not answer.
func (d *Driver) RequestAddress(ctx context.Context, r ipam.AddressRequest) (ipam.Address, error) {
	s := d.subnet(r.Pool)
	if s == nil || r.Gateway || strings.HasPrefix(r.Owner, "aux/") { // the network's own, the same on all hosts
		return d.o.Pool.RequestAddress(ctx, r)
	}
	if r.Address.IsValid() {
		return d.named(ctx, s, r)
	}
	for {
		before := s.claimed.Load()
		a, err := d.give(ctx, s, r)
		if !errdefs.IsResourceExhausted(err) {
			return a, err
		}
		lent, err := d.grow(ctx, s, before)
		if err != nil {
			return ipam.Address{}, fmt.Errorf("request address of pool %s: %w", r.Pool, err)
		}
		if lent.IsValid() {
			r.Address = lent
			return d.give(ctx, s, r)
		}
	}
}

// give takes an address from the pool and notes that it is in use.
func (d *Driver) give(ctx context.Context, s *subnet, r ipam.AddressRequest) (ipam.Address, error) {
	s.use.RLock()
	defer s.use.RUnlock()
	a, err := d.o.Pool.RequestAddress(ctx, r)
	if err == nil {
		s.given.Store(a.Prefix.Addr(), true)
	}
	return a, err
}

// named gives out an address that was asked for by name, wherever its block is.
func (d *Driver) named(ctx context.Context, s *subnet, r ipam.AddressRequest) (ipam.Address, error) {
	_, repeated := s.given.Load(r.Address)
	a, err := d.give(ctx, s, r)
	if errdefs.IsAlreadyExists(err) && s.isLent(r.Address) { // it may be back
		if err := d.claim(ctx, s, r.Address); err != nil {
			return ipam.Address{}, fmt.Errorf("request %s of pool %s: %w", r.Address, r.Pool, err)
		}
		a, err = d.give(ctx, s, r)
	}
	if err != nil || repeated || s.covers(r.Address) {
		return a, err
	}
	if err := d.claim(ctx, s, r.Address); err != nil {
		s.given.Delete(r.Address)
		_ = d.o.Pool.ReleaseAddress(ctx, s.id, r.Address)
		return ipam.Address{}, fmt.Errorf("request %s of pool %s: %w", r.Address, r.Pool, err)
	}
	return a, nil
}

// ReleaseAddress implements ipam.Driver. Blocks that are left without an address in use are given back, now or, when the store is away,
// with a later one.
func (d *Driver) ReleaseAddress(ctx context.Context, id ipam.PoolID, a netip.Addr) error {
	s := d.subnet(id)
	if s == nil {
		return d.o.Pool.ReleaseAddress(ctx, id, a)
	}
	_, was := s.given.LoadAndDelete(a) // first: once it is free somebody may have it again
	if err := d.o.Pool.ReleaseAddress(ctx, id, a); err != nil {
		return err
	}
	if was && len(s.idle()) > 0 {
		_ = d.giveBack(ctx, s) // what stays claimed is in nobody's way, and goes with the pool
	}
	return nil
}

// Confirm implements ipam.Confirmer.
func (d *Driver) Confirm(ctx context.Context, id ipam.PoolID, a netip.Addr) error {
	s := d.subnet(id)
	if s == nil {
		return nil
	}
	over, err := s.turn(ctx)
	if err != nil {
		return err
	}
	defer over()
	around, holder, err := d.claimAlone(ctx, s, a)
	if err == nil && holder != d.o.Host {
		err = fmt.Errorf("%w: %s is host %s's now", errdefs.ErrAlreadyExists, around, holder)
	}
	if err != nil {
		return fmt.Errorf("confirm %s of pool %s: %w", a, id, err)
	}
	return nil
}

// Usage implements ipam.Counter: of this host's part of a shared pool.
func (d *Driver) Usage(id ipam.PoolID) (ipam.Usage, error) {
	if c, able := d.o.Pool.(ipam.Counter); able {
		return c.Usage(id)
	}
	return ipam.Usage{}, fmt.Errorf("usage of pool %s: %w: it is not counted", id, errdefs.ErrNotImplemented)
}

func (d *Driver) subnet(id ipam.PoolID) *subnet {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.subnets[id]
}
