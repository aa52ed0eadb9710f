package bolt

import (
	"bytes"
	"fmt"
	"iter"
	"strings"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"

	"github.com/sealane/sealane/datastore"
)

// tx is one transaction of bbolt. Every touch of the map is guarded, so that a panic of fn is told from one of bbolt.
type tx struct {
	store     *Store
	footprint datastore.Footprint
	bolt      *bbolt.Tx
	records   *bbolt.Bucket
	digest    uint64            // of all records, our writes included
	written   map[string][]byte // by key; nil: deleted
}

type entry struct {
	name  string
	value []byte
}

func (s *Store) begin(writable bool) (*tx, error) {
	if err := s.intact(); err != nil {
		return nil, err
	}
	t := &tx{store: s, footprint: datastore.Footprint{ReadOnly: !writable}}
	err := s.guard(func() (err error) {
		if t.bolt, err = s.db.Begin(writable); err != nil {
			return kind(err)
		}
		t.records = t.bolt.Bucket([]byte(recordsBucket))
		t.digest = t.records.Sequence()
		s.size.Store(t.bolt.Size())
		return nil
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (t *tx) Get(key string) ([]byte, error) {
	if err := t.footprint.Read(key); err != nil {
		return nil, err
	}
	var value []byte
	err := t.guard(func() error {
		k := place(key)
		stored := t.records.Get(k)
		if stored == nil {
			return absent(key)
		}
		v, ok := unseal(k, stored)
		if !ok {
			return t.damaged(key)
		}
		value = bytes.Clone(v)
		return nil
	})
	return value, err
}

// absent is the error of a key that is not there, which is asked for so often that its text is made only when somebody reads it.
type absent string

func (key absent) Error() string { return "get " + string(key) + ": " + errdefs.ErrNotFound.Error() }
func (absent) Unwrap() error     { return errdefs.ErrNotFound }

// List reads the whole directory before it yields, so that fn may write while it ranges.
func (t *tx) List(dir string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		if t.footprint.List(dir) != nil {
			return
		}
		var entries []entry
		if t.guard(func() (err error) {
			entries, err = t.list(dir)
			return err
		}) != nil {
			return
		}
		for _, e := range entries {
			if !yield(e.name, e.value) {
				return
			}
		}
	}
}

func (t *tx) list(dir string) ([]entry, error) {
	var entries []entry
	prefix := []byte(dir + "\x00")
	c := t.records.Cursor()
	for k, stored := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, stored = c.Next() {
		v, ok := unseal(k, stored)
		if !ok {
			return nil, t.damaged(strings.ReplaceAll(string(k), "\x00", "/"))
		}
		entries = append(entries, entry{string(k[len(prefix):]), bytes.Clone(v)})
	}
	return entries, nil
}

func (t *tx) Put(key string, value []byte) error {
	if err := t.footprint.Write(key, value); err != nil {
		return err
	}
	return t.guard(func() error {
		k := place(key)
		sealed := seal(k, value)
		old := t.records.Get(k)
		if bytes.Equal(old, sealed) {
			return nil
		}
		t.digest += weight(sealed) - weight(old)
		t.note(key, sealed[sealSize:])
		return t.records.Put(k, sealed)
	})
}

func (t *tx) Delete(key string) error {
	if err := t.footprint.Write(key, nil); err != nil {
		return err
	}
	return t.guard(func() error {
		k := place(key)
		old := t.records.Get(k)
		if old == nil {
			return nil
		}
		t.digest -= weight(old)
		t.note(key, nil)
		return t.records.Delete(k)
	})
}

func (t *tx) note(key string, value []byte) {
	if t.written == nil {
		t.written = make(map[string][]byte, 4)
	}
	t.written[key] = value
}

// commit writes the file. When that fails, what the file says now decides whether it happened.
func (t *tx) commit() error {
	id := t.bolt.ID()
	err := t.guard(func() error {
		if err := t.records.SetSequence(t.digest); err != nil {
			return err
		}
		return t.bolt.Commit()
	})
	if err == nil {
		return nil
	}
	err = fmt.Errorf("write store %s: %w", t.store.path, kind(err))
	visible := false
	_ = t.guard(func() error {
		now, err := t.store.db.Begin(false)
		if err == nil {
			visible = now.ID() >= id
			err = now.Rollback()
		}
		return err
	})
	if visible {
		return &datastore.Uncertain{Err: err}
	}
	return err
}

// rollback gives bbolt's locks back; after commit it does nothing.
func (t *tx) rollback() {
	_ = t.store.guard(func() error { return t.bolt.Rollback() })
}

// guard keeps an error that fn must not get past.
func (t *tx) guard(do func() error) error {
	err := t.store.guard(do)
	if err != nil && !errdefs.IsNotFound(err) {
		t.footprint.Fail(err)
	}
	return err
}

func (t *tx) damaged(key string) error {
	return &Corrupt{Path: t.store.path, Reason: fmt.Sprintf("record %s is not what was written", key)}
}

// place is where a key stands in the file: a zero byte parts the name from its directory, so that a directory is one run of keys
// whatever lies below it.
func place(key string) []byte {
	dir, name := datastore.Split(key)
	return append(append(append(make([]byte, 0, len(key)+1), dir...), 0), name...)
}
