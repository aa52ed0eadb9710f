package sealane

import (
	"context"
	"fmt"
	"iter"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/sandbox"
)

// farEndpoint names an endpoint of another host. It can be seen, and given up when its host is dead; the rest is for its host to do.
type farEndpoint struct {
	c  *Controller
	on endpoint.NetworkID
	id endpoint.ID
}

func (e *farEndpoint) ID() endpoint.ID { return e.id }

func (e *farEndpoint) record(ctx context.Context) (endpoint.Published, error) {
	p, err := view(ctx, e.c.o.Cluster, func(tx datastore.Tx) (endpoint.Published, error) { return publishedTable(e.on).Get(tx, string(e.id)) })
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

// Forget gives the endpoint up: its name and its addresses are free. It asserts that its host is dead, and is refused while that is alive.
func (e *farEndpoint) Forget(ctx context.Context) error {
	p, err := e.record(ctx)
	if err != nil {
		return err
	}
	h, err := e.c.findHost(ctx, p.Host)
	if err == nil && h.State == hostReady && e.c.announces() {
		return fmt.Errorf("endpoint %s: %w: its host %s is alive; delete it there", p.Name, errdefs.ErrFailedPrecondition, p.Host)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	err = e.c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
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
	if err != nil {
		return fmt.Errorf("forget endpoint %s: %w", p.Name, err)
	}
	e.c.events.tell("endpoint", "destroy", string(e.id), "name", p.Name, "network", string(e.on))
	return nil
}

// Published yields what the hosts tell each other of the endpoints of a network of the cluster, those of this host included, by id, as
// it was at one moment; nothing of a network of this host alone. Unavailable when the store is away.
func (c *Controller) Published(ctx context.Context, id endpoint.NetworkID) iter.Seq2[endpoint.Published, error] {
	return func(yield func(endpoint.Published, error) bool) {
		if c.o.Cluster != nil {
			records(ctx, c.o.Cluster, publishedTable(id))(yield)
		}
	}
}
