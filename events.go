package sealane

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// backlog is how many events wait for one reader before it is told that it was too slow.
const backlog = 1024

// Event is something that happened, with Docker's words where Docker has one.
type Event struct {
	Time   time.Time
	Type   string // network, endpoint, sandbox, host
	Action string // create, connect, disconnect, destroy, prune, update, repair, conflict, unreachable
	ID     string
	Attrs  map[string]string
}

// Events yields what happens from now on: the reader is registered when Events returns. A reader that is too slow gets
// ResourceExhausted and reads the state anew. It ends with ctx, with the caller's loop or with Close.
func (c *Controller) Events(ctx context.Context) iter.Seq2[Event, error] {
	r := c.events.join()
	stop := context.AfterFunc(ctx, func() { c.events.leave(r) }) // a sequence that is never ranged over ends too
	return func(yield func(Event, error) bool) {
		defer stop()
		defer c.events.leave(r)
		for {
			select {
			case e, ok := <-r.queue:
				if !ok {
					if r.slow {
						yield(Event{}, fmt.Errorf("read events: %w: more than %d were waiting; read the state anew",
							errdefs.ErrResourceExhausted, backlog))
					}
					return
				}
				if !yield(e, nil) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// broker hands every event to every reader.
type broker struct {
	mu      sync.Mutex // guards what is below
	readers map[*reader]struct{}
	closed  bool
}

type reader struct {
	queue chan Event
	slow  bool // written before queue is closed
}

func (b *broker) join() *reader {
	r := &reader{queue: make(chan Event, backlog)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		close(r.queue)
		return r
	}
	if b.readers == nil {
		b.readers = map[*reader]struct{}{}
	}
	b.readers[r] = struct{}{}
	return r
}

func (b *broker) leave(r *reader) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop(r)
}

func (b *broker) drop(r *reader) {
	if _, reading := b.readers[r]; reading {
		delete(b.readers, r)
		close(r.queue)
	}
}

func (b *broker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for r := range maps.Clone(b.readers) {
		b.drop(r)
	}
}

// tell hands out an event; attributes come in pairs, and those without a value are left out.
func (b *broker) tell(typ, action, id string, attrs ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.readers) == 0 {
		return
	}
	e := Event{Time: time.Now(), Type: typ, Action: action, ID: id, Attrs: map[string]string{}}
	for i := 0; i+1 < len(attrs); i += 2 {
		if attrs[i+1] != "" {
			e.Attrs[attrs[i]] = attrs[i+1]
		}
	}
	for r := range maps.Clone(b.readers) {
		select {
		case r.queue <- e:
		default:
			r.slow = true
			b.drop(r)
		}
	}
}
