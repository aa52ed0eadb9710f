package sealane

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
)

// watchNetwork follows the endpoints of a network that this host uses, and settles what differs. Both goroutines end with ctx, and when
// the host does not use it any more.
func (c *Controller) watchNetwork(ctx context.Context, sh *sharing) {
	ctx, cancel := context.WithCancel(ctx)
	c.work.Go(func() {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-sh.over:
		}
	})
	c.work.Go(func() {
		c.follow(ctx, publishedTable(sh.id).Dir, func(b datastore.Batch) {
			sh.take(b)
			poke(sh.kick)
		}, sh.peersKnown)
	})
	c.work.Go(func() { c.keepSettled(ctx, sh) })
}

// take notes what a directory of endpoints contains. What does not parse is nobody.
func (sh *sharing) take(b datastore.Batch) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if b.Full || sh.published == nil {
		sh.published = map[string]endpoint.Published{}
	}
	for name, value := range b.Put {
		var p endpoint.Published
		if err := json.Unmarshal(value, &p); err != nil || string(p.ID) != name {
			delete(sh.published, name)
			continue
		}
		sh.published[name] = p
	}
	for _, name := range b.Delete {
		delete(sh.published, name)
	}
}

// keepSettled settles a network whenever something changed, and with growing pauses while that fails.
func (c *Controller) keepSettled(ctx context.Context, sh *sharing) {
	const soon, late, linger = 100 * time.Millisecond, 2 * time.Second, time.Minute
	pause := soon
	again := time.NewTimer(late)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sh.kick:
		case <-again.C:
		}
		idle, err := c.settleNetwork(ctx, sh)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !c.storeIsAway(err) {
				c.log.Warn("a shared network is not as wanted; trying again", "network", sh.id, "error", err)
			}
			again.Reset(pause)
			pause = min(2*pause, late)
			continue
		case idle > linger:
			if err := c.giveUpIdle(ctx, sh); err == nil || ctx.Err() != nil {
				continue
			}
			again.Reset(late)
		case idle > 0:
			again.Reset(linger)
		}
		pause = soon
	}
}

// peersKnown lets those go on who wait for the other hosts' endpoints.
func (sh *sharing) peersKnown() { sh.known.Do(func() { close(sh.first) }) }

// settleNetwork makes the peers what the store says, and the store what this host's endpoints say. It returns for how long there was none
// of these.
func (c *Controller) settleNetwork(ctx context.Context, sh *sharing) (idle time.Duration, err error) {
	n, here, err := maybe(c.replica(ctx, sh.id))
	if err != nil || !here || c.cluster.twin.Load() {
		return 0, err
	}
	seen, err := c.settlePeers(ctx, n, sh)
	if err != nil {
		return 0, err
	}
	if seen {
		sh.peersKnown() // a call that waits for them may hold an endpoint that is to be settled
	}
	own := map[endpoint.ID]endpoint.Info{}
	for e, err := range records(ctx, c.o.Run, endpointTable(n.ID)) {
		if err != nil {
			return 0, err
		}
		own[e.ID] = e
	}
	sh.mu.Lock()
	published, doubtful := maps.Clone(sh.published), sh.doubtful
	sh.doubtful = false
	if len(own) > 0 {
		sh.idle = time.Time{}
	} else if sh.idle.IsZero() {
		sh.idle = time.Now()
	}
	since := sh.idle
	sh.mu.Unlock()
	if len(own) == 0 {
		if err := c.leaveDown(ctx, n); err != nil {
			return 0, err
		}
	}
	if published == nil && !doubtful {
		return 0, nil // nobody knows what is published; the watch will tell
	}
	if len(own) > 0 {
		if err := c.prepare(ctx, n, sh); err != nil {
			return 0, err
		}
	}
	var errs []error
	for id := range c.unsettled(ctx, own, published, doubtful) {
		errs = append(errs, c.settleEndpoint(ctx, n, id, doubtful))
	}
	if err := errors.Join(errs...); err != nil {
		sh.mu.Lock()
		sh.doubtful = sh.doubtful || doubtful
		sh.mu.Unlock()
		return 0, err
	}
	if since.IsZero() {
		return 0, nil
	}
	return max(time.Since(since), 1), nil
}

// leaveDown takes a network without endpoints out of the kernel, where the call that removed the last did not get so far.
func (c *Controller) leaveDown(ctx context.Context, n netdriver.Network) error {
	leave, err := c.locks.shared(ctx, networkOwner(n.ID))
	if err != nil {
		return err
	}
	defer leave()
	return c.lower(ctx, n)
}
