package datastore

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// memoryTx notes what was read with its revision, and keeps what was written to itself.
type memoryTx struct {
	store     *memory
	footprint Footprint
	reads     []memoryRead
	writes    []memoryWrite // at most one a key
	space     [4]memoryWrite
}

type memoryRead struct {
	name string // of a key or a directory
	dir  bool
	rev  uint64
}

type memoryWrite struct {
	key   string
	value []byte // nil: deleted
}

func (tx *memoryTx) Get(key string) ([]byte, error) {
	if err := tx.footprint.Read(key); err != nil {
		return nil, err
	}
	value := []byte(nil)
	if w := tx.written(key); w != nil {
		value = w.value
	} else {
		tx.store.mu.RLock()
		item := tx.store.get(key)
		tx.store.mu.RUnlock()
		tx.reads = append(tx.reads, memoryRead{key, false, item.rev})
		value = item.value
	}
	if value == nil {
		return nil, fmt.Errorf("get %s: %w", key, errdefs.ErrNotFound)
	}
	return bytes.Clone(value), nil
}

func (tx *memoryTx) Put(key string, value []byte) error {
	if err := tx.footprint.Write(key, value); err != nil {
		return err
	}
	tx.write(key, append([]byte{}, value...))
	return nil
}

func (tx *memoryTx) Delete(key string) error {
	if err := tx.footprint.Write(key, nil); err != nil {
		return err
	}
	tx.write(key, nil)
	return nil
}

func (tx *memoryTx) List(dir string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		if tx.footprint.List(dir) != nil {
			return
		}
		for _, e := range tx.list(dir) {
			if !yield(e.key, bytes.Clone(e.value)) {
				return
			}
		}
	}
}

// list is the directory as it is now, with our own writes over it; key is the name alone.
func (tx *memoryTx) list(dir string) []memoryWrite {
	s := tx.store
	s.mu.RLock()
	tx.reads = append(tx.reads, memoryRead{dir, true, s.dirRev(dir)})
	var entries []memoryWrite
	if d := s.dirs[dir]; d != nil {
		entries = make([]memoryWrite, len(d.names))
		for i, name := range d.names {
			entries[i] = memoryWrite{name, d.items[name].value}
		}
	}
	s.mu.RUnlock()
	for _, w := range tx.writes {
		in, name := Split(w.key)
		if in != dir {
			continue
		}
		i, found := slices.BinarySearchFunc(entries, name, func(e memoryWrite, name string) int { return strings.Compare(e.key, name) })
		switch {
		case found && w.value == nil:
			entries = slices.Delete(entries, i, i+1)
		case found:
			entries[i].value = w.value
		case w.value != nil:
			entries = slices.Insert(entries, i, memoryWrite{name, w.value})
		}
	}
	return entries
}

func (tx *memoryTx) written(key string) *memoryWrite {
	for i := range tx.writes {
		if tx.writes[i].key == key {
			return &tx.writes[i]
		}
	}
	return nil
}

func (tx *memoryTx) write(key string, value []byte) {
	if w := tx.written(key); w != nil {
		w.value = value
		return
	}
	if tx.writes == nil {
		tx.writes = tx.space[:0]
	}
	tx.writes = append(tx.writes, memoryWrite{key, value})
}

// finish says whether everything that was read is still so, and if it is and commit is wanted, makes the writes.
func (tx *memoryTx) finish(commit bool) (done, closed bool) {
	s := tx.store
	if !commit || len(tx.writes) == 0 {
		s.mu.RLock()
		defer s.mu.RUnlock()
		return tx.holds(), s.closed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || !tx.holds() {
		return false, s.closed
	}
	s.rev++
	for _, w := range tx.writes {
		if w.value == nil {
			s.delete(w.key)
		} else {
			s.put(w.key, w.value)
		}
	}
	s.feed.Publish(func(yield func(string, []byte) bool) {
		for _, w := range tx.writes {
			if !yield(w.key, w.value) {
				return
			}
		}
	})
	return true, false
}

func (tx *memoryTx) holds() bool {
	for _, r := range tx.reads {
		rev := uint64(0)
		if r.dir {
			rev = tx.store.dirRev(r.name)
		} else {
			rev = tx.store.get(r.name).rev
		}
		if rev != r.rev {
			return false
		}
	}
	return true
}
