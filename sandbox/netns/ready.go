package netns

import "sync"

// ready keeps namespaces made beforehand: making one is more than half of an attach. One goroutine makes up for what is taken.
type ready struct {
	size    int
	produce func() (*space, error)

	mu      sync.Mutex
	spaces  []*space
	wake    chan struct{}
	stop    chan struct{}
	stopped chan struct{}
}

func newReady(size int, produce func() (*space, error)) *ready {
	r := &ready{size: size, produce: produce, wake: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{})}
	if size == 0 {
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
	s := r.spaces[n-1]
	r.spaces = r.spaces[:n-1]
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return s
}

func (r *ready) run() {
	defer close(r.stopped)
	for {
		select {
		case <-r.stop:
			return
		case <-r.wake:
		}
		for r.short() {
			s, err := r.produce()
			if err != nil {
				break // whoever needs one makes it then, and is told why that fails
			}
			r.mu.Lock()
			r.spaces = append(r.spaces, s)
			r.mu.Unlock()
		}
	}
}

// short says whether some are missing.
func (r *ready) short() bool {
	select {
	case <-r.stop:
		return false
	default:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.spaces) < r.size
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
