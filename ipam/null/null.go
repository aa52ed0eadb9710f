// Package null is the ipam.Driver, named "null", of networks whose addresses are not managed: it has one pool of each family, which
// is all addresses, and hands out none.
package null

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/ipam"
)

// Space is its only address space.
const Space = "null"

const (
	pool4 ipam.PoolID = Space + "/0.0.0.0/0"
	pool6 ipam.PoolID = Space + "/::/0"
)

// Driver is an ipam.Driver. All owners have the same pools.
type Driver struct{}

var _ ipam.Driver = Driver{}

// New returns the driver. It has no state.
func New() Driver { return Driver{} }

// Capability implements ipam.Driver.
func (Driver) Capability(context.Context) (ipam.Capability, error) {
	return ipam.Capability{LocalSpace: Space, GlobalSpace: Space}, nil
}

// RequestPool implements ipam.Driver. A subnet, a range or a space that is named is InvalidArgument, as are options.
func (Driver) RequestPool(_ context.Context, r ipam.PoolRequest) (ipam.Pool, error) {
	p := ipam.Pool{ID: pool4, Subnet: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}
	if r.IPv6 || r.Subnet.Addr().Is6() {
		p = ipam.Pool{ID: pool6, Subnet: netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	var zero netip.Prefix
	switch {
	case r.Subnet != zero && r.Subnet != p.Subnet:
		return ipam.Pool{}, fmt.Errorf("request pool %s: %w: the null driver has no subnets: name none, or another IPAM driver", r.Subnet, errdefs.ErrInvalidArgument)
	case r.Range != zero:
		return ipam.Pool{}, fmt.Errorf("request pool: range %s: %w: the null driver gives no addresses", r.Range, errdefs.ErrInvalidArgument)
	case r.Space != "" && r.Space != Space:
		return ipam.Pool{}, fmt.Errorf("request pool: %w: address space %q: there is only %s", errdefs.ErrInvalidArgument, r.Space, Space)
	case len(r.Options) != 0:
		return ipam.Pool{}, fmt.Errorf("request pool: %w: the null driver has no options", errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// ReleasePool implements ipam.Driver.
func (Driver) ReleasePool(context.Context, ipam.PoolID) error { return nil }

// RequestAddress implements ipam.Driver. The answer is no address, also for a gateway; one that is named is InvalidArgument.
func (Driver) RequestAddress(_ context.Context, r ipam.AddressRequest) (ipam.Address, error) {
	switch {
	case r.Pool != pool4 && r.Pool != pool6:
		return ipam.Address{}, fmt.Errorf("request address of pool %s: %w: no such pool", r.Pool, errdefs.ErrNotFound)
	case r.Address.IsValid():
		return ipam.Address{}, fmt.Errorf("request %s of pool %s: %w: the null driver gives no addresses: name none, or another IPAM driver",
			r.Address, r.Pool, errdefs.ErrInvalidArgument)
	}
	return ipam.Address{}, nil
}

// ReleaseAddress implements ipam.Driver.
func (Driver) ReleaseAddress(context.Context, ipam.PoolID, netip.Addr) error { return nil }
