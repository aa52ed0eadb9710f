package ipamtest

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/ipam"
)

// Fake is a driver that acts elsewhere, as a remote one does: it outlives a crash of its caller (no replay), wants MAC addresses,
// chooses gateways, has data of its own, and fails where it is told to. What it hands out comes from the driver it is made of.
type Fake struct {
	ipam.Driver

	// Touch, when set, is called before and after each verb that changes something, with its name and "before" or "after". Its
	// error is the verb's: an error after the deed is an answer that was lost.
	Touch func(verb, when string) error
}

// Capability implements ipam.Driver.
func (f *Fake) Capability(ctx context.Context) (ipam.Capability, error) {
	c, err := f.Driver.Capability(ctx)
	c.RequiresMAC, c.Replay = true, false
	return c, err
}

// RequestPool implements ipam.Driver.
func (f *Fake) RequestPool(ctx context.Context, r ipam.PoolRequest) (p ipam.Pool, err error) {
	err = f.touch("RequestPool", func() error {
		if p, err = f.Driver.RequestPool(ctx, r); err != nil {
			return err
		}
		gateway, err := f.Driver.RequestAddress(ctx, ipam.AddressRequest{Pool: p.ID, Gateway: true, Owner: "gateway of " + string(p.ID)})
		if err != nil {
			return fmt.Errorf("gateway of pool %s: %w", p.ID, err)
		}
		p.Gateway = gateway.Prefix.Addr()
		p.Data = map[string]string{"fake.pool": string(p.ID)}
		return nil
	})
	if err != nil {
		return ipam.Pool{}, err
	}
	return p, nil
}

// ReleasePool implements ipam.Driver.
func (f *Fake) ReleasePool(ctx context.Context, id ipam.PoolID) error {
	return f.touch("ReleasePool", func() error { return f.Driver.ReleasePool(ctx, id) })
}

// RequestAddress implements ipam.Driver.
func (f *Fake) RequestAddress(ctx context.Context, r ipam.AddressRequest) (a ipam.Address, err error) {
	err = f.touch("RequestAddress", func() error {
		if r.MAC == nil && !r.Gateway {
			return fmt.Errorf("request address of pool %s: %w: a MAC address is required", r.Pool, errdefs.ErrInvalidArgument)
		}
		if a, err = f.Driver.RequestAddress(ctx, r); err != nil {
			return err
		}
		a.Data = map[string]string{"fake.mac": r.MAC.String()}
		return nil
	})
	if err != nil {
		return ipam.Address{}, err
	}
	return a, nil
}

// ReleaseAddress implements ipam.Driver.
func (f *Fake) ReleaseAddress(ctx context.Context, id ipam.PoolID, a netip.Addr) error {
	return f.touch("ReleaseAddress", func() error { return f.Driver.ReleaseAddress(ctx, id, a) })
}

func (f *Fake) touch(verb string, deed func() error) error {
	if f.Touch == nil {
		return deed()
	}
	if err := f.Touch(verb, "before"); err != nil {
		return err
	}
	if err := deed(); err != nil {
		return err
	}
	return f.Touch(verb, "after")
}
