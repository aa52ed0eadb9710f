package sealane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// restore converges every record with one look at the kernel, and sweeps what no record names. It waits for no driver that acts: what
// those hold is converged in the background.
func (c *Controller) restore(ctx context.Context) error {
	seen, err := c.observe(ctx)
	if err != nil {
		return err
	}
	if c.lost {
		if err := c.adopt(ctx, seen); err != nil {
			return fmt.Errorf("take over what runs: %w", err)
		}
	}
	if err := c.replayLeases(ctx); err != nil {
		c.log.Error("what front ends were given is not reserved", "error", err)
	}
	networks, err := c.restoreNetworks(ctx, seen)
	if err != nil {
		return err
	}
	if err := c.restoreNames(ctx); err != nil {
		return err
	}
	if err := c.restoreGateways(ctx, networks); err != nil {
		return err
	}
	if err := c.restoreSandboxes(ctx, seen); err != nil {
		return err
	}
	for _, n := range networks {
		if n.Deleting {
			c.try(ctx, networkOwner(n.ID), func() error { return c.convergeNetwork(ctx, n, seen) })
		}
	}
	if err := c.restoreDriven(ctx); err != nil || c.lost {
		return err
	}
	if err := c.undoLost(ctx, seen); err != nil {
		return err
	}
	return c.sweep(ctx, seen)
}

// undoLost undoes what the run store has of networks that the root store has no record of, since an older one was put back: no network,
// nothing wanted. Their endpoints have left their sandboxes by now.
func (c *Controller) undoLost(ctx context.Context, seen *observation) error {
	for h, err := range records(ctx, c.o.Run, heldTable()) {
		id, isNetwork := strings.CutPrefix(h.Owner, "net/")
		if err != nil || !isNetwork {
			continue
		}
		n := netdriver.Network{ID: endpoint.NetworkID(id), Deleting: true}
		_, inRoot, err := maybe(view(ctx, c.o.Root, func(tx datastore.Tx) (netdriver.Network, error) { return networkTable().Get(tx, id) }))
		_, shared, failed := maybe(c.replica(ctx, n.ID))
		if inRoot || shared || err != nil || failed != nil { // a record that cannot be read is one
			continue
		}
		c.log.Warn("undoing a network that has no record any more", "network", id)
		c.try(ctx, h.Owner, func() error {
			for _, dir := range []string{endpointTable(n.ID).Dir, string(endpointNames(n.ID))} {
				if err := c.deleteAll(ctx, dir); err != nil {
					return err
				}
			}
			return c.convergeNetwork(ctx, n, seen)
		})
	}
	return ctx.Err()
}

// try does one piece of a restore; what fails is shown with its owner and tried again, and holds nothing else up.
func (c *Controller) try(ctx context.Context, owner string, piece func() error) {
	if err := piece(); err != nil && ctx.Err() == nil {
		c.log.Warn("not restored; trying again", "owner", owner, "error", err)
		c.mender.later(owner, err)
	}
}

// restoreNetworks asks for all addresses again, and converges the networks that stay.
func (c *Controller) restoreNetworks(ctx context.Context, seen *observation) ([]netdriver.Network, error) {
	var networks []netdriver.Network
	for n, err := range c.networksHere(ctx) {
		if err != nil {
			c.log.Error("a network's record cannot be read", "error", err)
			continue
		}
		networks = append(networks, n)
	}
	for _, n := range networks {
		if c.ipamActs(n.IPAM) {
			c.mender.later(leasesOf(n.ID), nil)
			continue
		}
		if n.Scope == netdriver.Global { // in the background: what hosts share is not waited for
			c.recallPeers(ctx, c.sharing(n.ID))
			continue
		}
		if err := c.replaySubnets(ctx, n); err != nil {
			c.log.Error("the subnets of a network are not reserved", "network", n.Name, "error", err)
		}
		c.replayEndpoints(ctx, n)
	}
	for _, n := range networks {
		switch {
		case n.Deleting:
		case !c.computes(ctx, n.Driver):
			c.mender.later(networkOwner(n.ID), nil)
		default:
			c.try(ctx, networkOwner(n.ID), func() error { return c.convergeNetwork(ctx, n, seen) })
		}
	}
	return networks, ctx.Err()
}

// replayEndpoints asks again for the addresses of a network's endpoints.
func (c *Controller) replayEndpoints(ctx context.Context, n netdriver.Network) {
	for e, err := range records(ctx, c.o.Run, endpointTable(n.ID)) {
		if err == nil {
			err = c.replayAddresses(ctx, n, e)
		}
		if err != nil {
			c.log.Error("the addresses of an endpoint are not reserved", "network", n.Name, "endpoint", e.ID, "error", err)
		}
	}
}

// restoreSandboxes converges each sandbox, away if its namespace is gone.
func (c *Controller) restoreSandboxes(ctx context.Context, seen *observation) error {
	for s, err := range c.Sandboxes(ctx) {
		if err != nil {
			c.log.Error("a sandbox's record cannot be read", "error", err)
			continue
		}
		c.try(ctx, sandboxOwner(s.ID), func() error {
			gone, err := c.hasEnded(ctx, s, seen)
			if err != nil {
				return err
			}
			if gone || s.Deleting {
				c.mender.doubt(sandboxOwner(s.ID))
				return c.endSandbox(ctx, s.ID, gone && !s.Deleting)
			}
			return c.converge(ctx, s.ID, nil, seen)
		})
	}
	return ctx.Err()
}

// restoreDriven has what drivers that act hold converged in the background.
func (c *Controller) restoreDriven(ctx context.Context) error {
	for h, err := range records(ctx, c.o.Root, drivenTable()) {
		if err != nil {
			c.log.Error("what a driver holds cannot be read", "error", err)
			continue
		}
		c.mender.later(h.Owner, nil)
	}
	return ctx.Err()
}

// sweep unmakes what carries our mark and no record names: links, firewall elements, namespaces.
func (c *Controller) sweep(ctx context.Context, seen *observation) error {
	held, namespaces, err := c.recorded(ctx)
	if err != nil {
		return err
	}
	for _, owner := range c.unnamed(seen, held) {
		c.log.Warn("sweeping what no record names", "owner", owner)
		if err := c.applyPlan(ctx, owner, seen.plan(owner), netdriver.Plan{}, false); err != nil {
			return fmt.Errorf("sweep %s: %w", owner, err)
		}
	}
	ids, err := c.namespaces(ctx)
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, id := range ids {
		if !namespaces[id] {
			c.log.Warn("sweeping a namespace that no record names", "namespace", id)
			if err := c.o.Spaces.Remove(ctx, string(id)); err != nil {
				return fmt.Errorf("sweep namespace %s: %w", id, err)
			}
		}
	}
	return c.sweepNames(ctx, slices.Collect(maps.Keys(namespaces)))
}

// unnamed lists the owners seen in the kernel that no record names, endpoints before networks.
func (c *Controller) unnamed(seen *observation, held map[string]bool) []string {
	owners := map[string]bool{}
	for o := range maps.Keys(seen.links) {
		owners[o] = true
	}
	for o := range maps.Keys(seen.terms) {
		owners[o] = true
	}
	maps.DeleteFunc(owners, func(o string, _ bool) bool { return held[o] })
	return slices.Sorted(maps.Keys(owners))
}

// recorded is what records name: owners of what may exist, and sandboxes and networks that may have a namespace.
func (c *Controller) recorded(ctx context.Context) (held map[string]bool, sandboxes map[sandbox.ID]bool, err error) {
	held, sandboxes = map[string]bool{}, map[sandbox.ID]bool{}
	err = c.o.Run.View(ctx, func(tx datastore.Tx) error {
		clear(held)
		clear(sandboxes)
		for name := range tx.List(heldTable().Dir) {
			segments, err := datastore.Segments(name)
			if err != nil {
				return err
			}
			held[segments[0]] = true
			if id, isNetwork := strings.CutPrefix(segments[0], "net/"); isNetwork {
				sandboxes[sandbox.ID(id)] = true // it may have a namespace of its own
			}
		}
		for name := range tx.List(sandboxTable().Dir) {
			sandboxes[sandbox.ID(name)] = true
		}
		return nil
	})
	return held, sandboxes, err
}

// mendAll converges everything with one look at the kernel: somebody has touched more than one owner.
func (c *Controller) mendAll(ctx context.Context) error {
	c.facts.outdate()
	seen, err := c.observe(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for n, err := range c.networksHere(ctx) {
		if err != nil {
			continue
		}
		if !c.computes(ctx, n.Driver) {
			c.mender.later(networkOwner(n.ID), nil) // who does not answer holds nobody up
			continue
		}
		errs = append(errs, c.mendHeldNetwork(ctx, n.ID, seen))
		c.events.tell("network", "repair", string(n.ID), "name", n.Name)
	}
	for s, err := range c.Sandboxes(ctx) {
		if err == nil {
			errs = append(errs, c.converge(ctx, s.ID, nil, seen))
		}
	}
	return errors.Join(errs...)
}

// mendDriven converges what a driver that acts holds for an endpoint, and says in which sandbox that is. h says whose it is.
func (c *Controller) mendDriven(ctx context.Context, h netdriver.Held) (sandbox.ID, error) {
	kind, _, _ := strings.Cut(h.Owner, "/")
	if kind != "ep" {
		return "", c.mendNetwork(ctx, h.Network.ID)
	}
	unlock, err := c.hold(ctx, h.Network.ID, h.Endpoint.ID)
	if err != nil {
		return "", err
	}
	defer unlock()
	d, err := c.driver(ctx, h.Driver)
	if err != nil {
		return "", err
	}
	e, err := (&endpointHandle{c, h.Network.ID, h.Endpoint.ID}).Info(ctx)
	if errdefs.IsNotFound(err) {
		e, err = h.Endpoint, nil
		e.Sandbox, e.Deleting = "", true
	}
	if err != nil {
		return "", err
	}
	if e.Sandbox != "" && !e.Deleting {
		s, err := c.sandboxRecord(ctx, e.Sandbox)
		if err != nil {
			return "", err
		}
		e.Key = s.Key
	}
	chosen, err := c.drive(ctx, d, h.Network, e)
	if err == nil && accept(&e, chosen) {
		e.Key = ""
		err = c.putEndpoint(ctx, e)
	}
	return e.Sandbox, err
}

// sandboxHolding finds the sandbox in which an endpoint may have something: by what is held.
func (c *Controller) sandboxHolding(ctx context.Context, id endpoint.ID) (sandbox.ID, error) {
	h, err := view(ctx, c.o.Run, func(tx datastore.Tx) (netdriver.Held, error) {
		h, _, err := maybe(heldTable().Get(tx, endpointOwner(id)))
		return h, err
	})
	return h.Sandbox, err
}
