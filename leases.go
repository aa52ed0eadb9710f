package sealane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// pool is the record of a pool that a front end asked for, in the root store.
type pool struct {
	Driver  string
	Request ipam.PoolRequest
	Pool    ipam.Pool
	Network string // that has taken it over; "" none
	Freed   bool   // released by the front end while a network has it: it goes with the network
}

func poolTable(driver string) datastore.Table[pool] {
	return datastore.Table[pool]{Dir: datastore.Key("pool", driver)}
}

func leaseTable(driver string, id ipam.PoolID) datastore.Table[ipam.Lease] {
	return datastore.Table[ipam.Lease]{Dir: datastore.Key("lease", driver, string(id))}
}

// IPAM is the named driver with its pools and addresses recorded: what front ends that address for themselves use.
func (c *Controller) IPAM(name string) (ipam.Driver, error) {
	if name == "" {
		name = defaultIPAM
	}
	if _, err := c.ipamDriver(context.Background(), name); err != nil {
		return nil, err
	}
	return &recordedIPAM{c, name}, nil
}

// recordedIPAM writes down what it hands on, after it was given and before it is given back, so that a lost answer is asked for again.
type recordedIPAM struct {
	c    *Controller
	name string
}

func (r *recordedIPAM) Capability(ctx context.Context) (ipam.Capability, error) {
	d, err := r.c.ipamDriver(ctx, r.name)
	if err != nil {
		return ipam.Capability{}, err
	}
	return d.Capability(ctx)
}

func (r *recordedIPAM) RequestPool(ctx context.Context, q ipam.PoolRequest) (ipam.Pool, error) {
	d, err := r.c.ipamDriver(ctx, r.name)
	if err != nil {
		return ipam.Pool{}, err
	}
	if (!q.Subnet.IsValid() || q.Subnet.Addr().IsUnspecified()) && q.Exclude == nil { // any that the host does not reach otherwise
		if q.Exclude, err = r.c.occupied(ctx); err != nil {
			return ipam.Pool{}, err
		}
	}
	p, err := d.RequestPool(ctx, q)
	if err != nil {
		return p, err
	}
	q.Subnet, q.Exclude = p.Subnet, nil // a replay asks for this one
	return p, r.c.o.Root.Update(ctx, func(tx datastore.Tx) error {
		return poolTable(r.name).Put(tx, string(p.ID), pool{Driver: r.name, Request: q, Pool: p})
	})
}

func (r *recordedIPAM) ReleasePool(ctx context.Context, id ipam.PoolID) error {
	d, err := r.c.ipamDriver(ctx, r.name)
	if err != nil {
		return err
	}
	taken := false
	err = r.c.o.Root.Update(ctx, func(tx datastore.Tx) error {
		p, found, err := maybe(poolTable(r.name).Get(tx, string(id)))
		if err != nil || !found {
			return err
		}
		if taken = p.Network != ""; taken {
			p.Freed = true
			return poolTable(r.name).Put(tx, string(id), p)
		}
		return poolTable(r.name).Delete(tx, string(id))
	})
	if err != nil || taken {
		return err
	}
	return d.ReleasePool(ctx, id)
}

// RequestAddress gives nobody an address before connection tracking has forgotten the endpoint that had it.
func (r *recordedIPAM) RequestAddress(ctx context.Context, q ipam.AddressRequest) (ipam.Address, error) {
	d, err := r.c.ipamDriver(ctx, r.name)
	if err != nil {
		return ipam.Address{}, err
	}
	a, err := d.RequestAddress(ctx, q)
	if err != nil {
		return a, err
	}
	if err := r.c.withdrawn.forgotten(ctx, a.Prefix.Addr()); err != nil {
		return ipam.Address{}, errors.Join(err, d.ReleaseAddress(ctx, q.Pool, a.Prefix.Addr()))
	}
	store, err := r.leases(ctx)
	if err != nil {
		return a, err
	}
	return a, store.Update(ctx, func(tx datastore.Tx) error {
		lease := ipam.Lease{Driver: r.name, Pool: q.Pool, Address: a.Prefix, Owner: q.Owner}
		return leaseTable(r.name, q.Pool).Put(tx, a.Prefix.Addr().String(), lease)
	})
}

func (r *recordedIPAM) ReleaseAddress(ctx context.Context, id ipam.PoolID, a netip.Addr) error {
	d, err := r.c.ipamDriver(ctx, r.name)
	if err != nil {
		return err
	}
	if err := d.ReleaseAddress(ctx, id, a); err != nil {
		return err
	}
	store, err := r.leases(ctx)
	if err != nil {
		return err
	}
	return store.Update(ctx, func(tx datastore.Tx) error { return leaseTable(r.name, id).Delete(tx, a.String()) })
}

// leases is the store that lives as long as what the driver knows: a driver that forgets at restart has them in the run store, with the
// endpoints.
func (r *recordedIPAM) leases(ctx context.Context) (datastore.Store, error) {
	d := r.c.o.IPAM[r.name]
	if d == nil {
		return r.c.o.Root, nil
	}
	can, err := d.Capability(ctx)
	if err != nil || !can.Replay {
		return r.c.o.Root, err
	}
	return r.c.o.Run, nil
}

// adoptPool hands a pool that a front end asked for over to a network.
func (c *Controller) adoptPool(ctx context.Context, n netdriver.Network, s SubnetSpec) (ipam.Pool, error) {
	name := n.IPAM
	if name == "" {
		name = defaultIPAM
	}
	var p pool
	err := c.o.Root.Update(ctx, func(tx datastore.Tx) (err error) {
		if p, err = poolTable(name).Get(tx, string(s.Pool)); err != nil {
			return err
		}
		if p.Network != "" && p.Network != string(n.ID) {
			return fmt.Errorf("%w: network %s has it", errdefs.ErrAlreadyExists, p.Network)
		}
		p.Network = string(n.ID)
		return poolTable(name).Put(tx, string(s.Pool), p)
	})
	if err != nil {
		return ipam.Pool{}, fmt.Errorf("pool %s: %w", s.Pool, err)
	}
	return p.Pool, nil
}

// disownPool gives a network's pool back to the front end that asked for it; true when there is one that still wants it.
func (c *Controller) disownPool(ctx context.Context, n netdriver.Network, id ipam.PoolID) (kept bool, err error) {
	name := n.IPAM
	if name == "" {
		name = defaultIPAM
	}
	return kept, c.o.Root.Update(ctx, func(tx datastore.Tx) error {
		kept = false
		p, found, err := maybe(poolTable(name).Get(tx, string(id)))
		if err != nil || !found || p.Network != string(n.ID) {
			return err
		}
		if p.Freed {
			return poolTable(name).Delete(tx, string(id))
		}
		kept, p.Network = true, ""
		return poolTable(name).Put(tx, string(id), p)
	})
}

// replayLeases asks again for what front ends were given, of drivers that forget at restart.
func (c *Controller) replayLeases(ctx context.Context) error {
	var errs []error
	for name, d := range c.o.IPAM {
		can, err := d.Capability(ctx)
		if err != nil || !can.Replay {
			continue
		}
		for p, err := range records(ctx, c.o.Root, poolTable(name)) {
			wanted := false
			if err == nil {
				wanted, err = c.stillLeased(ctx, p)
			}
			if err != nil || !wanted {
				errs = append(errs, err)
				continue
			}
			if _, err := d.RequestPool(ctx, p.Request); err != nil {
				errs = append(errs, fmt.Errorf("pool %s: %w", p.Pool.ID, err))
				continue
			}
			for l, err := range records(ctx, c.o.Run, leaseTable(name, p.Pool.ID)) {
				if err == nil {
					_, err = d.RequestAddress(ctx, ipam.AddressRequest{Pool: l.Pool, Address: l.Address.Addr(), Owner: l.Owner})
				}
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// stillLeased gives a pool back to its front end when the network that was taking it over was not made: a crash came between. It is false
// when the front end wants it no more either.
func (c *Controller) stillLeased(ctx context.Context, p pool) (wanted bool, err error) {
	if p.Network == "" {
		return true, nil
	}
	n := netdriver.Network{ID: endpoint.NetworkID(p.Network), IPAM: p.Driver}
	if _, err := c.networkRecord(ctx, n.ID); !errdefs.IsNotFound(err) {
		return true, nil // or nobody can tell now
	}
	return c.disownPool(ctx, n, p.Pool.ID)
}

// leased says that a front end has an address of a pool.
func (c *Controller) leased(ctx context.Context, driver string, id ipam.PoolID, a netip.Addr) (bool, error) {
	if !a.IsValid() {
		return false, nil
	}
	d, err := c.IPAM(driver)
	if err != nil {
		return false, err
	}
	r := d.(*recordedIPAM)
	store, err := r.leases(ctx)
	if err != nil {
		return false, err
	}
	_, found, err := maybe(view(ctx, store, func(tx datastore.Tx) (ipam.Lease, error) { return leaseTable(r.name, id).Get(tx, a.String()) }))
	return found, err
}

// adopted finds the pool that a network took over from a front end.
func (c *Controller) adopted(ctx context.Context, n netdriver.Network, id ipam.PoolID) (ipam.Pool, bool, error) {
	p, found, err := maybe(view(ctx, c.o.Root, func(tx datastore.Tx) (pool, error) {
		return poolTable(cmp.Or(n.IPAM, defaultIPAM)).Get(tx, string(id))
	}))
	return p.Pool, found && p.Network == string(n.ID), err
}

// Leased is a pool that a front end asked for by Controller.IPAM and has not given back, with its addresses.
type Leased struct {
	Pool      ipam.Pool
	Owner     string             // as the front end named itself
	Network   endpoint.NetworkID // that has taken it over; "" none
	Addresses []ipam.Lease
}

// Leases yields what front ends have of the named address driver, pool by pool.
func (c *Controller) Leases(ctx context.Context, driver string) iter.Seq2[Leased, error] {
	return func(yield func(Leased, error) bool) {
		d, err := c.IPAM(driver)
		if err != nil {
			yield(Leased{}, err)
			return
		}
		r := d.(*recordedIPAM)
		store, err := r.leases(ctx)
		if err != nil {
			yield(Leased{}, err)
			return
		}
		for p, err := range records(ctx, c.o.Root, poolTable(r.name)) {
			l := Leased{Pool: p.Pool, Owner: p.Request.Owner, Network: endpoint.NetworkID(p.Network)}
			for a, lost := range records(ctx, store, leaseTable(r.name, p.Pool.ID)) {
				if err = cmp.Or(err, lost); lost == nil {
					l.Addresses = append(l.Addresses, a)
				}
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// LeasedPool is one of Leases, without its addresses, however many there are; NotFound when no front end has it.
func (c *Controller) LeasedPool(ctx context.Context, driver string, id ipam.PoolID) (Leased, error) {
	p, err := view(ctx, c.o.Root, func(tx datastore.Tx) (pool, error) { return poolTable(cmp.Or(driver, defaultIPAM)).Get(tx, string(id)) })
	if err != nil {
		return Leased{}, fmt.Errorf("pool %.80q: %w", id, err)
	}
	return Leased{Pool: p.Pool, Owner: p.Request.Owner, Network: endpoint.NetworkID(p.Network)}, nil
}

// ipamActs says that an address driver knows what it gave when we have died: it is not built in.
func (c *Controller) ipamActs(name string) bool { return c.o.IPAM[cmp.Or(name, defaultIPAM)] == nil }

// recordLease writes down an address that a driver which acts gave an endpoint: the endpoint's record dies with our boot, what the driver
// holds does not.
func (c *Controller) recordLease(ctx context.Context, n netdriver.Network, l ipam.Lease) error {
	if !c.ipamActs(n.IPAM) {
		return nil
	}
	return c.o.Root.Update(ctx, func(tx datastore.Tx) error {
		return leaseTable(n.IPAM, l.Pool).Put(tx, l.Address.Addr().String(), l)
	})
}

// leasesOf owns what is leased for a network's endpoints.
func leasesOf(id endpoint.NetworkID) string { return "lease/" + string(id) }

// mendLeases converges the leases of a network.
func (c *Controller) mendLeases(ctx context.Context, id endpoint.NetworkID) error {
	unlock, err := c.locks.exclusive(ctx, networkOwner(id))
	if err != nil {
		return err
	}
	defer unlock()
	n, found, err := maybe(c.networkRecord(ctx, id))
	if err != nil || !found || n.Deleting {
		return err
	}
	if err := c.replaySubnets(ctx, n); err != nil {
		return err
	}
	for e, err := range records(ctx, c.o.Run, endpointTable(n.ID)) {
		if err == nil {
			err = c.replayAddresses(ctx, n, e)
		}
		if err != nil {
			return err
		}
	}
	if err := c.convergeLeases(ctx, n); err != nil {
		return err
	}
	c.mender.forget(leasesOf(id))
	return nil
}

// convergeLeases gives back, to a driver that acts, the addresses that no endpoint has any more. The caller holds the network.
func (c *Controller) convergeLeases(ctx context.Context, n netdriver.Network) error {
	if !c.ipamActs(n.IPAM) {
		return nil
	}
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return err
	}
	return c.eachLostLease(ctx, n, func(l ipam.Lease) error {
		if err := d.ReleaseAddress(ctx, l.Pool, l.Address.Addr()); err != nil {
			return fmt.Errorf("release address %s: %w", l.Address, err)
		}
		return c.strikeLease(ctx, n, l)
	})
}

// forgetLeases gives up on what a driver that does not answer holds for a network.
func (c *Controller) forgetLeases(ctx context.Context, n netdriver.Network) error {
	return c.eachLostLease(ctx, n, func(l ipam.Lease) error { return c.strikeLease(ctx, n, l) })
}

func (c *Controller) strikeLease(ctx context.Context, n netdriver.Network, l ipam.Lease) error {
	return c.o.Root.Update(ctx, func(tx datastore.Tx) error {
		return leaseTable(n.IPAM, l.Pool).Delete(tx, l.Address.Addr().String())
	})
}

func (c *Controller) eachLostLease(ctx context.Context, n netdriver.Network, do func(ipam.Lease) error) error {
	for _, sub := range n.Subnets {
		for l, err := range records(ctx, c.o.Root, leaseTable(n.IPAM, sub.Pool.ID)) {
			if err != nil {
				return err
			}
			id, ofEndpoint := strings.CutPrefix(l.Owner, endpointOwner(""))
			if !ofEndpoint {
				continue // a front end's
			}
			e, found, err := maybe(c.endpointRecord(ctx, n.ID, endpoint.ID(id)))
			if err != nil {
				return err
			}
			if found && slices.Contains(e.Addresses, l.Address) {
				continue
			}
			if err := do(l); err != nil {
				return err
			}
		}
	}
	return nil
}
