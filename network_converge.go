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
	if !up { // its sockets would keep a namespace of its own
		if err := c.nameGateway(ctx, n, netdriver.Plan{}); err != nil {
			return err
		}
	}
	have, err := c.networkHas(ctx, seen, owner, held.Plan, want)
	if err != nil {
		return err
	}
	if err := c.applyPlan(ctx, owner, have, want, up); err != nil {
		return err
	}
	if err := c.reached(ctx, want); err != nil {
		return err
	}
	c.tellSettings(held.Plan, want)
	if up {
		c.nameAtGateway(ctx, n, want)
		return nil
	}
	if err := c.removePlaces(ctx, held.Plan); err != nil {
		return err
	}
	return c.networkIsDown(ctx, n, owner)
}

// networkHas is what a network has, as far as it is remembered, or as seen. In a namespace of its own what it came to is remembered with
// its entries, which Held does not have, and looked at where it is not.
func (c *Controller) networkHas(ctx context.Context, seen *observation, owner string, held, want netdriver.Plan) (netdriver.Plan, error) {
	if seen != nil {
		return c.has(ctx, seen, owner, held, want)
	}
	has := netdriver.Plan{}
	for _, space := range spacesOf(held, want) {
		share := shareOf(held, space)
		p, err := c.at(ctx, space, false)
		if err != nil {
			return has, err
		}
		switch {
		case space == "":
		case p == nil:
			share = netdriver.Share{Space: space}
		case p.reached != nil:
			share.Config = *p.reached
		default:
			return c.has(ctx, &observation{links: map[string]sandbox.Config{owner: hostShare(held).Config},
				terms: map[string]firewall.Terms{owner: hostShare(held).Terms}}, owner, held, want)
		}
		has.Shares = append(has.Shares, share)
	}
	return has, nil
}

// reached remembers what a network has in namespaces of its own.
func (c *Controller) reached(ctx context.Context, has netdriver.Plan) error {
	for _, space := range spacesOf(has) {
		if space == "" {
			continue
		}
		p, err := c.at(ctx, space, false)
		if err != nil || p == nil {
			return err
		}
		config := shareOf(has, space).Config
		p.reached = &config
	}
	return nil
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

// applyPlan turns what one owner has outside sandboxes into what it wants: terms before links when making, links before terms when unmaking.
func (c *Controller) applyPlan(ctx context.Context, owner string, have, want netdriver.Plan, making bool) error {
	spaces := spacesOf(have, want)
	terms := func() error {
		var changes []change
		for _, space := range spaces {
			changes = append(changes, change{space, firewall.Change{Owner: owner, Have: shareOf(have, space).Terms, Want: shareOf(want, space).Terms}})
		}
		return c.applyTerms(ctx, changes)
	}
	links := func() error {
		for _, space := range spaces {
			if err := c.applyLinks(ctx, space, owner, shareOf(have, space).Config, shareOf(want, space).Config); err != nil {
				return err
			}
		}
		return nil
	}
	if making {
		return inOrder(terms, links)
	}
	slices.Reverse(spaces)
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
	if n.Scope == netdriver.Global {
		return c.dropReplica(ctx, n.ID)
	}
	return c.o.Root.Update(ctx, func(tx datastore.Tx) error {
		return errors.Join(networkTable().Delete(tx, string(n.ID)), networkNames.free(tx, n.Name, string(n.ID)), freeNumber(tx, n))
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
	if n.Scope == netdriver.Global { // after a restart nobody may have asked for them yet, and blocks go back with them
		err = c.replaySubnets(ctx, n)
	}
	if err == nil {
		err = c.convergeLeases(ctx, n)
	}
	if err == nil {
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

// forgetMACs removes what lastSeen wrote for a network.
func (c *Controller) forgetMACs(ctx context.Context, id endpoint.NetworkID) error {
	return c.deleteAll(ctx, datastore.Key("mac", string(id)))
}

// deleteAll empties a directory of the run store, a few keys at a time.
func (c *Controller) deleteAll(ctx context.Context, dir string) error {
	const atOnce = datastore.MaxKeys / 2
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

// raiseNew does so for the endpoints that a converge makes, which are recorded by now: nobody takes the network away from under them.
func (c *Controller) raiseNew(ctx context.Context, v *content) error {
	for _, m := range v.members {
		if m.made {
			if err := c.raise(ctx, m.network); err != nil {
				return err
			}
		}
	}
	return nil
}

// lower takes it away after its last endpoint. Nobody will ask for that again, since the endpoint is gone: what fails is mended later.
func (c *Controller) lower(ctx context.Context, n netdriver.Network) error {
	err := c.onDemand(ctx, n, false)
	if err != nil {
		c.mender.later(networkOwner(n.ID), err)
	}
	return err
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
	c.facts.outdate()
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
