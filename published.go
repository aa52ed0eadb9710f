package sealane

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// published is what the other hosts are told of an endpoint. It is told once, when the endpoint is made, with the names and ports of the
// sandbox that it is made for: joining touches the cluster store no more.
func (c *Controller) published(ctx context.Context, e endpoint.Info) endpoint.Published {
	in := cmp.Or(e.Sandbox, e.Spec.For)
	s, _, err := maybe(c.sandboxRecord(ctx, in))
	if err != nil {
		s = sandbox.Info{} // without its names it is reached all the same
	}
	ports, _, err := maybe(view(ctx, c.o.Run, func(tx datastore.Tx) (endpoint.Ports, error) { return portsTable().Get(tx, string(in)) }))
	if err != nil {
		ports = endpoint.Ports{}
	}
	return endpoint.Published{ID: e.ID, Name: e.Spec.Name, Aliases: e.DNSNames(s)[1:], Addresses: e.Addresses, MAC: e.MAC,
		Host: c.o.Host, Boot: c.cluster.boot, Ports: containerPorts(e.Spec, ports)}
}

// publish tells the other hosts of an endpoint. AlreadyExists when another one has the name. With the store away it is nil: the endpoint
// is known to this host, and the rest follows when the store is back.
func (c *Controller) publish(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	if n.Scope != netdriver.Global {
		return nil
	}
	sh := c.sharing(n.ID)
	if c.cluster.away.Load() {
		sh.resettle(e.ID)
		return nil
	}
	p := c.published(ctx, e)
	err := c.shared(ctx, func(tx datastore.Tx) error { return c.enterPublished(tx, n.ID, p) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errGivenUp):
		poke(c.cluster.rejoin)
	case ctx.Err() != nil || !c.storeIsAway(err):
		return err
	}
	sh.resettle(e.ID)
	return nil
}

// enterPublished writes the record of an endpoint with its name. The host is known, the network stays.
func (c *Controller) enterPublished(tx datastore.Tx, id endpoint.NetworkID, p endpoint.Published) error {
	if err := c.fence(tx); err != nil {
		return err
	}
	n, err := networkTable().Get(tx, string(id))
	if err == nil && n.Deleting {
		err = fmt.Errorf("%w: it is being deleted", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", shortID(string(id)), err)
	}
	presume(tx, endpointNames(id).key(p.Name))
	if err := endpointNames(id).claim(tx, p.Name, string(p.ID)); err != nil {
		return err
	}
	return errors.Join(usesTable(p.Host).Put(tx, string(id), true), publishedTable(id).Put(tx, string(p.ID), p))
}

// withdrawRecord deletes the record of an endpoint of a host with its name.
func withdrawRecord(tx datastore.Tx, id endpoint.NetworkID, ep, host string) error {
	p, found, err := maybe(publishedTable(id).Get(tx, ep))
	if err != nil || !found || p.Host != host {
		return err
	}
	return errors.Join(publishedTable(id).Delete(tx, ep), endpointNames(id).free(tx, p.Name, ep))
}

// errForced says that somebody gave an endpoint up by force while its host is alive.
var errForced = fmt.Errorf("%w: it was given up by force on another host", errdefs.ErrNotFound)

func isGivenUp(tx datastore.Tx, on endpoint.NetworkID, id endpoint.ID) (bool, error) {
	p, _, err := maybe(publishedTable(on).Get(tx, string(id)))
	return p.GivenUp != "", err
}

// withdrawPublished takes an endpoint from the other hosts, before it goes from the kernel. With the store away that follows.
func (c *Controller) withdrawPublished(ctx context.Context, n netdriver.Network, id endpoint.ID) error {
	if n.Scope != netdriver.Global || c.o.Cluster == nil {
		return nil
	}
	sh := c.sharing(n.ID)
	if !c.cluster.away.Load() {
		err := c.shared(ctx, func(tx datastore.Tx) error {
			if gone, err := isGivenUp(tx, n.ID, id); err != nil || gone {
				return err // whoever gave it up waits until its addresses are given back: see settleEndpoint
			}
			return withdrawRecord(tx, n.ID, string(id), c.o.Host)
		})
		if err == nil || ctx.Err() != nil || !c.storeIsAway(err) {
			return err
		}
	}
	sh.resettle(id)
	return nil
}

// unsettled are those of this host's endpoints that are due which the store has otherwise, or which it has and this host does not.
func (c *Controller) unsettled(ctx context.Context, n netdriver.Network, sh *sharing, now due) (ids []endpoint.ID, err error) {
	look := now.own
	if now.all || now.doubtful {
		look = sh.publishedBy(c.o.Host)
		for e, err := range records(ctx, c.o.Run, endpointTable(n.ID)) {
			if err != nil {
				return nil, err
			}
			look[e.ID] = true
		}
	}
	for id := range look {
		e, here, err := maybe(c.endpointRecord(ctx, n.ID, id))
		if err != nil {
			return nil, err
		}
		p, found := sh.as(id)
		found = found && (here || p.Host == c.o.Host)
		if found != here || here && (now.doubtful || !equal(p, c.published(ctx, e))) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// publishedBy are the endpoints of a host.
func (sh *sharing) publishedBy(host string) map[endpoint.ID]bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	ids := map[endpoint.ID]bool{}
	for id, p := range sh.published {
		if p.Host == host {
			ids[endpoint.ID(id)] = true
		}
	}
	return ids
}

// as is what is published of an endpoint, as last seen.
func (sh *sharing) as(id endpoint.ID) (p endpoint.Published, found bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	p, found = sh.published[string(id)]
	return p, found
}

// settleEndpoint publishes or withdraws an endpoint of this host as its record says. One whose addresses were given to somebody else while
// this host was away is taken down; one whose name was taken goes on without it. doubtful: look, even if the store has the record.
func (c *Controller) settleEndpoint(ctx context.Context, n netdriver.Network, sh *sharing, id endpoint.ID, doubtful bool) error {
	unlock, err := c.hold(ctx, n.ID, id)
	if err != nil {
		return err
	}
	defer unlock()
	e, here, err := maybe(c.endpointRecord(ctx, n.ID, id))
	if err != nil {
		return err
	}
	if !here {
		if _, found := sh.as(id); !found {
			return nil // it went while we waited for it
		}
		return c.strikePublished(ctx, n, id)
	}
	p := c.published(ctx, e)
	now, found, err := maybe(view(ctx, c.o.Cluster, func(tx datastore.Tx) (endpoint.Published, error) {
		return publishedTable(n.ID).Get(tx, string(id))
	}))
	if err != nil || found && !doubtful && equal(now, p) {
		return err
	}
	if doubtful || !found {
		switch err := c.confirm(ctx, n, e); {
		case errdefs.IsAlreadyExists(err), errdefs.IsNotFound(err):
			return c.takeDown(ctx, n, e, err)
		case err != nil:
			return err
		}
	}
	err = c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		if gone, err := isGivenUp(tx, n.ID, id); err != nil {
			return err
		} else if gone {
			return errForced
		}
		return c.enterPublished(tx, n.ID, p)
	})
	switch {
	case errors.Is(err, errForced):
		if err := c.takeDown(ctx, n, e, err); err != nil {
			return err
		}
		return c.strikePublished(ctx, n, id)
	case errdefs.IsAlreadyExists(err):
		return c.dropName(ctx, n, e, err)
	case errdefs.IsNotFound(err):
		return c.takeDown(ctx, n, e, err)
	case errors.Is(err, errGivenUp):
		poke(c.cluster.rejoin)
	}
	return err
}

// strikePublished deletes the record of an endpoint that is no more, when its addresses can be given to another.
func (c *Controller) strikePublished(ctx context.Context, n netdriver.Network, id endpoint.ID) error {
	if _, err := c.withdrawn.wait(ctx); err != nil {
		return err
	}
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return withdrawRecord(tx, n.ID, string(id), c.o.Host) })
}

// takeDown removes an endpoint whose addresses are somebody else's, that was given up, or whose network is gone. The caller holds it.
func (c *Controller) takeDown(ctx context.Context, n netdriver.Network, e endpoint.Info, why error) error {
	c.log.Warn("an endpoint, its address or its network was given up; taking it down", "network", n.Name,
		"endpoint", e.Spec.Name, "error", why)
	if err := (&endpointHandle{c, n.ID, e.ID}).remove(ctx, n, e, true); err != nil {
		return err
	}
	c.events.tell("endpoint", "conflict", string(e.ID), "name", e.Spec.Name, "network", string(n.ID), "reason", why.Error())
	c.events.tell("endpoint", "destroy", string(e.ID), "name", e.Spec.Name, "network", string(n.ID))
	return nil
}

// dropName takes an endpoint's name away because another has it in the cluster; the endpoint goes on under its id. The caller holds it.
func (c *Controller) dropName(ctx context.Context, n netdriver.Network, e endpoint.Info, why error) error {
	name := e.Spec.Name
	e.Spec.Name = shortID(string(e.ID))
	if name == e.Spec.Name {
		return why
	}
	e.Problem = fmt.Sprintf("its name %s was taken while this host was away", name)
	err := c.o.Run.Update(ctx, func(tx datastore.Tx) error {
		return errors.Join(endpointNames(n.ID).free(tx, name, string(e.ID)), endpointNames(n.ID).claim(tx, e.Spec.Name, string(e.ID)),
			endpointTable(n.ID).Put(tx, string(e.ID), e))
	})
	if err != nil {
		return err
	}
	c.log.Warn("a name was taken while this host was away", "network", n.Name, "name", name, "endpoint", e.ID, "error", why)
	c.events.tell("endpoint", "conflict", string(e.ID), "name", name, "network", string(n.ID), "reason", why.Error())
	p := c.published(ctx, e)
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return c.enterPublished(tx, n.ID, p) })
}
