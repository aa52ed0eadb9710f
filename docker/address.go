package docker

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
)

// addresses is the plugin as an address driver: the Controller's, with requests recorded, whose owners are known as far as an engine tells.
type addresses struct{ p *Plugin }

var _ ipam.Driver = addresses{}

// Capability: what the engine was given we remember.
func (a addresses) Capability(ctx context.Context) (ipam.Capability, error) {
	d, err := a.p.Controller.IPAM(a.p.IPAM)
	if err != nil {
		return ipam.Capability{}, err
	}
	c, err := d.Capability(ctx)
	return ipam.Capability{LocalSpace: c.LocalSpace, GlobalSpace: c.GlobalSpace}, err
}

// RequestPool gives a named pool again to who asks again before a network has it: that is the same request. One that is not named is
// another each time, whoever refused the last.
func (a addresses) RequestPool(ctx context.Context, q ipam.PoolRequest) (ipam.Pool, error) {
	d, err := a.p.Controller.IPAM(a.p.IPAM)
	if err != nil {
		return ipam.Pool{}, err
	}
	q.Owner, q.Exclude = a.p.owner()+rand.Text(), nil
	if q.Subnet.IsValid() && !q.Subnet.Addr().IsUnspecified() {
		q.Owner = a.p.owner() + "named"
		taken, found, err := a.p.leaseOf(ctx, func(l sealane.Leased) bool {
			return l.Network != "" && l.Pool.Subnet == q.Subnet && spaceOf(l.Pool.ID) == q.Space
		})
		if err != nil {
			return ipam.Pool{}, err
		}
		if found {
			return ipam.Pool{}, fmt.Errorf("subnet %s: %w: network %.12s has it", q.Subnet, errdefs.ErrAlreadyExists, taken.Network)
		}
	}
	return d.RequestPool(ctx, q)
}

// leaseOf finds what engines, or other front ends, were given.
func (p *Plugin) leaseOf(ctx context.Context, is func(sealane.Leased) bool) (sealane.Leased, bool, error) {
	for l, err := range p.Controller.Leases(ctx, p.IPAM) {
		if err != nil {
			return l, false, err
		}
		if is(l) {
			return l, true, nil
		}
	}
	return sealane.Leased{}, false, nil
}

// owner is what this plugin's leases begin with.
func (p *Plugin) owner() string { return "docker/" + p.Name + "/" }

// spaceOf is the address space that the built-in driver's pool ids begin with.
func spaceOf(id ipam.PoolID) string {
	space, _, _ := strings.Cut(string(id), "/")
	return space
}

func (a addresses) ReleasePool(ctx context.Context, id ipam.PoolID) error {
	d, err := a.p.Controller.IPAM(a.p.IPAM)
	if err != nil {
		return err
	}
	return d.ReleasePool(ctx, id)
}

// RequestAddress gives a named address again to who asks again before an endpoint has it, and a gateway always.
func (a addresses) RequestAddress(ctx context.Context, q ipam.AddressRequest) (ipam.Address, error) {
	d, err := a.p.Controller.IPAM(a.p.IPAM)
	if err != nil {
		return ipam.Address{}, err
	}
	switch {
	case q.Gateway:
		q.Owner = a.p.owner() + "gateway"
	case q.Address.IsValid():
		q.Owner = a.p.owner() + q.Address.String()
		on, err := a.networkOf(ctx, q.Pool)
		if err != nil {
			return ipam.Address{}, err
		}
		by, err := a.p.Controller.Holder(ctx, on, q.Address)
		if err != nil {
			return ipam.Address{}, err
		}
		if by != "" {
			return ipam.Address{}, fmt.Errorf("address %s: %w: endpoint %.12s has it", q.Address, errdefs.ErrAlreadyExists, by)
		}
	default:
		q.Owner = a.p.owner() + rand.Text()
	}
	return d.RequestAddress(ctx, q)
}

// networkOf is the network that has taken a pool over; "" none.
func (a addresses) networkOf(ctx context.Context, id ipam.PoolID) (endpoint.NetworkID, error) {
	l, err := a.p.Controller.LeasedPool(ctx, a.p.IPAM, id)
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	return l.Network, err
}

// ReleaseAddress also ends an endpoint that has the address still: the engine deletes endpoints first, and has not reached us.
func (a addresses) ReleaseAddress(ctx context.Context, id ipam.PoolID, address netip.Addr) error {
	on, err := a.networkOf(ctx, id)
	if err != nil {
		return err
	}
	if on != "" {
		by, err := a.p.Controller.Holder(ctx, on, address)
		if err == nil && by != "" {
			err = a.p.deleteEndpoint(ctx, on, by)
		}
		if err != nil {
			return err
		}
	}
	d, err := a.p.Controller.IPAM(a.p.IPAM)
	if err != nil {
		return err
	}
	return d.ReleaseAddress(ctx, id, address)
}
