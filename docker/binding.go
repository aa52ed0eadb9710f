package docker

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
)

// binding says which network of ours is one of an engine's. It is written before our network is made and struck out after it is gone.
type binding struct {
	Plugin  string
	Docker  string             // the engine's id
	Network endpoint.NetworkID // ours
}

func bindings() datastore.Table[binding] { return datastore.Table[binding]{Dir: "docker"} }

// bound finds the binding of a network of the engine's; found is false when there is none.
func (p *Plugin) bound(ctx context.Context, docker string) (b binding, found bool, err error) {
	err = p.Root.View(ctx, func(tx datastore.Tx) error {
		var missing error
		b, missing = p.known.Get(tx, bindings(), docker)
		found = missing == nil
		if errdefs.IsNotFound(missing) {
			return nil
		}
		return missing
	})
	return b, found, err
}

// mustBeBound is bound for verbs that need it.
func (p *Plugin) mustBeBound(ctx context.Context, docker string) (binding, error) {
	b, found, err := p.bound(ctx, docker)
	if err == nil && !found {
		err = fmt.Errorf("network %.12s: %w: sealane knows no such network; remove it and create it again", docker, errdefs.ErrNotFound)
	}
	return b, err
}

func (p *Plugin) bind(ctx context.Context, b binding) error {
	return p.Root.Update(ctx, func(tx datastore.Tx) error { return bindings().Put(tx, b.Docker, b) })
}

func (p *Plugin) unbind(ctx context.Context, docker string) error {
	return p.Root.Update(ctx, func(tx datastore.Tx) error { return bindings().Delete(tx, docker) })
}

// allBound lists this plugin's bindings.
func (p *Plugin) allBound(ctx context.Context) (all []binding, err error) {
	err = p.Root.View(ctx, func(tx datastore.Tx) error {
		all = nil
		for b, err := range bindings().All(tx) {
			if err != nil {
				return err
			}
			if b.Plugin == p.Name {
				all = append(all, b)
			}
		}
		return nil
	})
	return all, err
}
