package sealane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/sandbox"
)

// Controller ties the nouns together. Safe for concurrent use. It keeps no copy of a record: each call reads the store anew. What it has
// in memory cannot be recorded (sockets, handles, who waits) or may be forgotten (doubts, facts about the host, what texts decode to).
//
// Locks, in this order and nowhere else: name (of a network that is being made), network (shared by endpoint verbs, exclusive for its own),
// endpoint, sandbox (for one converge, never over a call of a driver that acts), up (of a network that is there on demand). The ports of a sandbox
// have one too, taken before the sandbox by who holds nothing else. Readers: none.
type Controller struct {
	o         Options
	log       *slog.Logger
	host      sandbox.Namespace
	wall      firewall.Firewall // the host's; nil: none
	locks     locks
	events    broker
	facts     facts
	lookout   lookout
	ports     ports
	spaces    spaces
	places    places
	redirects redirects
	linked    linked
	zonesTold atomic.Bool // the resolver knows all names since the start
	withdrawn withdrawals
	memory    memory
	cluster   cluster
	mender    *mender
	lost      bool // a store was lost when this process started, or an earlier one that could not take all over that ran
	stop      context.CancelFunc
	work      sync.WaitGroup // goroutines of ours
}

// New opens, restores and sweeps; when it returns every call is served. Networks of drivers that do not answer are shown as
// such and converge when they do. Not after a store was quarantined: then nothing is swept. FailedPrecondition when another instance of
// the name is in the host's namespace.
func New(ctx context.Context, o Options) (*Controller, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	c := &Controller{o: o, log: o.Logger, mender: newMender()}
	c.cluster.init()
	var err error
	if c.host, err = o.Spaces.Open(ctx, sandbox.Origin{Host: true}); err != nil {
		return nil, fmt.Errorf("open the host's namespace: %w", err)
	}
	if o.Firewalls != nil {
		if c.wall, err = o.Firewalls.Open(ctx, ""); err != nil {
			return nil, errors.Join(fmt.Errorf("open the host's firewall: %w", err), c.Close())
		}
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	if err := c.noteLost(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("look at the run store: %w", err), c.Close())
	}
	if err := c.join(ctx, background); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.restore(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("restore: %w", err), c.Close())
	}
	c.watch(background)
	c.watchCluster(background)
	return c, nil
}

// Close stops converging and leaves everything running.
func (c *Controller) Close() error {
	if c.stop != nil {
		c.stop()
	}
	c.work.Wait()
	c.events.close()
	errs := []error{c.ports.close(), c.spaces.close(), c.places.close(), c.host.Close()}
	if c.wall != nil {
		errs = append(errs, c.wall.Close())
	}
	return errors.Join(errs...)
}
