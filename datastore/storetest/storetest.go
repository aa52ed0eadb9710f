// Package storetest holds the facts that every datastore.Store must show.
package storetest

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
)

// Open returns two handles on the same data, which is empty. They may be one handle where a store has a single user. It registers
// its own cleanup.
type Open func(t testing.TB) (a, b datastore.Store)

// Run shows each fact on a store of its own.
func Run(t *testing.T, open Open) {
	for _, fact := range []struct {
		name string
		show func(*testing.T, datastore.Store, datastore.Store)
	}{
		{"ReadBack", readBack},
		{"ListedByName", listedByName},
		{"OwnWritesSeen", ownWritesSeen},
		{"ErrorDiscardsWrites", errorDiscardsWrites},
		{"PanicDiscardsWrites", panicDiscardsWrites},
		{"ViewDoesNotWrite", viewDoesNotWrite},
		{"ValuesAreCopies", valuesAreCopies},
		{"BadKeys", badKeys},
		{"MaxKeys", maxKeys},
		{"MaxValue", maxValue},
		{"MaxUpdate", maxUpdate},
		{"Table", table},

		{"SkewThroughAbsentKey", skewThroughAbsentKey},
		{"SkewThroughInsert", skewThroughInsert},
		{"SkewThroughDelete", skewThroughDelete},
		{"SkewThroughEqualValue", skewThroughEqualValue},
		{"StaleListNeverCommits", staleListNeverCommits},
		{"TornReadIsNeverBelieved", tornReadIsNeverBelieved},
		{"SteadyKeyChanges", steadyKeyChanges},
		{"ViewIsOneMoment", viewIsOneMoment},
		{"WritersOfOneDirectory", writersOfOneDirectory},
		{"EndsWithContext", endsWithContext},
		{"EndsWithContextUnderConflict", endsWithContextUnderConflict},

		{"WatchStartsFull", watchStartsFull},
		{"WatchNeverSkipsTheLast", watchNeverSkipsTheLast},
		{"WatchOneDirectoryOnly", watchOneDirectoryOnly},
		{"WatchEqualValue", watchEqualValue},
		{"WatchEndsWithContext", watchEndsWithContext},
		{"WatchByTwo", watchByTwo},
		{"Close", closed},
		{"PresenceEndsWithStore", presenceEndsWithStore},
	} {
		t.Run(fact.name, func(t *testing.T) {
			a, b := open(t)
			fact.show(t, a, b)
		})
	}
}

// limit bounds every wait of the suite: what takes longer hangs.
const limit = 30 * time.Second

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func update(t testing.TB, s datastore.Store, fn func(datastore.Tx) error) {
	t.Helper()
	if err := s.Update(timeout(t), fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func put(t testing.TB, s datastore.Store, pairs ...string) {
	t.Helper()
	update(t, s, func(tx datastore.Tx) error { return putAll(tx, pairs...) })
}

func putAll(tx datastore.Tx, pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if err := tx.Put(pairs[i], []byte(pairs[i+1])); err != nil {
			return err
		}
	}
	return nil
}

// get returns "" for an absent key.
func get(t testing.TB, s datastore.Store, key string) string {
	t.Helper()
	var value []byte
	err := s.View(timeout(t), func(tx datastore.Tx) (err error) {
		value, err = tx.Get(key)
		return err
	})
	if err != nil && !errdefs.IsNotFound(err) {
		t.Fatalf("Get %s: %v", key, err)
	}
	return string(value)
}

func list(t testing.TB, s datastore.Store, dir string) map[string]string {
	t.Helper()
	var m map[string]string
	if err := s.View(timeout(t), func(tx datastore.Tx) error {
		m = listed(tx, dir)
		return nil
	}); err != nil {
		t.Fatalf("List %s: %v", dir, err)
	}
	return m
}

// Keys are what directories of a store have at one moment, as directory/name: a test says by them what is left over.
func Keys(t testing.TB, s datastore.Store, dirs ...string) (all []string) {
	t.Helper()
	if err := s.View(timeout(t), func(tx datastore.Tx) error {
		all = nil
		for _, dir := range dirs {
			for name := range tx.List(dir) {
				all = append(all, dir+"/"+name)
			}
		}
		return nil
	}); err != nil {
		t.Fatalf("List %s: %v", dirs, err)
	}
	return all
}

func listed(tx datastore.Tx, dir string) map[string]string {
	m := map[string]string{}
	for name, value := range tx.List(dir) {
		m[name] = string(value)
	}
	return m
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func wantMap(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func wantKind(t testing.TB, what string, err error, is func(error) bool) {
	t.Helper()
	if err == nil || !is(err) {
		t.Fatalf("%s: got error %v of another kind", what, err)
	}
}

func names(dir string, n int) []string {
	var keys []string
	for i := range n {
		keys = append(keys, datastore.Key(dir, "k"+strconv.Itoa(i)))
	}
	return keys
}

// meanwhile runs fn in another goroutine and waits for it, as long as a store may need that lets nobody else write while an Update
// runs: there fn ends after the caller, and finished is false. wait returns its error.
func meanwhile(fn func() error) (finished bool, wait func() error) {
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = fn()
	}()
	select {
	case <-done:
		finished = true
	case <-time.After(20 * time.Millisecond):
	}
	return finished, func() error { <-done; return err }
}

// together runs the functions at once and reports their errors.
func together(t testing.TB, fns ...func() error) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, len(fns))
	for i, fn := range fns {
		wg.Go(func() { errs[i] = fn() })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
