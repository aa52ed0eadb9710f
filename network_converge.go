package sealane

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// convergeNetwork makes the kernel match a network's record, as converge does for a sandbox. The caller holds the network, or for one
// that is there on demand its up lock.
func (c *Controller) convergeNetwork(ctx context.Context, n netdriver.Network, seen *observation) error {
	owner := networkOwner(n.ID)
	err := c.tryNetwork(ctx, n, owner, seen)
	if err != nil {
		c.mender.doubt(owner)
		return err
	}
	c.mender.forget(owner)
	return nil
}

func (c *Controller) tryNetwork(ctx context.Context, n netdriver.Network, owner string, seen *observation) error {
	if seen == nil && c.mender.doubts(owner) {
		var err error
		if seen, err = c.observe(ctx); err != nil {
			return err
		}
	}
	held, err := view(ctx, c.o.Run, func(tx datastore.Tx) (netdriver.Held, error) {
		h, _, err := maybe(heldTable().Get(tx, owner))
		return h, err
	})
	if err != nil {
		return err
	}
	up := !n.Deleting
	if up && n.OnDemand {
		if up, err = c.hasEndpoints(ctx, n.ID); err != nil {
			return err
		}
	}
	var want netdriver.Plan
	if up {
		if want, err = c.wantOfNetwork(ctx, n, held); err != nil {
			return err
		}
		if err := c.holdNetwork(ctx, held, owner, want); err != nil {
			return err
		}
	}
	have := held.Plan
	if seen != nil {
		have = seen.plan(owner)
	}
	if err := c.applyPlan(ctx, owner, have, want, up); err != nil {
		return err
	}
	c.tellSettings(held.Plan, want)
	if up {
		return nil
	}
	return c.networkIsDown(ctx, n, owner)
}

// tellSettings logs the settings of the host itself, such as forwarding, that a network needs: they are not turned back.
func (c *Controller) tellSettings(had, wants netdriver.Plan) {
	before := hostShare(had).Config.Sysctls
	for _, s := range hostShare(wants).Config.Sysctls {
		if s.Link == "" && !slices.Contains(before, s) {
			c.log.Info("made sure of a setting of the host", "sysctl", "net/"+s.Key, "value", s.Value)
		}
	}
}

// wantOfNetwork asks the driver for the plan. One that acts is asked once, with the wish on record before.
func (c *Controller) wantOfNetwork(ctx context.Context, n netdriver.Network, held netdriver.Held) (netdriver.Plan, error) {
	if n.Unknown {
		return held.Plan, nil
	}
	d, err := c.driver(ctx, n.Driver)
	if err != nil {
		return netdriver.Plan{}, err
	}
	if c.computes(ctx, n.Driver) {
		return c.planNetwork(ctx, n, d)
	}
	owner := networkOwner(n.ID)
	h, found, err := c.drivenRecord(ctx, owner)
	if err != nil || found && h.Network.Version == n.Version && h.Answered {
		return h.Plan, err
	}
	done := c.locks.calling(owner)
	defer done()
	h = netdriver.Held{Owner: owner, Driver: n.Driver, Network: n}
	if err := c.putDriven(ctx, h); err != nil {
		return netdriver.Plan{}, err
	}
	if h.Plan, err = c.planNetwork(ctx, n, d); err != nil {
		return netdriver.Plan{}, fmt.Errorf("driver %s: create network: %w", n.Driver, err)
	}
	h.Answered = true
	return h.Plan, c.putDriven(ctx, h)
}

// holdNetwork writes what may exist before it is made.
func (c *Controller) holdNetwork(ctx context.Context, held netdriver.Held, owner string, want netdriver.Plan) error {
	want = withoutEntries(want)
	if held.Owner != "" && equal(held.Plan, want) {
		return nil
	}
	h := netdriver.Held{Owner: owner, Plan: want}
	return c.o.Run.Update(ctx, func(tx datastore.Tx) error { return heldTable().Put(tx, owner, h) })
}

// applyPlan turns what one owner has in the host into what it wants: terms before links when making, links before terms when unmaking.
func (c *Controller) applyPlan(ctx context.Context, owner string, have, want netdriver.Plan, making bool) error {
	h, w := hostShare(have), hostShare(want)
	terms := func() error {
		return c.applyTerms(ctx, []firewall.Change{{Owner: owner, Have: h.Terms, Want: w.Terms}})
	}
	links := func() error {
		_, err := c.host.Apply(ctx, owner, h.Config, w.Config)
		return err
	}
	if making {
		return inOrder(terms, links)
	}
	return inOrder(links, terms)
}

func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// networkIsDown strikes out what a network had, and with a network that goes all that is recorded of it.
func (c *Controller) networkIsDown(ctx context.Context, n netdriver.Network, owner string) error {
	if n.Deleting {
		if err := c.networkIsGone(ctx, n, owner); err != nil {
			return err
		}
	}
	err := c.o.Run.Update(ctx, func(tx datastore.Tx) error { return heldTable().Delete(tx, owner) })
	if err != nil || !n.Deleting {
		return err
	}
	return c.o.Root.Update(ctx, func(tx datastore.Tx) error {
		return errors.Join(networkTable().Delete(tx, string(n.ID)), networkNames.free(tx, n.Name, string(n.ID)))
	})
}

// networkIsGone tells a driver that acts, gives the subnets back and forgets which MACs were seen.
func (c *Controller) networkIsGone(ctx context.Context, n netdriver.Network, owner string) error {
	h, found, err := c.drivenRecord(ctx, owner)
	if err != nil {
		return err
	}
	if found {
		d, err := c.driver(ctx, h.Driver)
		if err != nil {
			return err
		}
		done := c.locks.calling(owner)
		defer done()
		if err := d.DeleteNetwork(ctx, h.Network); err != nil {
			return fmt.Errorf("driver %s: delete network: %w", h.Driver, err)
		}
		if err := c.renounce(ctx, owner); err != nil {
			return err
		}
	}
	if _, err := c.withdrawn.wait(ctx); err != nil {
		return err
	}
	if err = c.convergeLeases(ctx, n); err == nil {
		err = c.releaseSubnets(ctx, n)
	}
	if err != nil && n.Forgotten {
		c.log.Warn("addresses of a network are not given back", "network", n.Name, "error", err)
		err = c.forgetLeases(ctx, n)
	}
	if err != nil {
		return err
	}
	return c.forgetMACs(ctx, n.ID)
}

// forgetMACs removes what lastSeen wrote for a network, a few keys at a time.
func (c *Controller) forgetMACs(ctx context.Context, id endpoint.NetworkID) error {
	const atOnce = datastore.MaxKeys / 2
	dir := datastore.Key("mac", string(id))
	for {
		keys, err := view(ctx, c.o.Run, func(tx datastore.Tx) (keys []string, err error) {
			for name := range tx.List(dir) {
				if keys = append(keys, dir+"/"+name); len(keys) == atOnce {
					break
				}
			}
			return keys, nil
		})
		if err != nil || len(keys) == 0 {
			return err
		}
		err = c.o.Run.Update(ctx, func(tx datastore.Tx) error {
			var errs []error
			for _, k := range keys {
				errs = append(errs, tx.Delete(k))
			}
			return errors.Join(errs...)
		})
		if err != nil {
			return err
		}
	}
}

func (c *Controller) hasEndpoints(ctx context.Context, id endpoint.NetworkID) (bool, error) {
	return view(ctx, c.o.Run, func(tx datastore.Tx) (bool, error) {
		for range tx.List(endpointTable(id).Dir) {
			return true, nil
		}
		return false, nil
	})
}

// raise makes a network that is there on demand before its first endpoint is used.
func (c *Controller) raise(ctx context.Context, n netdriver.Network) error {
	return c.onDemand(ctx, n, true)
}

// lower takes it away after its last endpoint.
func (c *Controller) lower(ctx context.Context, n netdriver.Network) error {
	return c.onDemand(ctx, n, false)
}

func (c *Controller) onDemand(ctx context.Context, n netdriver.Network, wanted bool) error {
	if !n.OnDemand {
		return nil
	}
	unlock, err := c.locks.exclusive(ctx, "up/"+string(n.ID))
	if err != nil {
		return err
	}
	defer unlock()
	held, err := view(ctx, c.o.Run, func(tx datastore.Tx) (bool, error) {
		_, found, err := maybe(heldTable().Get(tx, networkOwner(n.ID)))
		return found, err
	})
	if err != nil || held == wanted && !c.mender.doubts(networkOwner(n.ID)) {
		return err
	}
	return c.convergeNetwork(ctx, n, nil)
}

// convergeMembers converges every sandbox that has an endpoint of a network, after the network changed. seen is as converge has it.
func (c *Controller) convergeMembers(ctx context.Context, id endpoint.NetworkID, seen *observation) error {
	in := map[sandbox.ID]bool{}
	for e, err := range records(ctx, c.o.Run, endpointTable(id)) {
		if err != nil {
			return err
		}
		if e.Sandbox != "" {
			in[e.Sandbox] = true
		}
	}
	var errs []error
	for s := range in {
		errs = append(errs, c.converge(ctx, s, nil, seen))
	}
	return errors.Join(errs...)
}
