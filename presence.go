package sealane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"
	"github.com/sealane/sealane/datastore"
)

// thisHost is the record that this host should have.
func (c *Controller) thisHost() Host {
	return Host{ID: c.o.Host, Name: c.o.Hostname, Boot: c.cluster.boot, Advertise: c.o.Advertise}
}

// errGivenUp says that the cluster does not know this host, or not in this boot: what it would write could be somebody else's by now.
var errGivenUp = fmt.Errorf("%w: the cluster has given up this host; it makes itself known again", errdefs.ErrFailedPrecondition)

// fence lets a transaction write only for a host that the cluster knows.
func (c *Controller) fence(tx datastore.Tx) error {
	h, found, err := maybe(hostTable().Get(tx, c.o.Host))
	if err != nil {
		return err
	}
	if c.cluster.twin.Load() {
		return c.errTwin()
	}
	if !found || h.Removing || h.Boot != c.cluster.boot {
		return errGivenUp
	}
	return nil
}

// errTwin says that another host that is alive has our id: what this one would write would be taken for the other's.
func (c *Controller) errTwin() error {
	return fmt.Errorf("%w: another host that is alive has the id %s: if this machine was copied from it, remove the file `host` in the root "+
		"directory and start again", errdefs.ErrFailedPrecondition, c.o.Host)
}

// join makes this host known; its presence lasts as long as background. With the store away that is done later. FailedPrecondition when
// another live host has our id.
func (c *Controller) join(ctx, background context.Context) error {
	if c.o.Cluster == nil {
		return nil
	}
	s, err := c.survey(ctx, nil)
	if err != nil {
		return fmt.Errorf("look at the host: %w", err)
	}
	c.cluster.boot = s.Boot
	err = c.takePlace(ctx, background)
	if err == nil {
		soon, cancel := context.WithTimeout(ctx, enough)
		defer cancel()
		c.cluster.known, err = c.register(soon)
		if err == nil && !(c.lost && c.cluster.known) { // else what runs is to be taken over first
			err = c.forgetEarlier(soon)
		}
	}
	if err != nil && !c.storeIsAway(err) {
		return fmt.Errorf("make host %s known to the cluster: %w", c.o.Host, err)
	}
	return nil
}

// takePlace announces this host, before anything is written in its name: of two that live under one id, or come to life at one moment, the
// second is refused. One of ours that ended a moment ago, before a reboot, may still look alive: it is waited for.
func (c *Controller) takePlace(ctx, background context.Context) error {
	const linger = 30 * time.Second // longer than any store keeps what is not renewed
	ctx, cancel := context.WithTimeout(ctx, linger)
	defer cancel()
	for ctx.Err() == nil {
		var err error
		if c.cluster.lost, err = c.announce(background); !errdefs.IsAlreadyExists(err) && !errdefs.IsAborted(err) {
			return err
		}
		if err := c.awaitNobody(ctx); err != nil {
			return err
		}
	}
	return c.errTwin()
}

// awaitNobody returns when nobody else announces himself under our id, or ctx ends.
func (c *Controller) awaitNobody(ctx context.Context) error {
	own := datastore.Key(c.o.Host)
	for batch, err := range c.o.Cluster.Watch(ctx, presenceDir) {
		if err != nil {
			return err
		}
		boot, alive := batch.Put[own]
		if batch.Full && !alive || alive && string(boot) == c.cluster.boot || slices.Contains(batch.Delete, own) {
			return nil
		}
	}
	return nil
}

// register writes this host's record; true when the cluster knew it, in this boot.
func (c *Controller) register(ctx context.Context) (known bool, err error) {
	err = c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		h, found, err := maybe(hostTable().Get(tx, c.o.Host))
		if err != nil {
			return err
		}
		if known = found && !h.Removing && h.Boot == c.cluster.boot; known && h == c.thisHost() {
			return nil
		}
		return errors.Join(hostTable().Put(tx, c.o.Host, c.thisHost()), openMailboxes(tx, c.o.Host))
	})
	return known, err
}

// openMailboxes writes in the mailboxes of a host and leaves nothing in them. Consul ends a wait for a directory that nobody ever wrote in
// at whatever anybody writes, so that the mailboxes of all hosts would hear of all that happens in the cluster.
func openMailboxes(tx datastore.Tx, host string) error {
	var errs []error
	for _, dir := range mailboxes(host) {
		errs = append(errs, tx.Delete(dir+"/"+datastore.Key(host)))
	}
	return errors.Join(errs...)
}

// forgetEarlier deletes what this host had of networks that it does not use now: it was rebooted, or crashed.
func (c *Controller) forgetEarlier(ctx context.Context) error {
	used, err := c.networksOf(ctx, c.o.Host)
	if err != nil {
		return err
	}
	for _, id := range used {
		_, here, err := maybe(c.replica(ctx, id))
		if err == nil && !here && !c.cluster.isLeft(id) {
			err = c.strip(ctx, id, c.o.Host, always)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// beKnown keeps this host's presence and record there. Nothing is written for a host that is not present: it may have a twin.
func (c *Controller) beKnown(ctx context.Context) {
	const soon, late = 200 * time.Millisecond, 2 * time.Second
	pause, lost := soon, c.cluster.lost
	if !c.cluster.known {
		c.cluster.kickAll(true)
	}
	for ctx.Err() == nil {
		var err error
		if lost == nil {
			lost, err = c.announce(ctx)
			c.meetTwin(errdefs.IsAlreadyExists(err))
		}
		if err == nil {
			err = c.makeKnown(ctx)
		}
		if err == nil {
			c.stayKnown(ctx, lost)
			pause, lost = soon, nil
			continue
		}
		if !c.cluster.twin.Load() && !c.storeIsAway(err) && ctx.Err() == nil {
			c.log.Warn("this host is not known to the cluster; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-lost:
			lost = nil
		case <-time.After(pause):
		}
		pause = min(2*pause, late)
	}
}

// makeKnown writes this host's record. When the cluster did not know it others may have been given what was ours.
func (c *Controller) makeKnown(ctx context.Context) error {
	known, err := c.register(ctx)
	if err != nil {
		return err
	}
	if !known {
		c.cluster.kickAll(true)
	}
	for _, id := range c.cluster.allLeft() {
		if err := c.mendLeft(ctx, id); err != nil {
			c.mender.later(networkOwner(id), err)
		}
	}
	return c.forgetEarlier(ctx)
}

// meetTwin tells, once, of another live host with our id that was there when the store could be reached.
func (c *Controller) meetTwin(there bool) {
	if c.cluster.twin.Swap(there) || !there {
		return
	}
	c.log.Error("this host shares nothing with others", "error", c.errTwin())
	c.events.tell("host", "conflict", c.o.Host, "name", c.o.Hostname, "reason", c.errTwin().Error())
}

// stayKnown returns when the presence is lost and must be announced anew.
func (c *Controller) stayKnown(ctx context.Context, lost <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-lost:
			return
		case <-c.cluster.rejoin:
			if err := c.makeKnown(ctx); err != nil && !c.storeIsAway(err) {
				c.log.Warn("this host is not known to the cluster", "error", err)
			}
		}
	}
}

// watchHosts follows the records of all hosts: where their tunnels end, and which boot they are in.
func (c *Controller) watchHosts(ctx context.Context) {
	c.follow(ctx, hostTable().Dir, func(b datastore.Batch) {
		cl := &c.cluster
		cl.mu.Lock()
		if b.Full || cl.hosts == nil {
			cl.hosts = map[string]Host{}
		}
		for _, value := range b.Put {
			var h Host
			if json.Unmarshal(value, &h) == nil && h.ID != "" {
				cl.hosts[h.ID] = h
			}
		}
		for _, name := range b.Delete {
			if segments, err := datastore.Segments(name); err == nil {
				delete(cl.hosts, segments[0])
			}
		}
		own := cl.hosts[c.o.Host]
		cl.mu.Unlock()
		c.tellAbsent(ctx)
		if own.Boot != cl.boot || own.Removing {
			poke(cl.rejoin)
		}
		cl.kickAll(false)
	}, func() {})
}

// watchPresence follows who can reach the store.
func (c *Controller) watchPresence(ctx context.Context) {
	cl := &c.cluster
	c.follow(ctx, presenceDir, func(b datastore.Batch) {
		cl.mu.Lock()
		if b.Full || cl.live == nil {
			cl.live = map[string]bool{}
		}
		for name := range b.Put {
			if segments, err := datastore.Segments(name); err == nil {
				cl.live[segments[0]] = true
			}
		}
		for _, name := range b.Delete {
			if segments, err := datastore.Segments(name); err == nil {
				delete(cl.live, segments[0])
			}
		}
		cl.mu.Unlock()
		c.tellAbsent(ctx)
	}, func() { // nobody can tell who is there
		cl.mu.Lock()
		cl.live = nil
		cl.mu.Unlock()
		c.tellAbsent(ctx)
	})
}

// tellAbsent tells of hosts that do not announce themselves any more, and gives each up after Options.HostLost.
func (c *Controller) tellAbsent(ctx context.Context) {
	if !c.announces() {
		return
	}
	cl := &c.cluster
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for id, back := range cl.absent {
		if _, known := cl.hosts[id]; !known || cl.live == nil || cl.live[id] {
			back()
			delete(cl.absent, id)
		}
	}
	if cl.live == nil {
		return
	}
	for id := range cl.hosts {
		if cl.live[id] || cl.absent[id] != nil || id == c.o.Host {
			continue
		}
		c.events.tell("host", "unreachable", id, "name", cl.hosts[id].Name)
		away, back := context.WithCancel(ctx)
		cl.absent[id] = back
		if c.o.HostLost > 0 {
			c.work.Go(func() { c.giveUpLater(away, id) })
		}
	}
}

// giveUpLater removes a host that stays away for Options.HostLost.
func (c *Controller) giveUpLater(ctx context.Context, id string) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(c.o.HostLost):
	}
	switch err := c.RemoveHost(ctx, id); {
	case err == nil:
		c.log.Warn("a host was away for too long and is given up", "host", id, "after", c.o.HostLost)
	case ctx.Err() == nil && !errdefs.IsNotFound(err): // it did not come back, and no other host was quicker
		c.log.Warn("a lost host is not given up", "host", id, "error", err)
	}
}
