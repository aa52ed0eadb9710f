package netns

import (
	"context"
	"sync"
	"time"
)

// quiet is how long nobody must have taken a namespace before more are made: making them costs the attaches that go on meanwhile.
const quiet = 50 * time.Millisecond

// ready keeps namespaces made beforehand: making one is more than half of an attach. One goroutine makes up for what is taken, when it has
// been quiet for a while or nothing is left.
type ready struct {
	size    int
	produce func() (*space, error)

	mu      sync.Mutex
	spaces  []*space
	taken   time.Time     // when the last one was
	resting bool          // run looks again by itself, later
	full    chan struct{} // closed while as many are ready as there should be
	wake    chan struct{}
	stop    chan struct{}
	stopped chan struct{}
}

func newReady(size int, produce func() (*space, error)) *ready {
	r := &ready{size: size, produce: produce, full: make(chan struct{}), wake: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{})}
	if size == 0 {
		close(r.full)
		close(r.stopped)
		return r
	}
	r.wake <- struct{}{}
	go r.run()
	return r
}

// take gives one, or nil when there is none.
func (r *ready) take() *space {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.spaces)
	if n == 0 {
		return nil
	}
	if n == r.size {
		r.full = make(chan struct{})
	}
	s := r.spaces[n-1]
	r.spaces = r.spaces[:n-1]
	r.taken = time.Now()
	if !r.resting || len(r.spaces) == 0 { // to wake somebody costs who takes
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	return s
}

// wait returns when as many are ready as there should be, or ctx ends.
func (r *ready) wait(ctx context.Context) error {
	r.mu.Lock()
	full := r.full
	r.mu.Unlock()
	select {
	case <-full:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *ready) run() {
	defer close(r.stopped)
	later := time.NewTimer(quiet)
	defer later.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-r.wake:
		case <-later.C:
		}
		for {
			wait, short := r.due()
			if !short {
				break
			}
			if wait > 0 {
				later.Reset(wait)
				break
			}
			s, err := r.produce()
			if err != nil {
				break // whoever needs one makes it then, and is told why that fails
			}
			r.mu.Lock()
			if r.spaces = append(r.spaces, s); len(r.spaces) == r.size {
				close(r.full)
			}
			r.mu.Unlock()
		}
	}
}

// due says whether some are missing, and how long to wait before the next one is made.
func (r *ready) due() (wait time.Duration, short bool) {
	select {
	case <-r.stop:
		return 0, false
	default:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spaces) > 0 {
		wait = time.Until(r.taken.Add(quiet))
	}
	short = len(r.spaces) < r.size
	r.resting = short && wait > 0
	return wait, short
}

// close stops and gives what is left.
func (r *ready) close() []*space {
	close(r.stop)
	<-r.stopped
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.spaces
	r.spaces = nil
	return left
}
