package sealane

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
)

// createShared makes a network in the cluster store: its record, name, number and subnets in one transaction. Nothing of it is on this
// host until its first endpoint here.
func (c *Controller) createShared(ctx context.Context, n netdriver.Network, s IPAM, d netdriver.Driver) error {
	free, err := c.locks.exclusive(ctx, "shared") // hosts race each other, and this host's calls queue
	if err != nil {
		return err
	}
	defer free()
	if err := c.sharedIsNew(ctx, n); err != nil {
		return err
	}
	if n.Space, err = c.ownSpace(ctx, n, s, d); err != nil {
		return err
	}
	named := !slices.ContainsFunc(s.Subnets, func(sub SubnetSpec) bool { return !sub.Subnet.IsValid() && sub.Pool == "" }) &&
		len(s.Subnets) > 0
	for {
		err := c.trySharedOnce(ctx, n, s, d)
		if err == nil || named || !errors.Is(err, errOverlap) {
			return err
		}
		if ctx.Err() != nil { // a host that we do not know was quicker, again and again
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

func (c *Controller) trySharedOnce(ctx context.Context, n netdriver.Network, s IPAM, d netdriver.Driver) error {
	err := c.requestSubnets(ctx, &n, s, d)
	if err == nil {
		err = c.tryPlan(ctx, n, d)
	}
	if err == nil {
		err = c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return c.enterShared(tx, n, s, d) })
	}
	end, cancel := afterwards(ctx)
	defer cancel()
	if freed := c.forgetSubnets(end, n, err == nil); freed != nil {
		c.log.Warn("subnets of a network are not let go of", "network", n.Name, "error", freed)
	}
	return err
}

// forgetSubnets lets go of what requestSubnets got: all of it when the network was not made, else what its driver would forget anyway,
// since whoever uses the network asks for it again.
func (c *Controller) forgetSubnets(ctx context.Context, n netdriver.Network, made bool) error {
	if len(n.Subnets) == 0 {
		return nil
	}
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return err
	}
	can, err := d.Capability(ctx)
	if err != nil || made && !can.Replay {
		return err
	}
	return c.releaseSubnets(ctx, n)
}

// tryPlan has a driver that computes find out whether a network can be.
func (c *Controller) tryPlan(ctx context.Context, n netdriver.Network, d netdriver.Driver) error {
	if !c.computes(ctx, n.Driver) {
		return nil
	}
	first, _, _, err := numbers(d, n)
	if err != nil {
		return err
	}
	n.Number = first
	_, err = c.planNetwork(ctx, n, d)
	return err
}

// sharedIsNew finds out early that a name or id is taken, and helps on what is on its way out.
func (c *Controller) sharedIsNew(ctx context.Context, n netdriver.Network) error {
	old, err := findNetworkIn(ctx, c.o.Cluster, n)
	if err != nil || old == nil {
		return err
	}
	if old.Deleting {
		unlock, err := c.locks.exclusive(ctx, networkOwner(old.ID))
		if err != nil {
			return err
		}
		defer unlock()
		return c.deleteShared(ctx, *old, false)
	}
	return taken(n, *old)
}

// resolveShared finds the id of a network of the cluster: first among those that this host has endpoints on, so that to attach touches the
// store no more than it must, and with the store away among all that this host knows.
func (c *Controller) resolveShared(ctx context.Context, ref string) (string, error) {
	known := ""
	for n, err := range records(ctx, c.o.Run, replicaTable()) {
		if err != nil || string(n.ID) != ref && n.Name != ref {
			continue
		}
		known = string(n.ID)
		if busy, err := c.hasEndpoints(ctx, n.ID); err != nil || busy {
			return known, err
		}
	}
	soon, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	id, err := view(soon, c.o.Cluster, func(tx datastore.Tx) (string, error) { return resolve(tx, networkTable(), networkNames, ref) })
	if known != "" && err != nil && c.storeIsAway(err) {
		return known, nil
	}
	return id, err
}

// sharedNetworks yields the networks of the cluster; with the store away those that this host uses.
func (c *Controller) sharedNetworks(ctx context.Context) iter.Seq2[netdriver.Network, error] {
	return func(yield func(netdriver.Network, error) bool) {
		if c.o.Cluster == nil {
			return
		}
		soon, cancel := context.WithTimeout(ctx, enough)
		defer cancel()
		for n, err := range records(soon, c.o.Cluster, networkTable()) {
			if err != nil && n.ID == "" && c.storeIsAway(err) {
				records(ctx, c.o.Run, replicaTable())(yield)
				return
			}
			if !yield(n, err) {
				return
			}
		}
	}
}

// replica reads what this host keeps of a network that it uses: NotFound when it does not.
func (c *Controller) replica(ctx context.Context, id endpoint.NetworkID) (netdriver.Network, error) {
	if c.o.Cluster == nil {
		return netdriver.Network{}, errdefs.ErrNotFound
	}
	return view(ctx, c.o.Run, func(tx datastore.Tx) (netdriver.Network, error) {
		return c.memory.networks.Get(tx, replicaTable(), string(id))
	})
}

func (c *Controller) putReplica(ctx context.Context, n netdriver.Network) error {
	n.Problem = ""
	defer c.resettle(n.ID) // other hosts may have used its new subnets before this one knew
	return c.o.Run.Update(ctx, func(tx datastore.Tx) error { return replicaTable().Put(tx, string(n.ID), n) })
}

// sharedRecord reads a network's record: what this host knows of it while it has endpoints here, whose blocks keep the network and to whom
// changes are told, else what the cluster store has; with the store away what this host knows.
func (c *Controller) sharedRecord(ctx context.Context, id endpoint.NetworkID) (netdriver.Network, error) {
	if c.o.Cluster == nil {
		return netdriver.Network{}, errdefs.ErrNotFound
	}
	known, found, err := maybe(c.replica(ctx, id))
	if err != nil {
		return known, err
	}
	if busy, err := c.hasEndpoints(ctx, id); err != nil || found && busy && !known.Deleting {
		return known, err
	}
	soon, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	n, err := view(soon, c.o.Cluster, func(tx datastore.Tx) (netdriver.Network, error) { return networkTable().Get(tx, string(id)) })
	if found && err != nil && c.storeIsAway(err) {
		return known, nil
	}
	return n, err
}

// use makes a network of the cluster ready for endpoints of this host. The caller holds it shared.
func (c *Controller) use(ctx context.Context, id endpoint.NetworkID) (netdriver.Network, error) {
	if c.cluster.twin.Load() {
		return netdriver.Network{}, c.errTwin()
	}
	if err := c.adoptLeft(ctx, id); err != nil {
		return netdriver.Network{}, err
	}
	n, known, err := maybe(c.replica(ctx, id))
	if err != nil {
		return n, err
	}
	busy := known
	if known {
		if busy, err = c.hasEndpoints(ctx, id); err != nil {
			return n, err
		}
	}
	if !busy { // the first here: what is known may be old
		now, err := c.sharedRecord(ctx, id)
		if err != nil {
			return n, err
		}
		if now.Deleting && !(known && c.cluster.away.Load()) {
			return now, fmt.Errorf("%w: it is being deleted", errdefs.ErrFailedPrecondition)
		}
		now.Deleting = false
		if !known || !equal(n, now) {
			n = now
			if err := c.putReplica(ctx, n); err != nil {
				return n, err
			}
		}
	}
	sh := c.sharing(id)
	if err := c.prepare(ctx, n, sh); err != nil {
		return n, err
	}
	wait, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	select {
	case <-sh.first:
	case <-wait.Done():
	}
	return n, ctx.Err()
}

// prepare asks again for the addresses of a network and of its endpoints here, once after a start: before that none may be given out.
func (c *Controller) prepare(ctx context.Context, n netdriver.Network, sh *sharing) error {
	sh.preparing.Lock()
	defer sh.preparing.Unlock()
	if sh.prepared {
		return nil
	}
	c.cluster.replaying.Lock() // another host may ask for one of them at this moment
	defer c.cluster.replaying.Unlock()
	if err := c.replaySubnets(ctx, n); err != nil {
		return err
	}
	for e, err := range records(ctx, c.o.Run, endpointTable(n.ID)) {
		if err == nil {
			err = c.replayAddresses(ctx, n, e)
		}
		if errdefs.IsAlreadyExists(err) {
			sh.add(due{all: true, doubtful: true}) // somebody else has it: settle decides
			err = nil
		}
		if err != nil {
			return fmt.Errorf("addresses of its endpoints: %w", err)
		}
	}
	sh.prepared = true
	return nil
}
