package remote

import (
	"context"
	"net/netip"

	"github.com/sealane/sealane/ipam"
)

// ipamClient is a plugin as an address driver.
type ipamClient struct{ p *plugin }

var _ ipam.Driver = ipamClient{}

// Capability asks once, and before the first pool for the default address spaces.
func (d ipamClient) Capability(ctx context.Context) (ipam.Capability, error) {
	needs, err := d.p.ipamCapability(ctx)
	if err != nil {
		return ipam.Capability{}, err
	}
	spaces, err := d.p.addressSpaces(ctx)
	return ipam.Capability{LocalSpace: spaces.LocalDefaultAddressSpace, GlobalSpace: spaces.GlobalDefaultAddressSpace,
		RequiresMAC: needs.RequiresMACAddress, Replay: needs.RequiresRequestReplay}, err
}

// RequestPool undoes what it refuses to believe.
func (d ipamClient) RequestPool(ctx context.Context, q ipam.PoolRequest) (ipam.Pool, error) {
	spaces, err := d.p.addressSpaces(ctx)
	if err != nil {
		return ipam.Pool{}, err
	}
	r, err := newPoolRequest(q, spaces.LocalDefaultAddressSpace)
	if err != nil {
		return ipam.Pool{}, err
	}
	stamp(ctx, r.Sealane, d.p.timeout)
	var reply poolReply
	if err := d.p.call(ctx, requestPool, r, &reply); err != nil {
		return ipam.Pool{}, err
	}
	pool, err := reply.pool(r)
	if err != nil {
		if reply.PoolID != "" {
			err = d.p.undo(ctx, err, func(ctx context.Context) error { return d.ReleasePool(ctx, pool.ID) })
		}
		return ipam.Pool{}, err
	}
	return pool, nil
}

func (d ipamClient) ReleasePool(ctx context.Context, id ipam.PoolID) error {
	return d.p.call(ctx, releasePool, poolName{PoolID: string(id), Sealane: stamp(ctx, &Extra{}, d.p.timeout)}, nil)
}

// RequestAddress undoes what it refuses to believe.
func (d ipamClient) RequestAddress(ctx context.Context, q ipam.AddressRequest) (ipam.Address, error) {
	needs, err := d.p.ipamCapability(ctx)
	if err != nil {
		return ipam.Address{}, err
	}
	r := newAddressRequest(q, needs.RequiresMACAddress)
	stamp(ctx, r.Sealane, d.p.timeout)
	var reply addressReply
	if err := d.p.call(ctx, requestAddress, r, &reply); err != nil {
		return ipam.Address{}, err
	}
	a, err := reply.address(r)
	if err != nil {
		if p, bad := netip.ParsePrefix(reply.Address); bad == nil {
			err = d.p.undo(ctx, err, func(ctx context.Context) error { return d.ReleaseAddress(ctx, q.Pool, p.Addr()) })
		}
		return ipam.Address{}, err
	}
	return a, nil
}

// ReleaseAddress: no address is no address to release.
func (d ipamClient) ReleaseAddress(ctx context.Context, id ipam.PoolID, a netip.Addr) error {
	if !a.IsValid() {
		return nil
	}
	return d.p.call(ctx, releaseAddress, addressName{PoolID: string(id), Address: a.String(), Sealane: stamp(ctx, &Extra{}, d.p.timeout)}, nil)
}
