package remote

import (
	"context"
	"net/netip"

	"github.com/sealane/sealane/ipam"
)

// ipamServer is an address driver as a plugin.
type ipamServer struct{ d ipam.Driver }

func (s *Server) serveIPAM(a ipamServer) {
	handle(s, ipamCapabilities, a.capability)
	handle(s, defaultAddressSpaces, a.spaces)
	handle(s, requestPool, a.requestPool)
	handle(s, releasePool, a.releasePool)
	handle(s, requestAddress, a.requestAddress)
	handle(s, releaseAddress, a.releaseAddress)
}

func (a ipamServer) capability(ctx context.Context, _ none) (ipamCapability, error) {
	c, err := a.d.Capability(ctx)
	return ipamCapability{RequiresMACAddress: c.RequiresMAC, RequiresRequestReplay: c.Replay}, err
}

func (a ipamServer) spaces(ctx context.Context, _ none) (addressSpaces, error) {
	c, err := a.d.Capability(ctx)
	return addressSpaces{LocalDefaultAddressSpace: c.LocalSpace, GlobalDefaultAddressSpace: c.GlobalSpace}, err
}

func (a ipamServer) requestPool(ctx context.Context, q poolRequest) (poolReply, error) {
	r, err := q.request()
	if err != nil {
		return poolReply{}, err
	}
	p, err := a.d.RequestPool(ctx, r)
	if err != nil {
		return poolReply{}, err
	}
	return newPoolReply(p), nil
}

func (a ipamServer) releasePool(ctx context.Context, q poolName) (none, error) {
	return none{}, a.d.ReleasePool(ctx, ipam.PoolID(q.PoolID))
}

func (a ipamServer) requestAddress(ctx context.Context, q addressRequest) (addressReply, error) {
	r, err := q.request()
	if err != nil {
		return addressReply{}, err
	}
	got, err := a.d.RequestAddress(ctx, r)
	if err != nil {
		return addressReply{}, err
	}
	return newAddressReply(got), nil
}

// releaseAddress: what is no address is not held by anybody.
func (a ipamServer) releaseAddress(ctx context.Context, q addressName) (none, error) {
	address, err := netip.ParseAddr(q.Address)
	if err != nil {
		return none{}, nil
	}
	return none{}, a.d.ReleaseAddress(ctx, ipam.PoolID(q.PoolID), address)
}
