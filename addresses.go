package sealane

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// requestAddresses gives an endpoint one address of each family of its network, those it named first. What was given is returned on an
// error too, for the caller to give back.
func (c *Controller) requestAddresses(ctx context.Context, n netdriver.Network, s endpoint.Spec) ([]netip.Prefix, error) {
	if s.Leased {
		return s.Addresses, nil
	}
	var given []netip.Prefix
	left := slices.Clone(s.Addresses)
	for _, want := range []struct{ on, six bool }{{n.IPv4 && !s.NoIPv4, false}, {n.IPv6 && !s.NoIPv6, true}} {
		if !want.on {
			continue
		}
		got, err := c.requestFamily(ctx, n, s, want.six)
		given = append(given, got...)
		if err != nil {
			return given, err
		}
		left = slices.DeleteFunc(left, func(p netip.Prefix) bool {
			return slices.ContainsFunc(got, func(g netip.Prefix) bool { return g.Addr() == p.Addr() })
		})
	}
	if len(left) > 0 {
		return given, fmt.Errorf("address %s: %w: no subnet of network %s has it", left[0].Addr(), errdefs.ErrOutOfRange, n.Name)
	}
	return given, nil
}

// requestFamily gives the addresses of one family: the named ones, else any of the first subnet that has one left.
func (c *Controller) requestFamily(ctx context.Context, n netdriver.Network, s endpoint.Spec, six bool) ([]netip.Prefix, error) {
	var given []netip.Prefix
	var subnets []netdriver.Subnet
	for _, sub := range n.Subnets {
		if sub.Pool.Subnet.Addr().Is6() != six {
			continue
		}
		subnets = append(subnets, sub)
		for _, want := range s.Addresses {
			if !sub.Pool.Subnet.Contains(want.Addr()) {
				continue
			}
			p, err := c.requestAddress(ctx, n, sub, want.Addr(), s)
			if err != nil {
				return given, fmt.Errorf("address %s: %w", want.Addr(), err)
			}
			given = append(given, p)
		}
	}
	if len(given) > 0 {
		return given, nil
	}
	for i, sub := range subnets {
		p, err := c.requestAddress(ctx, n, sub, netip.Addr{}, s)
		if err == nil {
			return []netip.Prefix{p}, nil
		}
		if !errdefs.IsResourceExhausted(err) || i == len(subnets)-1 {
			return nil, fmt.Errorf("address of subnet %s: %w", sub.Pool.Subnet, err)
		}
	}
	return nil, nil
}

// requestAddress asks for one address.
func (c *Controller) requestAddress(ctx context.Context, n netdriver.Network, sub netdriver.Subnet, a netip.Addr, s endpoint.Spec) (netip.Prefix, error) {
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return netip.Prefix{}, err
	}
	r := ipam.AddressRequest{Pool: sub.Pool.ID, Address: a, MAC: s.MAC, Owner: endpointOwner(s.ID), Options: n.IPAMOptions}
	var got ipam.Address
	err = c.withdrawn.retry(ctx, func() (err error) {
		got, err = d.RequestAddress(ctx, r)
		return err
	})
	if err == nil && !got.Prefix.IsValid() && a.IsValid() {
		return netip.PrefixFrom(a, sub.Pool.Subnet.Bits()), nil
	}
	if err != nil {
		return netip.Prefix{}, err
	}
	if err := inPool(sub.Pool, got.Prefix); err != nil {
		return netip.Prefix{}, errors.Join(err, d.ReleaseAddress(ctx, sub.Pool.ID, got.Prefix.Addr()))
	}
	return got.Prefix, c.recordLease(ctx, n, ipam.Lease{Driver: n.IPAM, Pool: sub.Pool.ID, Address: got.Prefix, Owner: r.Owner})
}

// inPool refuses an address that is not of its pool: the driver is not what it says it is.
func inPool(p ipam.Pool, a netip.Prefix) error {
	if !p.Subnet.Contains(a.Addr()) || a.Bits() < p.Subnet.Bits() {
		return fmt.Errorf("%w: the IPAM driver answers with %s, which lies outside %s", errdefs.ErrInternal, a, p.Subnet)
	}
	return nil
}

// requireMAC gives an endpoint a MAC before its addresses when the IPAM driver wants one: always the same.
func (c *Controller) requireMAC(ctx context.Context, n netdriver.Network, e *endpoint.Info) error {
	if e.MAC != nil || len(n.Subnets) == 0 || e.Spec.Leased {
		return nil
	}
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return err
	}
	can, err := d.Capability(ctx)
	if err != nil {
		return fmt.Errorf("IPAM driver %s: %w", n.IPAM, err)
	}
	if can.RequiresMAC {
		hash := sha256.Sum256([]byte(e.ID))
		e.MAC = net.HardwareAddr{0x02, 0x42, hash[0], hash[1], hash[2], hash[3]}
	}
	return nil
}

// releaseAddresses gives an endpoint's addresses back to the pools they are of.
func (c *Controller) releaseAddresses(ctx context.Context, n netdriver.Network, addresses []netip.Prefix) error {
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range addresses {
		for _, sub := range n.Subnets {
			if sub.Pool.Subnet.Contains(p.Addr()) {
				errs = append(errs, d.ReleaseAddress(ctx, sub.Pool.ID, p.Addr()))
				break
			}
		}
	}
	return errors.Join(errs...)
}

// replayAddresses asks again for an endpoint's addresses, of a driver that forgets at restart.
func (c *Controller) replayAddresses(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	if e.Spec.Leased || len(e.Addresses) == 0 {
		return nil
	}
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return err
	}
	if can, err := d.Capability(ctx); err != nil || !can.Replay {
		return err
	}
	s := e.Spec
	s.ID, s.MAC = e.ID, e.MAC
	for _, p := range e.Addresses {
		for _, sub := range n.Subnets {
			if !sub.Pool.Subnet.Contains(p.Addr()) {
				continue
			}
			if _, err := c.requestAddress(ctx, n, sub, p.Addr(), s); err != nil {
				return fmt.Errorf("address %s: %w", p.Addr(), err)
			}
			break
		}
	}
	return nil
}

// derivedMAC is the MAC of an interface that was given none: of its IPv4 address, else of its first. An address that comes back has the
// same, so that nobody's neighbour table is stale.
func derivedMAC(addresses []netip.Prefix) net.HardwareAddr {
	for _, p := range addresses {
		if p.Addr().Is4() {
			return endpoint.MAC(p.Addr())
		}
	}
	if len(addresses) == 0 {
		return nil
	}
	return endpoint.MAC(addresses[0].Addr())
}

// withdrawals are addresses that nobody has any more and that connection tracking may still remember. One pass at a time clears them
// and gives them back, so that the next to have one is not answered with the flows of the last; callers do not wait.
type withdrawals struct {
	mu      sync.Mutex // guards what is below
	pending []withdrawal
	passing []withdrawal  // of the pass under way
	next    chan struct{} // closed when what is pending is given back; nil: nothing is
	current chan struct{} // closed when the pass under way is over; nil: none is
}

type withdrawal struct {
	network   netdriver.Network
	addresses []netip.Prefix
	leased    bool // by a front end, which gives them back itself
}

// withdrawn is what an endpoint that is gone had.
func withdrawn(n netdriver.Network, e endpoint.Info) withdrawal {
	return withdrawal{n, e.Addresses, e.Spec.Leased}
}

// withdraw takes addresses out of use; it returns at once.
func (c *Controller) withdraw(gone ...withdrawal) {
	if len(gone) == 0 {
		return
	}
	w := &c.withdrawn
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = append(w.pending, gone...)
	if w.next == nil {
		w.next = make(chan struct{})
		if w.current == nil {
			c.work.Go(c.passOver)
		}
	}
}

// pass is closed when all that was withdrawn before the call is given back; nil when it is already.
func (w *withdrawals) pass() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next != nil {
		return w.next
	}
	return w.current
}

// wait returns when what was withdrawn before the call is given back; false when there is nothing to wait for.
func (w *withdrawals) wait(ctx context.Context) (bool, error) {
	pass := w.pass()
	if pass == nil {
		return false, nil
	}
	select {
	case <-pass:
		return true, nil
	case <-ctx.Done():
		return true, context.Cause(ctx)
	}
}

// retry tries something once more when it is refused for want of addresses and some were on their way back: those are waited for. What was
// on its way as it began counts though it has come back since, which the refusal may just have missed.
func (w *withdrawals) retry(ctx context.Context, try func() error) error {
	before := w.pass()
	err := try()
	if !errdefs.IsAlreadyExists(err) && !errdefs.IsResourceExhausted(err) {
		return err
	}
	waited, failed := w.wait(ctx)
	if failed != nil {
		return errors.Join(err, failed)
	}
	if !waited && before == nil {
		return err
	}
	return try()
}

// forgotten returns when connection tracking knows nothing more of an address that somebody may have had just now.
func (w *withdrawals) forgotten(ctx context.Context, a netip.Addr) error {
	had := func(gone withdrawal) bool {
		return slices.ContainsFunc(gone.addresses, func(p netip.Prefix) bool { return p.Addr() == a })
	}
	w.mu.Lock()
	known := slices.ContainsFunc(w.pending, had) || slices.ContainsFunc(w.passing, had)
	w.mu.Unlock()
	if !known {
		return nil
	}
	_, err := w.wait(ctx)
	return err
}

// passOver takes batch after batch until none is left.
func (c *Controller) passOver() {
	w := &c.withdrawn
	for {
		w.mu.Lock()
		batch, done := w.pending, w.next
		w.pending, w.passing, w.next, w.current = nil, batch, nil, done
		w.mu.Unlock()
		if done == nil {
			return
		}
		c.giveBack(batch)
		close(done)
	}
}

func (c *Controller) giveBack(batch []withdrawal) {
	const enough = 30 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), enough)
	defer cancel()
	var addresses []netip.Addr
	for _, w := range batch {
		for _, p := range w.addresses {
			addresses = append(addresses, p.Addr())
		}
	}
	if err := c.forget(ctx, addresses); err != nil {
		c.log.Warn("flows of withdrawn addresses may live on", "error", err)
	}
	for _, w := range batch {
		if w.leased {
			continue
		}
		if c.ipamActs(w.network.IPAM) { // nobody else waits for it
			c.mender.later(leasesOf(w.network.ID), nil)
			continue
		}
		if err := c.releaseAddresses(ctx, w.network, w.addresses); err != nil {
			c.log.Warn("addresses are not given back", "network", w.network.Name, "addresses", w.addresses, "error", err)
		}
	}
}
