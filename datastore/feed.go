package datastore

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/containerd/errdefs"
)

// Feed tells the watchers in one process what its commits changed. Stores whose only writer is this process build Watch on it.
// The zero value is ready. It is safe for concurrent use.
type Feed struct {
	mu     sync.Mutex
	dirs   map[string]map[*watcher]struct{}
	closed bool
}

// watcher gathers what its reader has not taken yet; a later value replaces an earlier one, so a slow reader costs no memory.
type watcher struct {
	pending map[string][]byte // by name; nil: deleted
	wake    chan struct{}
}

// Publish hands over the keys and values of one commit; a nil value is a deletion. Values are not copied and must not change. The
// store calls it in the order of its commits, before the next one can be seen.
func (f *Feed) Publish(changes iter.Seq2[string, []byte]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.dirs) == 0 {
		return
	}
	for key, value := range changes {
		dir, name := Split(key)
		for w := range f.dirs[dir] {
			w.pending[name] = value
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
}

// Watch is Store.Watch. snapshot reads the directory and calls attach, with no commit and no Close between. Close ends it with
// FailedPrecondition.
func (f *Feed) Watch(ctx context.Context, dir string, snapshot func(attach func()) (map[string][]byte, error)) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		if ctx.Err() != nil {
			return
		}
		w := &watcher{pending: map[string][]byte{}, wake: make(chan struct{}, 1)}
		defer f.detach(dir, w)
		full, err := snapshot(func() { f.attach(dir, w) })
		if err != nil {
			if ctx.Err() == nil {
				yield(Batch{}, fmt.Errorf("watch %s: %w", dir, err))
			}
			return
		}
		if !yield(Batch{Full: true, Put: full}, nil) {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}
			batch, closed := f.take(w)
			if closed {
				yield(Batch{}, fmt.Errorf("watch %s: %w: the store was closed", dir, errdefs.ErrFailedPrecondition))
				return
			}
			if !yield(batch, nil) {
				return
			}
		}
	}
}

// Close ends the watches.
func (f *Feed) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, watchers := range f.dirs {
		for w := range watchers {
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
}

func (f *Feed) attach(dir string, w *watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirs == nil {
		f.dirs = map[string]map[*watcher]struct{}{}
	}
	if f.dirs[dir] == nil {
		f.dirs[dir] = map[*watcher]struct{}{}
	}
	f.dirs[dir][w] = struct{}{}
}

func (f *Feed) detach(dir string, w *watcher) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.dirs[dir], w)
	if len(f.dirs[dir]) == 0 {
		delete(f.dirs, dir)
	}
}

func (f *Feed) take(w *watcher) (b Batch, closed bool) {
	f.mu.Lock()
	pending := w.pending
	w.pending = map[string][]byte{}
	closed = f.closed
	f.mu.Unlock()
	b.Put = map[string][]byte{}
	for name, value := range pending {
		if value == nil {
			b.Delete = append(b.Delete, name)
		} else {
			b.Put[name] = bytes.Clone(value)
		}
	}
	return b, closed
}
