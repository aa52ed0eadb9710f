package datastore

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// NewMemory returns an empty store that is gone with the process. It has Presence. It is as optimistic as a cluster store: fn runs without any
// lock and may see a torn state, and runs again when what it read was changed meanwhile.
func NewMemory() Store { return &memory{dirs: map[string]*memoryDir{}} }

type memory struct {
	mu     sync.RWMutex
	rev    uint64 // counts commits
	dirs   map[string]*memoryDir
	feed   Feed
	closed bool
}

// memoryDir is a directory with at least one key in it.
type memoryDir struct {
	rev   uint64 // the last commit that wrote in it
	names []string
	items map[string]memoryItem
}

type memoryItem struct {
	value []byte // never changed in place
	rev   uint64
}

func (s *memory) View(ctx context.Context, fn func(Tx) error) error { return s.run(ctx, fn, true) }

func (s *memory) Update(ctx context.Context, fn func(Tx) error) error { return s.run(ctx, fn, false) }

func (s *memory) run(ctx context.Context, fn func(Tx) error, readOnly bool) error {
	for attempt := 0; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: given up after %d conflicts: %w", errdefs.ErrAborted, attempt, err)
		}
		tx := &memoryTx{store: s}
		tx.footprint.ReadOnly = readOnly
		err := fn(tx)
		if err == nil {
			err = tx.footprint.Err()
		}
		done, closed := tx.finish(err == nil)
		if closed {
			return fmt.Errorf("%w: the store is closed", errdefs.ErrFailedPrecondition)
		}
		if done {
			return err
		}
		pause(ctx, attempt)
	}
}

// pause waits a random time that grows with the attempts, so that writers of one directory fall out of step.
func pause(ctx context.Context, attempt int) {
	longest := 50 * time.Microsecond << min(attempt, 7)
	t := time.NewTimer(rand.N(longest))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (s *memory) Watch(ctx context.Context, dir string) iter.Seq2[Batch, error] {
	return s.feed.Watch(ctx, dir, func(attach func()) (map[string][]byte, error) {
		if err := (&Footprint{ReadOnly: true}).List(dir); err != nil {
			return nil, err
		}
		s.mu.RLock()
		defer s.mu.RUnlock()
		if s.closed {
			return nil, fmt.Errorf("%w: the store is closed", errdefs.ErrFailedPrecondition)
		}
		attach()
		full := map[string][]byte{}
		if d := s.dirs[dir]; d != nil {
			for name, item := range d.items {
				full[name] = bytes.Clone(item.value)
			}
		}
		return full, nil
	})
}

// Announce implements Presence. The key goes when ctx ends; nothing else loses it.
func (s *memory) Announce(ctx context.Context, key string, value []byte) (lost <-chan struct{}, err error) {
	if err := (&Footprint{}).Write(key, value); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("announce %s: %w: the store is closed", key, errdefs.ErrFailedPrecondition)
	}
	rev := s.set(key, append([]byte{}, value...))
	gone := make(chan struct{})
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.get(key).rev == rev { // a later announcement of the key is somebody else's
			s.set(key, nil)
		}
		close(gone)
	})
	return gone, nil
}

// set is a commit of one value; nil deletes.
func (s *memory) set(key string, value []byte) (rev uint64) {
	s.rev++
	if value == nil {
		s.delete(key)
	} else {
		s.put(key, value)
	}
	s.feed.Publish(func(yield func(string, []byte) bool) { yield(key, value) })
	return s.rev
}

func (s *memory) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.dirs = nil
	s.feed.Close()
	return nil
}

// get returns an absent key as revision 0.
func (s *memory) get(key string) memoryItem {
	dir, name := Split(key)
	if d := s.dirs[dir]; d != nil {
		return d.items[name]
	}
	return memoryItem{}
}

func (s *memory) dirRev(dir string) uint64 {
	if d := s.dirs[dir]; d != nil {
		return d.rev
	}
	return 0
}

func (s *memory) put(key string, value []byte) {
	dir, name := Split(key)
	d := s.dirs[dir]
	if d == nil {
		d = &memoryDir{items: map[string]memoryItem{}}
		s.dirs[dir] = d
	}
	if _, ok := d.items[name]; !ok {
		i, _ := slices.BinarySearch(d.names, name)
		d.names = slices.Insert(d.names, i, name)
	}
	d.items[name] = memoryItem{value, s.rev}
	d.rev = s.rev
}

func (s *memory) delete(key string) {
	dir, name := Split(key)
	d := s.dirs[dir]
	if d == nil {
		return
	}
	if _, ok := d.items[name]; !ok {
		return
	}
	i, _ := slices.BinarySearch(d.names, name)
	d.names = slices.Delete(d.names, i, i+1)
	delete(d.items, name)
	d.rev = s.rev
	if len(d.names) == 0 {
		delete(s.dirs, dir)
	}
}
