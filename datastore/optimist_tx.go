package datastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// optimistTx notes what was read with its version, asks for nothing twice, and keeps what was written to itself.
type optimistTx struct {
	ctx       context.Context // of the call that this is a part of
	attempt   Attempt
	footprint Footprint
	failure   error // of the store: nothing that fn says after it counts
	reads     []Read
	seen      []seen // what reads found, in their order
	writes    []Write
	space     [4]Write

	steady  *recollection // nil in a View
	guesses bool          // this is the first try
	guessed bool          // a read was not asked for
}

// seen is the value of a key, or what is in a directory.
type seen struct {
	value   []byte
	entries []Entry
}

func (tx *optimistTx) Get(key string) ([]byte, error) {
	if err := tx.footprint.Read(key); err != nil {
		return nil, err
	}
	value := []byte(nil)
	if w := tx.written(key); w != nil {
		value = w.Value
	} else {
		s, err := tx.read(key, false)
		if err != nil {
			return nil, fmt.Errorf("get %s: %w", key, err)
		}
		value = s.value
	}
	if value == nil {
		return nil, fmt.Errorf("get %s: %w", key, errdefs.ErrNotFound)
	}
	return bytes.Clone(value), nil
}

func (tx *optimistTx) Put(key string, value []byte) error {
	if err := tx.footprint.Write(key, value); err != nil {
		return err
	}
	tx.write(key, append([]byte{}, value...))
	return nil
}

func (tx *optimistTx) Delete(key string) error {
	if err := tx.footprint.Write(key, nil); err != nil {
		return err
	}
	tx.write(key, nil)
	return nil
}

func (tx *optimistTx) List(dir string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		if tx.footprint.List(dir) != nil {
			return
		}
		entries, err := tx.list(dir)
		if err != nil {
			return
		}
		for _, e := range entries {
			if !yield(e.Name, bytes.Clone(e.Value)) {
				return
			}
		}
	}
}

// list is the directory as it was read, with our own writes over it.
func (tx *optimistTx) list(dir string) ([]Entry, error) {
	s, err := tx.read(dir, true)
	if err != nil {
		return nil, err
	}
	return tx.overlay(dir, s.entries), nil
}

func (tx *optimistTx) overlay(dir string, entries []Entry) []Entry {
	entries = slices.Clone(entries)
	for _, w := range tx.writes {
		in, name := Split(w.Key)
		if in != dir {
			continue
		}
		i, found := slices.BinarySearchFunc(entries, name, func(e Entry, name string) int { return strings.Compare(e.Name, name) })
		switch {
		case found && w.Value == nil:
			entries = slices.Delete(entries, i, i+1)
		case found:
			entries[i].Value = w.Value
		case w.Value != nil:
			entries = slices.Insert(entries, i, Entry{name, w.Value})
		}
	}
	return entries
}

// read asks the store, once for each key and directory.
func (tx *optimistTx) read(name string, dir bool) (s seen, err error) {
	for i := range tx.reads {
		if tx.reads[i].Name == name && tx.reads[i].Dir == dir {
			return tx.seen[i], nil
		}
	}
	if tx.failure != nil {
		return seen{}, tx.failure
	}
	r := Read{Name: name, Dir: dir}
	switch {
	case dir:
		s.entries, r.Version, err = tx.attempt.List(tx.ctx, name)
	case tx.guess(&r, &s):
	default:
		s.value, r.Version, err = tx.attempt.Get(tx.ctx, name)
	}
	if err != nil {
		tx.failure = err
		return seen{}, err
	}
	if tx.steady != nil && !dir {
		tx.steady.found(name, s.value, r.Version)
	}
	tx.reads, tx.seen = append(tx.reads, r), append(tx.seen, s)
	return s, nil
}

// guess takes a key that seems not to change for what it was.
func (tx *optimistTx) guess(r *Read, s *seen) bool {
	if !tx.guesses {
		return false
	}
	value, version, steady := tx.steady.of(r.Name)
	if steady {
		s.value, r.Version, tx.guessed = value, version, true
	}
	return steady
}

// Presume implements Presumer.
func (tx *optimistTx) Presume(key string) {
	asked := slices.ContainsFunc(tx.reads, func(r Read) bool { return r.Name == key && !r.Dir })
	if tx.guesses && !asked && tx.footprint.Read(key) == nil {
		tx.reads, tx.seen, tx.guessed = append(tx.reads, Read{Name: key}), append(tx.seen, seen{}), true
	}
}

func (tx *optimistTx) written(key string) *Write {
	for i := range tx.writes {
		if tx.writes[i].Key == key {
			return &tx.writes[i]
		}
	}
	return nil
}

func (tx *optimistTx) write(key string, value []byte) {
	if w := tx.written(key); w != nil {
		w.Value = value
		return
	}
	if tx.writes == nil {
		tx.writes = tx.space[:0]
	}
	tx.writes = append(tx.writes, Write{key, value})
}

// finish ends the attempt in which fn returned refusal. It is done when there is an answer; else what was read is not so any more.
func (tx *optimistTx) finish(refusal error) (done bool, err error) {
	if tx.failure != nil {
		switch {
		case errors.Is(tx.failure, ErrOutdated):
			return false, nil
		case refusal != nil && errors.Is(refusal, tx.failure):
			return true, refusal
		}
		return true, tx.failure
	}
	if refusal == nil {
		refusal = tx.footprint.Err()
	}
	if refusal == nil && len(tx.writes) > 0 {
		done, err = tx.attempt.Commit(tx.ctx, tx.reads, tx.changes())
		tx.steady.outdate(tx.reads, tx.writes, done)
		return done || err != nil, err
	}
	if tx.guessed {
		return false, nil
	}
	if done, err = tx.attempt.Valid(tx.ctx, tx.reads); err != nil {
		return true, err
	}
	return done, refusal
}

func (tx *optimistTx) changes() Changes {
	c := Changes{Writes: tx.writes}
	for _, w := range tx.writes {
		if dir, _ := Split(w.Key); !slices.Contains(c.Touched, dir) {
			c.Touched = append(c.Touched, dir)
		}
	}
	for i, r := range tx.reads {
		if r.Dir && r.Version != 0 && len(tx.overlay(r.Name, tx.seen[i].entries)) == 0 {
			c.Emptied = append(c.Emptied, r.Name)
		}
	}
	return c
}
