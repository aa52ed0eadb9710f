package sealane

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/resolver"
)

// Names at gateways are for containers whose resolv.conf somebody else writes: who asks at the gateway address of a network, through that
// network, is told the names of that network.

// nameAtGateway has a network that is there asked about at its gateway addresses. One that cannot be, because the host has a DNS server of
// its own there, is a network all the same.
func (c *Controller) nameAtGateway(ctx context.Context, n netdriver.Network, has netdriver.Plan) {
	if err := c.nameGateway(ctx, n, has); err != nil && ctx.Err() == nil {
		c.log.Warn("a network is not asked about at its gateway", "network", n.Name, "error", err)
	}
}

// nameGateway is nameAtGateway with an error. A plan without a link that has a gateway address is asked about nowhere. Until all names are
// told, after a start, nobody is answered.
func (c *Controller) nameGateway(ctx context.Context, n netdriver.Network, has netdriver.Plan) error {
	if !c.o.AtGateways || !c.resolves() || n.NoNames || !c.zonesTold.Load() {
		return nil
	}
	space, g := gatewayOf(n, has)
	p, err := c.at(ctx, space, false)
	if err != nil {
		return err
	}
	ns := c.host
	if p != nil {
		ns = p.ns
	}
	if err := c.setGateway(ctx, ns, g); err != nil {
		return fmt.Errorf("names at the gateway of network %s: %w", n.Name, err)
	}
	return nil
}

// gatewayOf finds where the gateway addresses of a network are, by its plan.
func gatewayOf(n netdriver.Network, has netdriver.Plan) (space string, g resolver.Gateway) {
	g = resolver.Gateway{Network: n.ID, Forward: !n.Internal}
	g.Upstreams, _ = resolver.ParseUpstreams(n.Options[optionDNS]) // checked when the network was made
	isGateway := func(a netip.Addr) bool {
		return slices.ContainsFunc(n.Subnets, func(s netdriver.Subnet) bool { return s.Gateway.IsValid() && s.Gateway.Addr() == a })
	}
	for _, share := range has.Shares {
		for _, l := range share.Config.Links {
			for _, a := range l.Addrs {
				if isGateway(a.Addr()) {
					space, g.Link, g.Addrs = share.Space, l.Name, append(g.Addrs, a.Addr())
				}
			}
		}
	}
	return space, g
}

// restoreGateways has networks that are there asked about, when all names are told: questions may have waited.
func (c *Controller) restoreGateways(ctx context.Context, networks []netdriver.Network) error {
	c.zonesTold.Store(true)
	if !c.o.AtGateways {
		return nil
	}
	for _, n := range networks {
		held, found, err := maybe(view(ctx, c.o.Run, func(tx datastore.Tx) (netdriver.Held, error) {
			return heldTable().Get(tx, networkOwner(n.ID))
		}))
		if err != nil {
			return err
		}
		if found && !n.Deleting {
			c.nameAtGateway(ctx, n, held.Plan)
		}
	}
	return nil
}
