package sealane

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
)

// watchNotices looks at networks whose record another host changed.
func (c *Controller) watchNotices(ctx context.Context) {
	c.follow(ctx, noticeTable(c.o.Host).Dir, func(b datastore.Batch) {
		for name := range b.Put {
			segments, err := datastore.Segments(name)
			if err != nil {
				continue
			}
			id := endpoint.NetworkID(segments[0])
			c.work.Go(func() {
				if err := c.lookAt(ctx, id); err != nil && ctx.Err() == nil && !c.storeIsAway(err) {
					c.log.Warn("a network that another host changed is not as it should be", "network", id, "error", err)
				}
			})
		}
	}, func() {})
}

// lookAt takes over a change of a network's record, or gives back the blocks of one that is to go and has no endpoint here. The notice goes
// when the record was read; what fails afterwards is mended.
func (c *Controller) lookAt(ctx context.Context, id endpoint.NetworkID) error {
	unlock, err := c.locks.exclusive(ctx, networkOwner(id))
	if err != nil {
		return err
	}
	defer unlock()
	n, here, err := maybe(c.replica(ctx, id))
	if err != nil {
		return err
	}
	var now netdriver.Network
	found := false
	err = c.o.Cluster.Update(ctx, func(tx datastore.Tx) (err error) {
		if now, found, err = maybe(networkTable().Get(tx, string(id))); err != nil {
			return err
		}
		return noticeTable(c.o.Host).Delete(tx, string(id))
	})
	switch {
	case err != nil || !here:
		return err
	case !found || now.Deleting:
		err = c.giveUp(ctx, id)
	case !equal(n, now):
		err = c.takeOver(ctx, now)
	}
	if err != nil {
		c.mender.later(networkOwner(id), err)
	}
	return err
}

// takeOver makes this host's part of a network match a changed record. The caller holds the network.
func (c *Controller) takeOver(ctx context.Context, n netdriver.Network) error {
	if _, here, err := maybe(c.replica(ctx, n.ID)); err != nil || !here {
		return err
	}
	if err := c.putReplica(ctx, n); err != nil {
		return err
	}
	if err := c.convergeNetwork(ctx, n, nil); err != nil {
		return err
	}
	return c.convergeMembers(ctx, n.ID, nil)
}

// updateShared writes a changed record if nobody else changed it meanwhile, and tells the hosts that use the network.
func (c *Controller) updateShared(ctx context.Context, to netdriver.Network) error {
	to.Problem = ""
	err := c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		now, err := networkTable().Get(tx, string(to.ID))
		if err != nil {
			return err
		}
		if now.Version != to.Version-1 && !equal(now, to) {
			return fmt.Errorf("%w: it was changed at this moment; try again", errdefs.ErrConflict)
		}
		return networkTable().Put(tx, string(to.ID), to)
	})
	if err != nil {
		return err
	}
	holders, err := c.holders(ctx, to.ID)
	if err != nil {
		return err
	}
	for _, h := range holders {
		if h == c.o.Host {
			continue
		}
		if err := c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return noticeTable(h).Put(tx, string(to.ID), true) }); err != nil {
			return err
		}
	}
	return c.takeOver(ctx, to)
}
