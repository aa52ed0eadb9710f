package api

import (
	"context"
	"sync"

	"github.com/sealane/sealane/sandbox"
)

// turns let one call at a time change what the endpoints of a sandbox have in common, its ports: the Controller, which knows of no such
// thing, locks them one by one. The zero value is ready.
type turns struct {
	mu    sync.Mutex                   // guards taken
	taken map[sandbox.ID]chan struct{} // closed when the turn is over
}

// take waits until nobody else has the turn, or ctx ends. Call over when it is.
func (t *turns) take(ctx context.Context, id sandbox.ID) (over func(), err error) {
	mine := make(chan struct{})
	for {
		t.mu.Lock()
		theirs := t.taken[id]
		if theirs == nil {
			if t.taken == nil {
				t.taken = map[sandbox.ID]chan struct{}{}
			}
			t.taken[id] = mine
		}
		t.mu.Unlock()
		if theirs == nil {
			return func() { t.end(id) }, nil
		}
		select {
		case <-theirs:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (t *turns) end(id sandbox.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.taken[id])
	delete(t.taken, id)
}
