package storetest

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/sealane/sealane/datastore"
)

// view is what a watcher knows of a directory.
type view struct {
	now   map[string]string
	fulls int
	puts  []string // names, as they came
}

// watch follows a directory until done says that it has seen enough.
func watch(t testing.TB, s datastore.Store, dir string, done func(view) bool) view {
	t.Helper()
	ctx := timeout(t)
	v := view{}
	for batch, err := range s.Watch(ctx, dir) {
		if err != nil {
			t.Fatalf("Watch %s: %v", dir, err)
		}
		if batch.Full {
			v.now = map[string]string{}
			v.fulls++
		}
		if v.now == nil {
			t.Fatalf("Watch %s: the first batch is not full", dir)
		}
		for name, value := range batch.Put {
			v.now[name] = string(value)
			v.puts = append(v.puts, name)
		}
		for _, name := range batch.Delete {
			delete(v.now, name)
		}
		if done(v) {
			return v
		}
	}
	t.Fatalf("Watch %s ended: %v; known: %v", dir, ctx.Err(), v.now)
	return v
}

func watchStartsFull(t *testing.T, a, b datastore.Store) {
	v := watch(t, b, "d", func(view) bool { return true })
	wantMap(t, "an empty directory", v.now, map[string]string{})
	put(t, a, "d/x", "1", "d/y", "2", "d/x/deep", "3", "e/z", "4")
	v = watch(t, b, "d", func(view) bool { return true })
	wantMap(t, "the first batch", v.now, map[string]string{"x": "1", "y": "2"})
}

func watchNeverSkipsTheLast(t *testing.T, a, b datastore.Store) {
	const last = 200
	put(t, a, "d/gone", "1", "d/k", "0")
	started := make(chan struct{})
	written := make(chan error, 1)
	go func() {
		<-started
		for i := 1; i <= last; i++ {
			if err := a.Update(timeout(t), func(tx datastore.Tx) error {
				if i == last/2 {
					if err := tx.Delete("d/gone"); err != nil {
						return err
					}
				}
				return putAll(tx, "d/k", strconv.Itoa(i), "d/n"+strconv.Itoa(i%7), strconv.Itoa(i))
			}); err != nil {
				written <- err
				return
			}
		}
		written <- a.Update(timeout(t), func(tx datastore.Tx) error { return tx.Delete("d/n0") })
	}()
	begun := false
	v := watch(t, b, "d", func(v view) bool {
		if !begun {
			begun = true
			close(started)
		}
		_, n0 := v.now["n0"]
		return v.now["k"] == strconv.Itoa(last) && !n0
	})
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	wantMap(t, "what the watcher knows in the end", v.now, list(t, a, "d"))
}

func watchOneDirectoryOnly(t *testing.T, a, b datastore.Store) {
	put(t, a, "d/k", "1")
	begun := false
	v := watch(t, b, "d", func(v view) bool {
		if !begun {
			begun = true
			put(t, a, "d/k/deep", "1", "d2/k", "1", "top", "1", "d/after", "1")
		}
		return v.now["after"] == "1"
	})
	wantMap(t, "known", v.now, map[string]string{"k": "1", "after": "1"})
}

// A put of the bytes that are there already neither ends a watch nor hides the next change.
func watchEqualValue(t *testing.T, a, b datastore.Store) {
	put(t, a, "d/k", "1")
	begun := false
	v := watch(t, b, "d", func(v view) bool {
		if !begun {
			begun = true
			put(t, a, "d/k", "1")
			put(t, a, "d/k", "2")
		}
		return v.now["k"] == "2"
	})
	wantMap(t, "known", v.now, map[string]string{"k": "2"})
}

func watchEndsWithContext(t *testing.T, a, b datastore.Store) {
	ctx, cancel := context.WithCancel(timeout(t))
	ended := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		for batch, err := range b.Watch(ctx, "d") {
			if err != nil {
				ended <- fmt.Errorf("yielded %w", err)
				return
			}
			if batch.Full {
				close(begun)
			}
		}
		ended <- nil
	}()
	<-begun
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(limit):
		t.Fatal("the watch goes on after its context ended")
	}
	for range b.Watch(ctx, "d") {
		t.Fatal("a watch whose context has ended yields")
	}
	put(t, a, "d/k", "1") // nobody is in the way
}

func watchByTwo(t *testing.T, a, b datastore.Store) {
	views := make([]map[string]string, 2)
	var started [2]chan struct{}
	fns := make([]func() error, 2)
	for i, s := range []datastore.Store{a, b} {
		started[i] = make(chan struct{})
		fns[i] = func() error {
			known := map[string]string{}
			begun := false
			for batch, err := range s.Watch(timeout(t), "d") {
				if err != nil {
					return err
				}
				for name, value := range batch.Put {
					known[name] = string(value)
				}
				if !begun {
					begun = true
					close(started[i])
				}
				if known["last"] == "1" {
					views[i] = maps.Clone(known)
					return nil
				}
			}
			return fmt.Errorf("watcher %d ended", i)
		}
	}
	together(t, fns[0], fns[1], func() error {
		<-started[0]
		<-started[1]
		for i := range 20 {
			if err := a.Update(timeout(t), func(tx datastore.Tx) error { return tx.Put("d/k"+strconv.Itoa(i), []byte("1")) }); err != nil {
				return err
			}
		}
		return b.Update(timeout(t), func(tx datastore.Tx) error { return tx.Put("d/last", []byte("1")) })
	})
	for _, v := range views {
		wantMap(t, "known by a watcher", v, list(t, a, "d"))
	}
}
