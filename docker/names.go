package docker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/sandbox"
)

// FollowNames gives endpoints what the engine calls their containers as aliases, until ctx ends: the engine tells nobody when it makes
// them. Names go with the endpoint. An engine that does not answer is asked again, and takes nothing away.
func (p *Plugin) FollowNames(ctx context.Context) {
	const soon, late = 100 * time.Millisecond, 10 * time.Second
	if p.Engine == nil {
		return
	}
	pause := soon
	for told := false; ; {
		listened, err := p.followOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if listened {
			pause, told = soon, false
		}
		if !told {
			p.Logger.Warn("names of containers are not learnt; asking the engine again", "plugin", p.Name, "error", err)
			told = true
		}
		again := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			again.Stop()
			return
		case <-again.C:
		}
		pause = min(2*pause, late)
	}
}

// followOnce listens to the engine until that fails. Events are taken in while names are learnt: an engine drops those of who is slow.
func (p *Plugin) followOnce(ctx context.Context) (listened bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	waiting := waiting{some: make(chan struct{}, 1)}
	var reader sync.WaitGroup
	reader.Go(func() {
		for id, err := range p.Engine.Changes(ctx, p.Name) {
			waiting.add(id, err)
		}
	})
	defer reader.Wait()
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return listened, ctx.Err()
		case <-waiting.some:
		}
		ids, err := waiting.take()
		for _, id := range ids {
			listened = true
			if failed := p.learn(ctx, id); failed != nil {
				return listened, failed
			}
		}
		if err != nil {
			return listened, err
		}
	}
}

// waiting is containers whose names are to be learnt, each once.
type waiting struct {
	some chan struct{}

	mu  sync.Mutex // guards what follows
	ids []string
	err error
}

func (w *waiting) add(id string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.err = err
	} else if !slices.Contains(w.ids, id) {
		w.ids = append(w.ids, id)
	}
	select {
	case w.some <- struct{}{}:
	default:
	}
}

func (w *waiting) take() (ids []string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids, w.ids = w.ids, nil
	return ids, w.err
}

// learn asks what a container is called, or with "" what all on our networks are.
func (p *Plugin) learn(ctx context.Context, id string) error {
	ids := []string{id}
	if id == "" {
		networks, err := p.Engine.Networks(ctx, p.Name)
		if err != nil {
			return err
		}
		ids = nil
		for _, n := range networks {
			for _, e := range n.Endpoints {
				ids = append(ids, e.Container)
			}
		}
		slices.Sort(ids)
		ids = slices.Compact(ids)
	}
	for _, id := range ids {
		c, err := p.Engine.Container(ctx, id)
		if errdefs.IsNotFound(err) {
			continue
		}
		for _, end := range c.Ends {
			if err == nil {
				err = p.call(ctx, end)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// call gives an endpoint of ours the names of one of the engine's. One that is none of ours, or goes, has none.
func (p *Plugin) call(ctx context.Context, end EngineEnd) error {
	b, found, err := p.bound(ctx, end.Network)
	if err != nil || !found || b.Plugin != p.Name {
		return err
	}
	names := namesOf(end)
	err = p.Controller.Endpoint(b.Network, endpoint.ID(p.id("endpoint", end.Endpoint))).Update(ctx, func(s *endpoint.Spec) error {
		s.Aliases = names
		return nil
	})
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return nil
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		p.Logger.Warn("a container is not found by name", "endpoint", end.Endpoint, "names", names, "error", err)
		return nil // the others are
	}
	return err
}

// namesOf are the names that DNS allows, each once, in their order. What an engine takes for an alias may mean more to us: "*.x", "a=b".
func namesOf(end EngineEnd) (names []string) {
	const most = 64
	for _, n := range end.Names {
		if len(names) < most && sandbox.CheckDomain(n) == nil && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}
