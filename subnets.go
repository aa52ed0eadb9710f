package sealane

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

const (
	defaultDriver = "bridge"
	defaultIPAM   = "default"
)

// IPAM says where addresses come from. Driver "" is "default".
type IPAM struct {
	Driver  string
	Subnets []SubnetSpec // a family that is on and has none is given one
	Options map[string]string
}

// SubnetSpec is one subnet, or with Pool one that a front end requested before and leaves to the network.
type SubnetSpec struct {
	Subnet, Range netip.Prefix
	Gateway       netip.Addr
	Aux           map[string]netip.Addr
	Pool          ipam.PoolID
}

// checkIPAM refuses what no address driver need be asked about; every mistake is told at once.
func checkIPAM(s *NetworkSpec) error {
	var errs []error
	if s.NoIPv4 && !s.IPv6 {
		errs = append(errs, fmt.Errorf("%w: a network needs IPv4 or IPv6", errdefs.ErrInvalidArgument))
	}
	for i, sub := range s.IPAM.Subnets {
		errs = append(errs, checkSubnet(s, sub))
		for _, other := range s.IPAM.Subnets[:i] {
			if sub.Subnet.Overlaps(other.Subnet) {
				errs = append(errs, fmt.Errorf("%w: subnets %s and %s overlap", errdefs.ErrInvalidArgument, other.Subnet, sub.Subnet))
			}
		}
	}
	return together(errs...)
}

func checkSubnet(s *NetworkSpec, sub SubnetSpec) error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{errdefs.ErrInvalidArgument}, args...)...))
	}
	if !sub.Subnet.IsValid() {
		if sub.Range.IsValid() || sub.Gateway.IsValid() || len(sub.Aux) > 0 {
			bad("an address range, gateway or auxiliary address needs its subnet")
		}
		return together(errs...)
	}
	if sub.Subnet.Masked() != sub.Subnet {
		bad("subnet %s has host bits set; write %s", sub.Subnet, sub.Subnet.Masked())
	}
	if sub.Subnet.Addr().Is6() && !s.IPv6 {
		bad("subnet %s is IPv6 and the network is not; switch IPv6 on", sub.Subnet)
	}
	if sub.Subnet.Addr().Is4() && s.NoIPv4 {
		bad("subnet %s is IPv4 and the network has none", sub.Subnet)
	}
	if sub.Range.IsValid() && (sub.Range.Bits() < sub.Subnet.Bits() || !sub.Subnet.Contains(sub.Range.Addr())) {
		bad("range %s is not inside subnet %s", sub.Range, sub.Subnet)
	}
	if sub.Gateway.IsValid() && !sub.Subnet.Contains(sub.Gateway) {
		bad("gateway %s is not inside subnet %s", sub.Gateway, sub.Subnet)
	}
	for name, a := range sub.Aux {
		if !sub.Subnet.Contains(a) {
			bad("auxiliary address %s (%s) is not inside subnet %s", a, name, sub.Subnet)
		}
	}
	return together(errs...)
}

// requestSubnets asks for the pools, gateways and auxiliary addresses of a new network and puts them into its record as they come, so
// that on an error the record says what to give back. What nobody named keeps clear of avoid.
func (c *Controller) requestSubnets(ctx context.Context, n *netdriver.Network, s IPAM, d netdriver.Driver, avoid ...netip.Prefix) error {
	can, err := d.Capability(ctx)
	if err != nil {
		return err
	}
	if can.NoAddresses {
		if len(s.Subnets) > 0 {
			return fmt.Errorf("%w: networks of driver %s have no subnets", errdefs.ErrInvalidArgument, n.Driver)
		}
		return nil
	}
	skip4, skip6, err := skipGateway(ctx, d, n.Options)
	if err != nil {
		return err
	}
	subnets, err := c.subnetsWanted(ctx, *n, s, avoid)
	if err != nil {
		return err
	}
	for _, want := range subnets {
		if err := c.requestSubnet(ctx, n, want, skip4, skip6); err != nil {
			return err
		}
	}
	return nil
}

// subnetsWanted completes what the user named: each family that is on has at least one pool, and an unnamed pool keeps clear of what
// the host can already reach, and of avoid.
func (c *Controller) subnetsWanted(ctx context.Context, n netdriver.Network, s IPAM, avoid []netip.Prefix) ([]poolWanted, error) {
	var wanted []poolWanted
	has4, has6 := !n.IPv4, !n.IPv6
	for _, sub := range s.Subnets {
		six := sub.Subnet.Addr().Is6()
		has4, has6 = has4 || !six, has6 || six
		wanted = append(wanted, poolWanted{SubnetSpec: sub, ipv6: six})
	}
	if !has4 {
		wanted = append(wanted, poolWanted{})
	}
	if !has6 {
		wanted = append(wanted, poolWanted{ipv6: true})
	}
	if !slices.ContainsFunc(wanted, func(w poolWanted) bool { return !w.named() }) {
		return wanted, nil
	}
	occupied := c.occupied
	if n.Scope == netdriver.Global { // what one host can reach says nothing of the others
		occupied = func(ctx context.Context) ([]netip.Prefix, error) { return c.claimedSubnets(ctx, n) }
	}
	exclude, err := occupied(ctx)
	for i := range wanted {
		wanted[i].exclude = slices.Concat(exclude, avoid)
	}
	return wanted, err
}

// occupied are destinations that the host reaches otherwise: no subnet that we choose should cover them.
func (c *Controller) occupied(ctx context.Context) ([]netip.Prefix, error) {
	host, err := c.look(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("look for host routes to keep clear of: %w", err)
	}
	exclude := slices.Clone(host.Routes)
	for _, r := range host.Resolvers {
		exclude = append(exclude, netip.PrefixFrom(r, r.BitLen()))
	}
	return exclude, nil
}

type poolWanted struct {
	SubnetSpec
	ipv6    bool
	exclude []netip.Prefix
}

func (w poolWanted) named() bool { return w.Subnet.IsValid() || w.Pool != "" }

// makeWay has networks that are there on demand, and that nobody is on, give subnets up that a new network is to have: nobody named them and
// the host has no route to them, so whoever looks for a free one, a Docker engine, comes upon them.
func (c *Controller) makeWay(ctx context.Context, s IPAM) error {
	var named []netip.Prefix
	for _, sub := range s.Subnets {
		if sub.Subnet.IsValid() && sub.Pool == "" {
			named = append(named, sub.Subnet)
		}
	}
	taken := func(sub netdriver.Subnet) bool { return slices.ContainsFunc(named, sub.Pool.Subnet.Overlaps) }
	if len(named) == 0 {
		return nil
	}
	for n, err := range records(ctx, c.o.Root, networkTable()) {
		if err == nil && n.OnDemand && slices.ContainsFunc(n.Subnets, taken) {
			err = c.moveAway(ctx, n.ID, named)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// moveAway gives a network subnets clear of avoid, if it is not used and nobody named those that it has.
func (c *Controller) moveAway(ctx context.Context, id endpoint.NetworkID, avoid []netip.Prefix) error {
	unlock, err := c.locks.exclusive(ctx, networkOwner(id))
	if err != nil {
		return err
	}
	defer unlock()
	n, found, err := maybe(c.networkRecord(ctx, id))
	if err != nil || !found || n.Deleting || c.ipamActs(n.IPAM) || c.networkIsFree(ctx, id) != nil ||
		slices.ContainsFunc(n.Subnets, func(sub netdriver.Subnet) bool { return !sub.Chosen }) {
		return err
	}
	d, err := c.driver(ctx, n.Driver)
	if err != nil {
		return err
	}
	to := n
	to.Subnets = nil
	to.Version++
	if err = c.requestSubnets(ctx, &to, IPAM{}, d, avoid...); err == nil {
		err = surely(ctx, c.o.Root, func(tx datastore.Tx) error { return networkTable().Put(tx, string(id), to) })
	}
	gone := n
	if err != nil {
		gone = to
	}
	end, cancel := afterwards(ctx)
	defer cancel()
	if freed := c.releaseSubnets(end, gone); freed != nil {
		return fmt.Errorf("network %s makes way: %w", n.Name, together(err, freed))
	}
	if err == nil {
		c.events.tell("network", "update", string(id), "name", n.Name, "type", n.Driver)
	}
	return err
}

func (c *Controller) requestSubnet(ctx context.Context, n *netdriver.Network, want poolWanted, skip4, skip6 bool) error {
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return err
	}
	pool, err := c.requestPool(ctx, d, *n, want)
	if err != nil {
		return err
	}
	n.Subnets = append(n.Subnets, netdriver.Subnet{Pool: pool, Chosen: !want.named()})
	sub := &n.Subnets[len(n.Subnets)-1]
	for _, name := range slices.Sorted(maps.Keys(want.Aux)) {
		r := ipam.AddressRequest{Pool: pool.ID, Address: want.Aux[name], Owner: auxOwner(n.ID, name), Options: n.IPAMOptions}
		if _, err := c.requestFixed(ctx, d, *n, pool, r); err != nil {
			return fmt.Errorf("auxiliary address %s (%s): %w", want.Aux[name], name, err)
		}
		if sub.Aux == nil {
			sub.Aux = map[string]netip.Addr{}
		}
		sub.Aux[name] = want.Aux[name]
	}
	if want.ipv6 && skip6 || !want.ipv6 && skip4 {
		return nil
	}
	r := ipam.AddressRequest{Pool: pool.ID, Address: want.Gateway, Gateway: true, Owner: gatewayOwner(n.ID), Options: n.IPAMOptions}
	if !r.Address.IsValid() {
		r.Address = pool.Gateway
	}
	a, err := c.requestFixed(ctx, d, *n, pool, r)
	if err != nil {
		return fmt.Errorf("gateway of %s: %w", pool.Subnet, err)
	}
	sub.Gateway = a
	return nil
}

// requestFixed asks for a gateway or an auxiliary address. One that a front end asked for, of a pool of its own, is taken over.
func (c *Controller) requestFixed(ctx context.Context, d ipam.Driver, n netdriver.Network, p ipam.Pool, r ipam.AddressRequest) (netip.Prefix, error) {
	if taken, err := c.leased(ctx, n.IPAM, p.ID, r.Address); err != nil || taken {
		return netip.PrefixFrom(r.Address, p.Subnet.Bits()), err
	}
	a, err := d.RequestAddress(ctx, r)
	if err != nil {
		return netip.Prefix{}, err
	}
	if err := inPool(p, a.Prefix); err != nil {
		return netip.Prefix{}, together(err, d.ReleaseAddress(ctx, p.ID, a.Prefix.Addr()))
	}
	return a.Prefix, nil
}

func (c *Controller) requestPool(ctx context.Context, d ipam.Driver, n netdriver.Network, want poolWanted) (ipam.Pool, error) {
	if want.Pool != "" {
		return c.adoptPool(ctx, n, want.SubnetSpec)
	}
	r := ipam.PoolRequest{Subnet: want.Subnet, Range: want.Range, IPv6: want.ipv6, Exclude: want.exclude, Owner: networkOwner(n.ID),
		Options: n.IPAMOptions}
	if r.Space = n.Space; r.Space == "" && n.Scope == netdriver.Global {
		can, err := d.Capability(ctx)
		if err != nil {
			return ipam.Pool{}, err
		}
		r.Space = can.GlobalSpace
	}
	pool, err := d.RequestPool(ctx, r)
	if err != nil {
		return pool, fmt.Errorf("subnet %s: %w", orAny(want.Subnet), err)
	}
	if want.Range.IsValid() {
		pool.Range = want.Range
	}
	return pool, nil
}

func orAny(p netip.Prefix) string {
	if !p.IsValid() {
		return "of any range"
	}
	return p.String()
}

func gatewayOwner(id endpoint.NetworkID) string          { return "gateway/" + string(id) }
func auxOwner(id endpoint.NetworkID, name string) string { return "aux/" + string(id) + "/" + name }

// releaseSubnets gives back all that a network's record names. It may be repeated.
func (c *Controller) releaseSubnets(ctx context.Context, n netdriver.Network) error {
	if len(n.Subnets) == 0 {
		return nil
	}
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return err
	}
	for _, sub := range n.Subnets {
		if sub.Gateway.IsValid() {
			if err := d.ReleaseAddress(ctx, sub.Pool.ID, sub.Gateway.Addr()); err != nil {
				return fmt.Errorf("release gateway %s: %w", sub.Gateway, err)
			}
		}
		for name, a := range sub.Aux {
			if err := d.ReleaseAddress(ctx, sub.Pool.ID, a); err != nil {
				return fmt.Errorf("release auxiliary address %s (%s): %w", a, name, err)
			}
		}
		kept, err := c.disownPool(ctx, n, sub.Pool.ID)
		if err == nil && !kept {
			err = d.ReleasePool(ctx, sub.Pool.ID)
		}
		if err != nil {
			return fmt.Errorf("release subnet %s: %w", sub.Pool.Subnet, err)
		}
	}
	return nil
}

// replaySubnets asks again for what a network's record names, of a driver that forgets at restart.
func (c *Controller) replaySubnets(ctx context.Context, n netdriver.Network) error {
	if len(n.Subnets) == 0 {
		return nil
	}
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return err
	}
	can, err := d.Capability(ctx)
	if err != nil || !can.Replay {
		return err
	}
	for _, sub := range n.Subnets {
		want := poolWanted{SubnetSpec: SubnetSpec{Subnet: sub.Pool.Subnet, Range: sub.Pool.Range}, ipv6: sub.Pool.Subnet.Addr().Is6()}
		if want.Range == want.Subnet {
			want.Range = netip.Prefix{}
		}
		pool, adopted, err := c.adopted(ctx, n, sub.Pool.ID)
		if err == nil && !adopted { // else it is asked for by what the front end said (replayLeases)
			pool, err = c.requestPool(ctx, d, n, want)
		}
		if err != nil {
			return err
		}
		if pool.ID != sub.Pool.ID {
			return fmt.Errorf("subnet %s: %w: the IPAM driver answers with pool %s and gave %s before", sub.Pool.Subnet,
				errdefs.ErrConflict, pool.ID, sub.Pool.ID)
		}
		if err := c.replayFixed(ctx, d, n, sub); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) replayFixed(ctx context.Context, d ipam.Driver, n netdriver.Network, sub netdriver.Subnet) error {
	if sub.Gateway.IsValid() {
		r := ipam.AddressRequest{Pool: sub.Pool.ID, Address: sub.Gateway.Addr(), Gateway: true, Owner: gatewayOwner(n.ID), Options: n.IPAMOptions}
		if _, err := c.requestFixed(ctx, d, n, sub.Pool, r); err != nil {
			return fmt.Errorf("gateway %s: %w", sub.Gateway, err)
		}
	}
	for name, a := range sub.Aux {
		r := ipam.AddressRequest{Pool: sub.Pool.ID, Address: a, Owner: auxOwner(n.ID, name), Options: n.IPAMOptions}
		if _, err := c.requestFixed(ctx, d, n, sub.Pool, r); err != nil {
			return fmt.Errorf("auxiliary address %s (%s): %w", a, name, err)
		}
	}
	return nil
}
