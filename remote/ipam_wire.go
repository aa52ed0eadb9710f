package remote

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/ipam"
)

// newPoolRequest refuses prefixes that are neither valid nor absent: they have no text.
func newPoolRequest(q ipam.PoolRequest, space string) (poolRequest, error) {
	whole := func(p netip.Prefix) bool { return p.IsValid() || p == netip.Prefix{} }
	if !whole(q.Subnet) || !whole(q.Range) || slices.ContainsFunc(q.Exclude, func(p netip.Prefix) bool { return !p.IsValid() }) {
		return poolRequest{}, fmt.Errorf("subnet %s, range %s, without %v: %w: one of them is no subnet", q.Subnet, q.Range, q.Exclude,
			errdefs.ErrInvalidArgument)
	}
	r := poolRequest{AddressSpace: q.Space, Pool: text(q.Subnet), SubPool: text(q.Range), Options: generic(q.Options), V6: q.IPv6,
		Sealane: &Extra{Owner: q.Owner, Exclude: q.Exclude}}
	if r.AddressSpace == "" {
		r.AddressSpace = space
	}
	if q.Subnet.IsValid() {
		r.V6 = q.Subnet.Addr().Is6()
	}
	return r, nil
}

func (r poolRequest) request() (q ipam.PoolRequest, err error) {
	q = ipam.PoolRequest{Space: r.AddressSpace, Options: r.Options, IPv6: r.V6}
	for _, p := range []struct {
		text string
		into *netip.Prefix
	}{{r.Pool, &q.Subnet}, {r.SubPool, &q.Range}} {
		if p.text == "" {
			continue
		}
		if *p.into, err = netip.ParsePrefix(p.text); err != nil {
			return q, fmt.Errorf("pool %.80q: %w: %w", p.text, errdefs.ErrInvalidArgument, err)
		}
	}
	if r.Sealane != nil {
		q.Owner, q.Exclude = r.Sealane.Owner, r.Sealane.Exclude
	}
	return q, nil
}

func newPoolReply(p ipam.Pool) poolReply {
	r := poolReply{PoolID: string(p.ID), Pool: text(p.Subnet), Data: map[string]string{}}
	for key, value := range p.Data {
		r.Data[key] = value
	}
	if p.Gateway.IsValid() {
		r.Data[optGateway] = netip.PrefixFrom(p.Gateway, p.Subnet.Bits()).String()
	}
	return r
}

// pool reads a reply and refuses one that does not fit its request.
func (r poolReply) pool(q poolRequest) (ipam.Pool, error) {
	const longest = 256
	p := ipam.Pool{ID: ipam.PoolID(r.PoolID), Data: r.Data}
	if r.PoolID == "" || len(r.PoolID) > longest {
		return p, badReply("a pool id of %d bytes", len(r.PoolID))
	}
	asked, err := q.request()
	if err != nil {
		return p, err
	}
	if p.Subnet, err = netip.ParsePrefix(r.Pool); err != nil {
		return p, badReply("pool %.80q is no subnet", r.Pool)
	}
	p.Subnet, p.Range = p.Subnet.Masked(), asked.Range
	size := asked.Subnet.IsValid() && asked.Subnet.Addr().IsUnspecified()
	switch {
	case p.Subnet.Addr().Is6() != q.V6:
		return p, badReply("pool %s is of the other family", p.Subnet)
	case asked.Subnet.IsValid() && !size && p.Subnet != asked.Subnet.Masked():
		return p, badReply("pool %s is not %s, which was asked for", p.Subnet, asked.Subnet)
	case p.Subnet.Addr().IsMulticast() || p.Subnet.Addr().IsLoopback():
		return p, badReply("pool %s is none that a network can have", p.Subnet)
	}
	if gw := r.Data[optGateway]; gw != "" {
		g, err := netip.ParsePrefix(gw)
		if err != nil || !p.Subnet.Contains(g.Addr()) {
			return p, badReply("gateway %.80q lies outside pool %s", gw, p.Subnet)
		}
		p.Gateway = g.Addr()
	}
	return p, nil
}

// newAddressRequest tells the MAC as Docker does: to who requires it.
func newAddressRequest(q ipam.AddressRequest, requiresMAC bool) addressRequest {
	r := addressRequest{PoolID: string(q.Pool), Options: maps.Clone(q.Options), Sealane: &Extra{Owner: q.Owner}}
	set := func(key, value string) {
		if r.Options == nil {
			r.Options = map[string]string{}
		}
		r.Options[key] = value
	}
	if q.Address.IsValid() {
		r.Address = q.Address.String()
	}
	if q.Gateway {
		set(optAddressType, optGateway)
	}
	if q.MAC != nil {
		r.Sealane.MAC = q.MAC.String()
		if requiresMAC {
			set(optMAC, q.MAC.String())
		}
	}
	return r
}

func (r addressRequest) request() (q ipam.AddressRequest, err error) {
	q = ipam.AddressRequest{Pool: ipam.PoolID(r.PoolID), Options: maps.Clone(r.Options)}
	q.Gateway = q.Options[optAddressType] == optGateway
	delete(q.Options, optAddressType)
	if r.Address != "" {
		if q.Address, err = netip.ParseAddr(r.Address); err != nil {
			return q, fmt.Errorf("address %.80q: %w: %w", r.Address, errdefs.ErrInvalidArgument, err)
		}
	}
	mac := q.Options[optMAC]
	delete(q.Options, optMAC)
	if r.Sealane != nil {
		q.Owner, mac = r.Sealane.Owner, cmp.Or(mac, r.Sealane.MAC)
	}
	if mac != "" {
		if q.MAC, err = net.ParseMAC(mac); err != nil {
			return q, fmt.Errorf("MAC address %.80q: %w: %w", mac, errdefs.ErrInvalidArgument, err)
		}
	}
	return q, nil
}

func newAddressReply(a ipam.Address) addressReply {
	r := addressReply{Address: text(a.Prefix), Data: a.Data}
	if r.Data == nil {
		r.Data = map[string]string{}
	}
	return r
}

// address reads a reply and refuses one that does not fit its request. Whether it lies in the pool its caller knows.
func (r addressReply) address(q addressRequest) (ipam.Address, error) {
	p, err := netip.ParsePrefix(r.Address)
	if err != nil {
		return ipam.Address{}, badReply("address %.80q is none with its subnet's length", r.Address)
	}
	a := p.Addr()
	if asked, err := netip.ParseAddr(q.Address); err == nil && asked != a {
		return ipam.Address{}, badReply("address %s is not %s, which was asked for", a, asked)
	}
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() || a.Is4In6() {
		return ipam.Address{}, badReply("address %s is none that an endpoint can have", a)
	}
	return ipam.Address{Prefix: p, Data: r.Data}, nil
}
