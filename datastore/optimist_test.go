package datastore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/sealane/sealane/datastore"
)

// asked counts what a store in memory is asked for.
type asked struct {
	datastore.Attempt
	gets, commits int
}

func (a *asked) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	a.gets++
	return a.Attempt.Get(ctx, key)
}

func (a *asked) Commit(ctx context.Context, reads []datastore.Read, changes datastore.Changes) (bool, error) {
	a.commits++
	return a.Attempt.Commit(ctx, reads, changes)
}

// An Update asks for no key that it found the same twice, and for none that is presumed absent. When that is wrong it asks, and what it would
// have concluded is forgotten.
func TestOptimistAsksForLittle(t *testing.T) {
	store := datastore.NewMemory()
	count := &asked{Attempt: store.(datastore.Attempt)}
	o := datastore.Optimist{Begin: func(bool) datastore.Attempt { return count }}
	write := func(key, value string) {
		t.Helper()
		if err := store.Update(t.Context(), func(tx datastore.Tx) error { return tx.Put(key, []byte(value)) }); err != nil {
			t.Fatal(err)
		}
	}
	refusal := errors.New("it is odd")
	copies := func(to string) error {
		return o.Update(t.Context(), func(tx datastore.Tx) error {
			tx.(datastore.Presumer).Presume(to)
			if old, err := tx.Get(to); err == nil {
				return tx.Put("d/old", old)
			}
			v, err := tx.Get("d/from")
			if err == nil && string(v) == "odd" {
				err = refusal
			}
			return errors.Join(err, tx.Put(to, v))
		})
	}
	for _, c := range []struct {
		from, to      string // written before, if not ""; copied to
		gets, commits int
		err           error
	}{
		{"1", "d/a", 1, 1, nil},
		{"", "d/b", 1, 1, nil},
		{"", "d/c", 0, 1, nil}, // it was the same twice
		{"2", "d/d", 2, 2, nil},
		{"", "d/e", 1, 1, nil},
		{"", "d/f", 0, 1, nil},
		{"", "d/f", 1, 2, nil}, // there is one, unlike what was presumed
		{"", "d/g", 1, 1, nil},
		{"", "d/h", 1, 1, nil},
		{"odd", "d/i", 2, 1, refusal},
		{"", "d/j", 3, 0, refusal}, // a refusal by what is presumed is looked into
		{"3", "d/k", 2, 1, nil},    // and one by what is remembered
	} {
		if c.from != "" {
			write("d/from", c.from)
		}
		count.gets, count.commits = 0, 0
		if err := copies(c.to); !errors.Is(err, c.err) || count.gets != c.gets || count.commits != c.commits {
			t.Errorf("to %s: %v, %d gets, %d commits; want %v, %d, %d", c.to, err, count.gets, count.commits, c.err, c.gets, c.commits)
		}
	}
}
