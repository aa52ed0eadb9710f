package sealane

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// tellApart finds the namespaces that are networks' own: the network has something on the host too. They are no sandboxes.
func (a *adoption) tellApart(ids []sandbox.ID) {
	for _, id := range ids {
		owner := networkOwner(endpoint.NetworkID(id))
		_, links := a.seen.links[owner]
		_, terms := a.seen.terms[owner]
		if (links || terms) && !a.known[id] {
			a.known[id], a.apart = true, append(a.apart, endpoint.NetworkID(id))
		}
	}
}

// shared adopts networks of the cluster that run here, with their endpoints: what they are, and what this host told of its endpoints, the
// cluster store knows. What cannot be adopted now, as while that is away, is left as it is until it can: see adoptLeft.
func (a *adoption) shared(ctx context.Context) error {
	c, away := a.c, error(nil)
	if len(a.apart) > 0 {
		away = c.reachCluster(ctx)
	}
	for _, id := range a.apart {
		err := away
		if err == nil {
			err = a.sharedNetwork(ctx, id)
		}
		if err == nil {
			continue
		}
		c.log.Error("a network without a record is left as it is until it can be taken over", "network", id, "error", err)
		c.cluster.leave(id)
		if c.o.Cluster != nil {
			c.mender.later(networkOwner(id), nil)
		}
	}
	return ctx.Err()
}

// reachCluster is why the cluster store, if there is one, does not answer soon.
func (c *Controller) reachCluster(ctx context.Context) error {
	if c.o.Cluster == nil {
		return nil
	}
	soon, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	_, _, err := maybe(view(soon, c.o.Cluster, func(tx datastore.Tx) (Host, error) { return hostTable().Get(tx, c.o.Host) }))
	return err
}

// leave notes a network that could not be adopted.
func (cl *cluster) leave(id endpoint.NetworkID) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.left[id] = true
}

// allLeft lists the networks that are to be adopted yet.
func (cl *cluster) allLeft() []endpoint.NetworkID {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return slices.Collect(maps.Keys(cl.left))
}

func (cl *cluster) isLeft(id endpoint.NetworkID) bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cl.left[id]
}

// adopted strikes a network out, and says whether none is left.
func (cl *cluster) adopted(id endpoint.NetworkID) bool {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	delete(cl.left, id)
	return len(cl.left) == 0
}

// adoptLeft adopts a network of the cluster that had to be left as it was. Before that nothing of it may be given out here, nor given up. The
// caller holds it, shared or not.
func (c *Controller) adoptLeft(ctx context.Context, id endpoint.NetworkID) error {
	if !c.cluster.isLeft(id) {
		return nil
	}
	unlock, err := c.locks.exclusive(ctx, "adopt")
	if err != nil {
		return err
	}
	defer unlock()
	if !c.cluster.isLeft(id) {
		return nil
	}
	seen, err := c.observe(ctx)
	if err != nil {
		return err
	}
	a, err := c.newAdoption(ctx, seen)
	if err == nil {
		err = a.sharedNetwork(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("take over what runs of network %s: %w", shortID(string(id)), err)
	}
	n, found, err := maybe(c.networkRecord(ctx, id))
	switch {
	case err != nil:
		return err
	case found && n.Scope == netdriver.Global:
		c.recallPeers(ctx, c.sharing(id))
	case found:
		c.replayEndpoints(ctx, n)
	}
	c.mender.later(networkOwner(id), nil)
	if c.cluster.adopted(id) {
		return c.noneLost(ctx)
	}
	return nil
}

// mendLeft is adoptLeft for who does not hold the network.
func (c *Controller) mendLeft(ctx context.Context, id endpoint.NetworkID) error {
	if !c.cluster.isLeft(id) {
		return nil
	}
	unlock, err := c.locks.shared(ctx, networkOwner(id))
	if err != nil {
		return err
	}
	defer unlock()
	return c.adoptLeft(ctx, id)
}

// sharedNetwork adopts a network of the cluster with its endpoints here. One that the cluster does not know is of this host alone, or nobody's
// any more.
func (a *adoption) sharedNetwork(ctx context.Context, id endpoint.NetworkID) error {
	c := a.c
	space := networkOwner(id)
	there, err := c.observeSpace(ctx, a.seen, space)
	if err != nil {
		return err
	}
	if there == nil {
		space = ""
	}
	_, local, err := maybe(view(ctx, c.o.Root, func(tx datastore.Tx) (netdriver.Network, error) { return networkTable().Get(tx, string(id)) }))
	switch {
	case err != nil:
		return err
	case local:
		return a.ports(ctx, id, space, nil)
	case c.o.Cluster == nil:
		return fmt.Errorf("%w: it is of a cluster, and there is no cluster store", errdefs.ErrFailedPrecondition)
	}
	n, found, err := maybe(view(ctx, c.o.Cluster, func(tx datastore.Tx) (netdriver.Network, error) { return networkTable().Get(tx, string(id)) }))
	switch {
	case err != nil:
		return err
	case !found && there != nil:
		c.log.Warn("a network without a record runs that the cluster does not know any more", "network", id)
		return nil
	case !found:
		return inOrder(
			func() error { return a.network(ctx, id, a.seen.links[networkOwner(id)]) },
			func() error { return a.ports(ctx, id, "", nil) })
	}
	d, err := c.driver(ctx, n.Driver)
	if err != nil {
		return err
	}
	plan, err := c.planNetwork(ctx, n, d)
	if err != nil {
		return err
	}
	published, err := a.published(ctx, n)
	if err != nil {
		return err
	}
	h := netdriver.Held{Owner: networkOwner(id), Plan: withoutEntries(plan)}
	return inOrder(
		func() error { return c.putReplica(ctx, n) },
		func() error { return a.ports(ctx, id, space, published) },
		func() error { // the last, by which the next start knows that nothing of it is left
			return c.o.Run.Update(ctx, func(tx datastore.Tx) error { return heldTable().Put(tx, h.Owner, h) })
		})
}

// published remembers who else is on a network, and is what this host told of its own endpoints in this boot.
func (a *adoption) published(ctx context.Context, n netdriver.Network) (own map[endpoint.ID]endpoint.Published, err error) {
	c := a.c
	hosts := map[string]Host{}
	for h, err := range c.Hosts(ctx) {
		if err != nil {
			return nil, err
		}
		hosts[h.ID] = h
	}
	all := map[string]endpoint.Published{}
	own = map[endpoint.ID]endpoint.Published{}
	for p, err := range records(ctx, c.o.Cluster, publishedTable(n.ID)) {
		if err != nil {
			return nil, err
		}
		all[string(p.ID)] = p
		if p.Host == c.o.Host && p.Boot == c.cluster.boot {
			own[p.ID] = p
		}
	}
	peers, _ := c.validPeers(n, all, hosts)
	return own, c.rememberPeers(ctx, n.ID, peers, nil)
}

// whose is the endpoint that a port of a bridge is of: by its mark, else by its addresses, which one at most of a network has, with what this
// host told of it.
func whose(l sandbox.Link, far farEnd, own map[endpoint.ID]endpoint.Published) endpoint.Info {
	id, marked := strings.CutPrefix(l.Owner, "ep/")
	if !marked {
		id = newID()
		for _, p := range own {
			if slices.ContainsFunc(p.Addresses, func(at netip.Prefix) bool { return slices.Contains(far.addrs, at) }) {
				id = string(p.ID)
			}
		}
	}
	e := endpoint.Info{ID: endpoint.ID(id)}
	if p, told := own[e.ID]; told {
		e.MAC, e.Addresses, e.Spec.Name, e.Spec.Aliases = p.MAC, p.Addresses, p.Name, p.Aliases
	}
	return e
}
