package sealane

import (
	"context"
	"errors"
	"maps"
	"slices"
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
			sh.take(b, c.o.Host)
		}, sh.peersKnown)
	})
	c.work.Go(func() { c.keepSettled(ctx, sh) })
}

// due is what is to be settled of a network: what became of a change somewhere needs no look at all that did not change.
type due struct {
	peers    bool                 // other hosts have changed, or what they publish
	all      bool                 // of this host every endpoint
	doubtful bool                 // and even if the store has it as it should be: this host was given up, its addresses may be others'
	own      map[endpoint.ID]bool // of this host these
}

// add has a network settled.
func (sh *sharing) add(d due) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.addLocked(d)
}

func (sh *sharing) addLocked(d due) {
	sh.due.merge(d)
	poke(sh.kick)
}

func (d *due) merge(more due) {
	d.peers, d.all, d.doubtful = d.peers || more.peers, d.all || more.all, d.doubtful || more.doubtful
	if d.own == nil {
		d.own = map[endpoint.ID]bool{}
	}
	maps.Copy(d.own, more.own)
}

// resettle is add of endpoints of this host, or of everything.
func (sh *sharing) resettle(own ...endpoint.ID) {
	d := due{peers: len(own) == 0, all: len(own) == 0, own: map[endpoint.ID]bool{}}
	for _, id := range own {
		d.own[id] = true
	}
	sh.add(d)
}

// take notes what a directory of endpoints contains, and has settled what that changes for a host. What does not parse is nobody.
func (sh *sharing) take(b datastore.Batch, host string) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if b.Full || sh.published == nil {
		sh.published = map[string]endpoint.Published{}
		sh.addLocked(due{peers: true, all: true})
	}
	note := func(name string, of endpoint.Published) {
		if of.Host == host {
			sh.addLocked(due{own: map[endpoint.ID]bool{endpoint.ID(name): true}})
		} else {
			sh.addLocked(due{peers: true})
		}
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(b.Put)), b.Delete) {
		if was, found := sh.published[name]; found {
			note(name, was)
			delete(sh.published, name)
		}
		var p endpoint.Published
		if err := json.Unmarshal(b.Put[name], &p); err == nil && string(p.ID) == name {
			note(name, p)
			sh.published[name] = p
		}
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
	sh.mu.Lock()
	now := sh.due
	sh.due = due{}
	sh.mu.Unlock()
	if idle, err = c.settleDue(ctx, n, sh, now); err != nil {
		sh.mu.Lock()
		defer sh.mu.Unlock()
		sh.due.merge(now) // for the next try
	}
	return idle, err
}

func (c *Controller) settleDue(ctx context.Context, n netdriver.Network, sh *sharing, now due) (idle time.Duration, err error) {
	if now.peers {
		seen, err := c.settlePeers(ctx, n, sh)
		if err != nil {
			return 0, err
		}
		if seen {
			sh.peersKnown() // a call that waits for them may hold an endpoint that is to be settled
		}
	}
	busy, err := c.hasEndpoints(ctx, n.ID)
	if err != nil {
		return 0, err
	}
	since, told := sh.idleSince(busy)
	if !busy {
		if err := c.leaveDown(ctx, n); err != nil {
			return 0, err
		}
	}
	if !told && !now.doubtful {
		return 0, nil // nobody knows what is published; the watch will tell
	}
	if busy {
		if err := c.prepare(ctx, n, sh); err != nil {
			return 0, err
		}
	}
	ids, err := c.unsettled(ctx, n, sh, now)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, id := range ids {
		errs = append(errs, c.settleEndpoint(ctx, n, sh, id, now.doubtful))
	}
	if err := errors.Join(errs...); err != nil || since.IsZero() {
		return 0, err
	}
	return max(time.Since(since), 1), nil
}

// idleSince is since when there is no endpoint here, which is now if there was one before, and whether the store has told what is published.
func (sh *sharing) idleSince(busy bool) (since time.Time, told bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if busy {
		sh.idle = time.Time{}
	} else if sh.idle.IsZero() {
		sh.idle = time.Now()
	}
	return sh.idle, sh.published != nil
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
