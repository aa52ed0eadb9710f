package sealane

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
)

// Host is the record of a machine that shares networks, in the cluster store. It writes it itself at each start.
type Host struct {
	ID, Name  string
	Boot      string     // the kernel's boot id and the cookie of the daemon's namespace: endpoints of another boot are gone
	Advertise netip.Addr // where its tunnels end
	Removing  bool       // somebody asserts that it is dead: it may write nothing until it comes again
	State     string     // not stored: "ready", "unreachable", "removing"
}

// The states of a host.
const (
	hostReady       = "ready"
	hostUnreachable = "unreachable"
	hostRemoving    = "removing"
)

func (c *Controller) networksOf(ctx context.Context, host string) ([]endpoint.NetworkID, error) {
	return view(ctx, c.o.Cluster, func(tx datastore.Tx) (ids []endpoint.NetworkID, err error) {
		for name := range tx.List(usesTable(host).Dir) {
			if segments, err := datastore.Segments(name); err == nil {
				ids = append(ids, endpoint.NetworkID(segments[0]))
			}
		}
		return ids, nil
	})
}

// always is what strip asks when nothing stands in the way.
func always(datastore.Tx) error { return nil }

// strip removes what a host has of a network: its endpoints with their names, its blocks. Each transaction asks may first.
func (c *Controller) strip(ctx context.Context, id endpoint.NetworkID, host string, may func(datastore.Tx) error) error {
	const atOnce = 4
	endpoints, blocks, err := c.possessions(ctx, id, host)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(endpoints, atOnce) {
		err := c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
			errs := []error{may(tx)}
			for _, p := range some {
				errs = append(errs, withdrawRecord(tx, id, string(p.ID), host))
			}
			return errors.Join(errs...)
		})
		if err != nil {
			return err
		}
	}
	for some := range slices.Chunk(blocks, atOnce) {
		err := c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
			errs := []error{may(tx)}
			for _, key := range some {
				b, found, err := maybe(blockTable(id).Get(tx, key))
				if errs = append(errs, err); found && b.Host == host {
					errs = append(errs, blockTable(id).Delete(tx, key))
				}
			}
			return errors.Join(errs...)
		})
		if err != nil {
			return err
		}
	}
	if host == "" {
		return nil // what was given up is nobody's
	}
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		return errors.Join(may(tx), usesTable(host).Delete(tx, string(id)), noticeTable(host).Delete(tx, string(id)))
	})
}

// possessions lists the endpoints and the keys of the blocks that a host has of a network.
func (c *Controller) possessions(ctx context.Context, id endpoint.NetworkID, host string) (endpoints []endpoint.Published, blocks []string, err error) {
	err = c.o.Cluster.View(ctx, func(tx datastore.Tx) error {
		endpoints, blocks = nil, nil
		for p, err := range publishedTable(id).All(tx) {
			if err == nil && p.Host == host {
				endpoints = append(endpoints, p)
			}
		}
		for b, err := range blockTable(id).All(tx) {
			if err == nil && b.Host == host {
				blocks = append(blocks, b.Prefix.String())
			}
		}
		return nil
	})
	return endpoints, blocks, err
}

// Hosts yields the machines that share networks, by id, as they were at one moment; none without a cluster store. Unavailable when the
// store is away.
func (c *Controller) Hosts(ctx context.Context) iter.Seq2[Host, error] {
	return func(yield func(Host, error) bool) {
		if c.o.Cluster == nil {
			return
		}
		present := map[string]bool{}
		all, err := view(ctx, c.o.Cluster, func(tx datastore.Tx) (all []Host, err error) {
			clear(present)
			for name := range tx.List(presenceDir) {
				if segments, err := datastore.Segments(name); err == nil {
					present[segments[0]] = true
				}
			}
			for h, err := range hostTable().All(tx) {
				if err == nil {
					all = append(all, h)
				}
			}
			return all, nil
		})
		if err != nil {
			yield(Host{}, fmt.Errorf("hosts: %w", err))
			return
		}
		for _, h := range all {
			if h.State = c.stateOf(h, present[h.ID]); !yield(h, nil) {
				return
			}
		}
	}
}

// stateOf says how a host is. In a store that cannot tell who is there every host counts as ready.
func (c *Controller) stateOf(h Host, present bool) string {
	switch {
	case h.Removing:
		return hostRemoving
	case present || !c.announces():
		return hostReady
	}
	return hostUnreachable
}

// findHost finds a host by id, then by name, then by a unique prefix of the id.
func (c *Controller) findHost(ctx context.Context, ref string) (Host, error) {
	var named, begin []Host
	for h, err := range c.Hosts(ctx) {
		switch {
		case err != nil:
			return h, err
		case h.ID == ref:
			return h, nil
		case h.Name == ref:
			named = append(named, h)
		case ref != "" && strings.HasPrefix(h.ID, ref):
			begin = append(begin, h)
		}
	}
	if len(named) == 0 {
		named = begin
	}
	switch len(named) {
	case 0:
		return Host{}, fmt.Errorf("host %.80q: %w", ref, errdefs.ErrNotFound)
	case 1:
		return named[0], nil
	}
	return Host{}, fmt.Errorf("host %.80q: %w: %d hosts match; give the id", ref, errdefs.ErrInvalidArgument, len(named))
}

// RemoveHost forgets a host with its endpoints and blocks, so that they can be given out again. It asserts that the host is dead. ref is
// an id, a name, or a unique prefix of an id. FailedPrecondition for one that is alive, this one included. A host that comes back all
// the same keeps what nobody has been given meanwhile, and takes down the rest.
func (c *Controller) RemoveHost(ctx context.Context, ref string) error {
	if c.o.Cluster == nil {
		return fmt.Errorf("remove host %.80q: %w: there is no cluster store", ref, errdefs.ErrFailedPrecondition)
	}
	h, err := c.findHost(ctx, ref)
	if err == nil {
		err = c.removeHost(ctx, h)
	}
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	c.events.tell("host", "destroy", h.ID, "name", h.Name)
	return nil
}

func (c *Controller) removeHost(ctx context.Context, h Host) error {
	if h.ID == c.o.Host || h.State == hostReady && c.announces() {
		return fmt.Errorf("host %s: %w: it is alive; end its daemon first", h.ID, errdefs.ErrFailedPrecondition)
	}
	dead := func(tx datastore.Tx) error {
		now, err := hostTable().Get(tx, h.ID)
		if err == nil && !now.Removing {
			err = fmt.Errorf("host %s: %w: it came back", h.ID, errdefs.ErrConflict)
		}
		return err
	}
	err := c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		now, err := hostTable().Get(tx, h.ID)
		if err != nil {
			return err
		}
		if now.Boot != h.Boot {
			return fmt.Errorf("host %s: %w: it came back", h.ID, errdefs.ErrConflict)
		}
		now.Removing = true
		return hostTable().Put(tx, h.ID, now)
	})
	if err != nil {
		return err
	}
	used, err := c.networksOf(ctx, h.ID)
	if err != nil {
		return err
	}
	for _, id := range used {
		if err := c.strip(ctx, id, h.ID, dead); err != nil {
			return err
		}
	}
	if err := c.emptyMailboxes(ctx, h.ID, dead); err != nil {
		return err
	}
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		for _, dir := range mailboxes(h.ID) {
			for range tx.List(dir) { // who finds a directory empty leaves nothing of it
			}
		}
		return errors.Join(dead(tx), hostTable().Delete(tx, h.ID))
	})
}

// emptyMailboxes deletes what others have asked of a host.
func (c *Controller) emptyMailboxes(ctx context.Context, host string, may func(datastore.Tx) error) error {
	const atOnce = 8
	for _, dir := range mailboxes(host) {
		keys, err := view(ctx, c.o.Cluster, func(tx datastore.Tx) (keys []string, err error) {
			for name := range tx.List(dir) {
				keys = append(keys, dir+"/"+name)
			}
			return keys, nil
		})
		if err != nil {
			return err
		}
		for some := range slices.Chunk(keys, atOnce) {
			err := c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
				errs := []error{may(tx)}
				for _, key := range some {
					errs = append(errs, tx.Delete(key))
				}
				return errors.Join(errs...)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
