package datastore

import (
	"fmt"
	"iter"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"
)

// Table is a typed view of one directory. Its values are JSON without the fields that are zero, as encoding/json/v2 writes and reads it
// (a sixth of the time of version 1, which every verb would feel); unknown fields are dropped, missing ones are zero. Ids are escaped
// as segments by Key; Dir is a key already.
type Table[T any] struct{ Dir string }

// Get returns the record of id: NotFound when it is absent, DataLoss when it does not parse.
func (t Table[T]) Get(tx Tx, id string) (T, error) {
	key := t.key(id)
	value, err := tx.Get(key)
	if err != nil {
		var zero T
		return zero, err
	}
	return decode[T](key, value)
}

// Put writes the record of id.
func (t Table[T]) Put(tx Tx, id string, v T) error {
	_, err := t.put(tx, id, v)
	return err
}

func (t Table[T]) put(tx Tx, id string, v T) (text []byte, err error) {
	key := t.key(id)
	// By its address: what is given by value is copied once more.
	if text, err = json.Marshal(&v, json.OmitZeroStructFields(true), json.Deterministic(true)); err != nil {
		return nil, fmt.Errorf("put %s: %w: %w", key, errdefs.ErrInvalidArgument, err)
	}
	return text, tx.Put(key, text)
}

// Delete removes the record of id. It is nil when there is none.
func (t Table[T]) Delete(tx Tx, id string) error { return tx.Delete(t.key(id)) }

// All yields the records by id. One that does not parse is yielded with its error (DataLoss, naming the key), and the next follow.
func (t Table[T]) All(tx Tx) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for name, value := range tx.List(t.Dir) {
			if !yield(t.Decode(name, value)) {
				return
			}
		}
	}
}

// Decode reads a record that was listed in Dir: DataLoss, naming the key, when it does not parse.
func (t Table[T]) Decode(name string, value []byte) (T, error) {
	return decode[T](join(t.Dir, name), value)
}

func (t Table[T]) key(id string) string { return join(t.Dir, Key(id)) }

func decode[T any](key string, value []byte) (T, error) {
	var v T
	if err := json.Unmarshal(value, &v); err != nil {
		var zero T
		return zero, fmt.Errorf("record %s: %w: %w", key, errdefs.ErrDataLoss, err)
	}
	return v, nil
}
