package datastore

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
)

// NewMemory returns an empty store that is gone with the process. It is as optimistic as a cluster store: fn runs without any
// lock and may see a torn state, and runs again when what it read was changed meanwhile.
func NewMemory() Store {
	s := &memory{dirs: map[string]*memoryDir{}, closed: make(chan struct{})}
	s.optimist.Begin = func(bool) Attempt { return s }
	return s
}

// memory is its own Attempt: all that it must remember is in the reads.
type memory struct {
	optimist Optimist
	mu       sync.RWMutex
	rev      uint64 // counts commits
	dirs     map[string]*memoryDir
	feed     Feed
	closed   chan struct{}
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

func (s *memory) View(ctx context.Context, fn func(Tx) error) error { return s.optimist.View(ctx, fn) }

func (s *memory) Update(ctx context.Context, fn func(Tx) error) error {
	return s.optimist.Update(ctx, fn)
}

func (s *memory) Get(_ context.Context, key string) ([]byte, uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	item := s.get(key)
	return item.value, item.rev, nil
}

func (s *memory) List(_ context.Context, dir string) ([]Entry, uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	d := s.dirs[dir]
	if d == nil {
		return nil, 0, nil
	}
	entries := make([]Entry, len(d.names))
	for i, name := range d.names {
		entries[i] = Entry{name, d.items[name].value}
	}
	return entries, d.rev, nil
}

func (s *memory) Valid(_ context.Context, reads []Read) (bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.open(); err != nil {
		return false, err
	}
	return s.holds(reads), nil
}

func (s *memory) Commit(_ context.Context, reads []Read, changes Changes) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return true, err
	}
	if !s.holds(reads) {
		return false, nil
	}
	s.rev++
	for _, w := range changes.Writes {
		if w.Value == nil {
			s.delete(w.Key)
		} else {
			s.put(w.Key, w.Value)
		}
	}
	s.feed.Publish(func(yield func(string, []byte) bool) {
		for _, w := range changes.Writes {
			if !yield(w.Key, w.Value) {
				return
			}
		}
	})
	return true, nil
}

func (s *memory) holds(reads []Read) bool {
	for _, r := range reads {
		rev := uint64(0)
		if r.Dir {
			rev = s.dirRev(r.Name)
		} else {
			rev = s.get(r.Name).rev
		}
		if rev != r.Version {
			return false
		}
	}
	return true
}

func (s *memory) open() error {
	if over(s.closed) {
		return fmt.Errorf("%w: the store is closed", errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (s *memory) Watch(ctx context.Context, dir string) iter.Seq2[Batch, error] {
	return s.feed.Watch(ctx, dir, func(attach func()) (map[string][]byte, error) {
		if err := (&Footprint{ReadOnly: true}).List(dir); err != nil {
			return nil, err
		}
		s.mu.RLock()
		defer s.mu.RUnlock()
		if err := s.open(); err != nil {
			return nil, err
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

// Announce implements Presence. The key goes when ctx or the store ends; nothing else loses it.
func (s *memory) Announce(ctx context.Context, key string, value []byte) (lost <-chan struct{}, err error) {
	if err := (&Footprint{}).Write(key, value); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("announce %s: %w", key, err)
	}
	if held := s.get(key); held.value != nil && !bytes.Equal(held.value, value) {
		return nil, fmt.Errorf("announce %s: %w: %s is there", key, errdefs.ErrAlreadyExists, held.value)
	}
	rev := s.set(key, append([]byte{}, value...))
	gone := make(chan struct{})
	ctx, cancel := bind(ctx, s.closed)
	context.AfterFunc(ctx, func() {
		defer cancel()
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
	if !over(s.closed) {
		close(s.closed)
	}
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
