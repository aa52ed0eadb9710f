package sealane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
)

// giveUp lets go of a network that has no endpoint here: what the kernel has of it, the blocks, the replica. The caller holds it.
func (c *Controller) giveUp(ctx context.Context, id endpoint.NetworkID) error {
	n, here, err := maybe(c.replica(ctx, id))
	if err != nil || !here {
		return err
	}
	if busy, err := c.hasEndpoints(ctx, id); err != nil || busy {
		return err
	}
	n.Deleting = true
	if err := c.putReplica(ctx, n); err != nil {
		return err
	}
	return c.convergeNetwork(ctx, n, nil)
}

// dropReplica forgets a network that was given up.
func (c *Controller) dropReplica(ctx context.Context, id endpoint.NetworkID) error {
	c.unshare(id)
	if err := c.deleteAll(ctx, peerTable(id).Dir); err != nil {
		return err
	}
	return c.o.Run.Update(ctx, func(tx datastore.Tx) error { return replicaTable().Delete(tx, string(id)) })
}

// deleteShared removes a network from the cluster: it is marked, so that nobody begins to use it, the hosts that hold blocks are asked for
// them, and when none does everything goes in one transaction. The caller holds it. force: hosts that do not answer are taken for dead.
func (c *Controller) deleteShared(ctx context.Context, n netdriver.Network, force bool) (err error) {
	if err := c.networkIsFree(ctx, n.ID); err != nil {
		return err
	}
	if err := c.mark(ctx, n.ID, force); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			end, cancel := afterwards(ctx)
			defer cancel()
			if back := c.unmark(end, n.ID); back != nil && !errdefs.IsNotFound(back) {
				c.log.Warn("a network that could not be deleted stays marked; delete it again", "network", n.Name, "error", back)
			}
		}
	}()
	if err := c.giveUp(ctx, n.ID); err != nil {
		return err
	}
	if err := c.gatherBlocks(ctx, n.ID, force); err != nil {
		return err
	}
	if err := c.strip(ctx, n.ID, "", always); err != nil { // blocks that were given up
		return err
	}
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return c.removeShared(tx, n) })
}

// mark says in the record that the network shall go. It is refused while endpoints are published.
func (c *Controller) mark(ctx context.Context, id endpoint.NetworkID, force bool) error {
	dead, err := c.deadHosts(ctx, force)
	if err != nil {
		return err
	}
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		n, err := networkTable().Get(tx, string(id))
		if err != nil {
			return err
		}
		var live []string
		for p, err := range publishedTable(id).All(tx) {
			if err == nil && !dead[p.Host] {
				live = append(live, fmt.Sprintf("%s (host %s)", p.Name, shortID(p.Host)))
			}
		}
		if len(live) > 0 {
			return fmt.Errorf("%w: it has endpoints: %s", errdefs.ErrFailedPrecondition, someOf(live))
		}
		n.Deleting = true
		return networkTable().Put(tx, string(id), n)
	})
}

func (c *Controller) unmark(ctx context.Context, id endpoint.NetworkID) error {
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		n, err := networkTable().Get(tx, string(id))
		if err != nil || !n.Deleting {
			return err
		}
		n.Deleting = false
		return networkTable().Put(tx, string(id), n)
	})
}

// deadHosts are those that force may take for dead: unreachable, or unknown.
func (c *Controller) deadHosts(ctx context.Context, force bool) (map[string]bool, error) {
	dead := map[string]bool{}
	if !force {
		return dead, nil
	}
	for h, err := range c.Hosts(ctx) {
		if err != nil {
			return nil, err
		}
		dead[h.ID] = h.State != hostReady && h.ID != c.o.Host
	}
	return dead, nil
}

func someOf(names []string) string {
	const shown = 10
	if len(names) > shown {
		return fmt.Sprintf("%s, … (%d)", strings.Join(names[:shown], ", "), len(names))
	}
	return strings.Join(names, ", ")
}

// gatherBlocks waits until no host holds a block of a network any more.
func (c *Controller) gatherBlocks(ctx context.Context, id endpoint.NetworkID, force bool) error {
	holders, err := c.holders(ctx, id)
	if err != nil || len(holders) == 0 {
		return err
	}
	reachable := map[string]bool{}
	for h, err := range c.Hosts(ctx) {
		if err != nil {
			return err
		}
		reachable[h.ID] = h.State == hostReady
	}
	awaited := false
	for _, h := range holders {
		awaited = awaited || reachable[h]
		if err := c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return noticeTable(h).Put(tx, string(id), true) }); err != nil {
			return err
		}
	}
	if awaited {
		c.awaitBlocks(ctx, id, reachable)
	}
	if holders, err = c.holders(ctx, id); err != nil || len(holders) == 0 {
		return err
	}
	var live, dead []string
	for _, h := range holders {
		if reachable[h] {
			live = append(live, h)
		} else {
			dead = append(dead, h)
		}
	}
	switch {
	case len(live) > 0:
		return fmt.Errorf("%w: hosts have addresses of it in use: %s", errdefs.ErrFailedPrecondition, someOf(live))
	case !force:
		return fmt.Errorf("%w: hosts that do not answer have addresses of it: %s: remove the hosts if they are dead, or the network by force",
			errdefs.ErrFailedPrecondition, someOf(dead))
	}
	for _, h := range dead {
		if err := c.strip(ctx, id, h, always); err != nil {
			return err
		}
	}
	return nil
}

// awaitBlocks returns when no reachable host has a block, or after a while.
func (c *Controller) awaitBlocks(ctx context.Context, id endpoint.NetworkID, reachable map[string]bool) {
	ctx, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	for _, err := range c.o.Cluster.Watch(ctx, blockTable(id).Dir) {
		if err != nil {
			return
		}
		holders, err := c.holders(ctx, id)
		if err != nil || !slices.ContainsFunc(holders, func(h string) bool { return reachable[h] }) {
			return
		}
	}
}

// holders are the hosts with blocks of a network.
func (c *Controller) holders(ctx context.Context, id endpoint.NetworkID) ([]string, error) {
	return view(ctx, c.o.Cluster, func(tx datastore.Tx) (hosts []string, err error) {
		for b, err := range blockTable(id).All(tx) {
			if err == nil && b.Host != "" && !slices.Contains(hosts, b.Host) {
				hosts = append(hosts, b.Host)
			}
		}
		return hosts, nil
	})
}

// removeShared deletes all that a network claims, if nobody holds a block of it.
func (c *Controller) removeShared(tx datastore.Tx, n netdriver.Network) error {
	now, found, err := maybe(networkTable().Get(tx, string(n.ID)))
	if err != nil || !found {
		return err
	}
	for b, err := range blockTable(n.ID).All(tx) {
		if err == nil && b.Host != "" {
			return fmt.Errorf("%w: host %s took addresses of it at this moment; try again", errdefs.ErrConflict, b.Host)
		}
	}
	for range publishedTable(n.ID).All(tx) {
		return fmt.Errorf("%w: an endpoint was published at this moment; try again", errdefs.ErrConflict)
	}
	for range tx.List(string(endpointNames(n.ID))) { // nor a name; who finds a directory empty leaves nothing of it
		break
	}
	errs := []error{networkTable().Delete(tx, string(n.ID)), networkNames.free(tx, now.Name, string(n.ID)), freeNumber(tx, now)}
	for _, sub := range now.Subnets {
		errs = append(errs, claimTable(spaceOf(now)).Delete(tx, claimKey(now, sub)))
	}
	return errors.Join(errs...)
}

// giveUpIdle lets go of a network some time after its last endpoint here.
func (c *Controller) giveUpIdle(ctx context.Context, sh *sharing) error {
	unlock, err := c.locks.exclusive(ctx, networkOwner(sh.id))
	if err != nil {
		return err
	}
	defer unlock()
	return c.giveUp(ctx, sh.id)
}
