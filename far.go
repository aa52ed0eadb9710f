package sealane

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/sandbox"
)

// farEndpoint names an endpoint of another host. It can be seen, and given up by force; the rest is for its host to do.
type farEndpoint struct {
	c  *Controller
	on endpoint.NetworkID
	id endpoint.ID
}

func (e *farEndpoint) ID() endpoint.ID { return e.id }

func (e *farEndpoint) record(ctx context.Context) (endpoint.Published, error) {
	p, err := view(ctx, e.c.o.Cluster, func(tx datastore.Tx) (endpoint.Published, error) { return publishedTable(e.on).Get(tx, string(e.id)) })
	if err == nil && p.GivenUp != "" {
		err = fmt.Errorf("%w: it was given up, and host %s takes it down", errdefs.ErrNotFound, p.Host)
	}
	if err != nil {
		err = fmt.Errorf("endpoint %s: %w", shortID(string(e.id)), err)
	}
	return p, err
}

func (e *farEndpoint) Info(ctx context.Context) (endpoint.Info, error) {
	p, err := e.record(ctx)
	return endpoint.Info{ID: p.ID, Network: e.on, Addresses: p.Addresses, MAC: p.MAC, Spec: endpoint.Spec{Name: p.Name, Aliases: p.Aliases}}, err
}

// elsewhere refuses what only the endpoint's host can do.
func (e *farEndpoint) elsewhere(ctx context.Context) error {
	p, err := e.record(ctx)
	if err == nil {
		err = fmt.Errorf("endpoint %s: %w: it is on host %s; do it there", p.Name, errdefs.ErrFailedPrecondition, p.Host)
	}
	return err
}

func (e *farEndpoint) Join(ctx context.Context, _ sandbox.Sandbox) error { return e.elsewhere(ctx) }

func (e *farEndpoint) Leave(ctx context.Context) error { return e.elsewhere(ctx) }

func (e *farEndpoint) Update(ctx context.Context, _ func(*endpoint.Spec) error) error {
	return e.elsewhere(ctx)
}

func (e *farEndpoint) Check(ctx context.Context) error { return e.elsewhere(ctx) }

func (e *farEndpoint) Delete(ctx context.Context) error { return e.elsewhere(ctx) }

// Forget gives the endpoint up: its name is free when it returns. A host that is alive takes the endpoint down and gives its addresses back;
// that is waited for, for three seconds. One that cannot be reached is thereby said to be dead, and the addresses are free at once.
func (e *farEndpoint) Forget(ctx context.Context) error {
	p, err := e.record(ctx)
	if err != nil {
		return err
	}
	h, found, err := maybe(e.c.findHost(ctx, p.Host))
	switch {
	case err != nil:
		return err
	case found && h.State == hostReady:
		err = e.giveUp(ctx)
	default:
		err = e.bury(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("forget endpoint %s: %w", p.Name, err)
	}
	e.c.events.tell("endpoint", "destroy", string(e.id), "name", p.Name, "network", string(e.on))
	return nil
}

// giveUp says in the endpoint's record that its host shall take it down.
func (e *farEndpoint) giveUp(ctx context.Context) error {
	err := e.c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		p, found, err := maybe(publishedTable(e.on).Get(tx, string(e.id)))
		if err != nil || !found {
			return err
		}
		p.GivenUp = e.c.o.Host
		return errors.Join(publishedTable(e.on).Put(tx, string(e.id), p), endpointNames(e.on).free(tx, p.Name, string(e.id)))
	})
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	for batch, err := range e.c.o.Cluster.Watch(wait, publishedTable(e.on).Dir) {
		_, there := batch.Put[datastore.Key(string(e.id))]
		if err != nil || batch.Full && !there || slices.Contains(batch.Delete, datastore.Key(string(e.id))) {
			break
		}
	}
	return ctx.Err()
}

// bury deletes the record of an endpoint whose host is dead.
func (e *farEndpoint) bury(ctx context.Context, p endpoint.Published) error {
	return e.c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		if err := withdrawRecord(tx, e.on, string(e.id), p.Host); err != nil {
			return err
		}
		for _, a := range p.Addresses { // free inside the dead host's block, for any host
			free := ipam.Block{Prefix: netip.PrefixFrom(a.Addr(), a.Addr().BitLen())}
			if err := blockTable(e.on).Put(tx, free.Prefix.String(), free); err != nil {
				return err
			}
		}
		return nil
	})
}

// Published yields what the hosts tell each other of the endpoints of a network of the cluster, those of this host included, by id, as
// it was at one moment, without those that were given up; nothing of a network of this host alone. Unavailable when the store is away.
func (c *Controller) Published(ctx context.Context, id endpoint.NetworkID) iter.Seq2[endpoint.Published, error] {
	return func(yield func(endpoint.Published, error) bool) {
		if c.o.Cluster == nil {
			return
		}
		for p, err := range records(ctx, c.o.Cluster, publishedTable(id)) {
			if p.GivenUp == "" && !yield(p, err) {
				return
			}
		}
	}
}
