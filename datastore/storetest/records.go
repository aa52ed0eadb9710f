package storetest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
)

func readBack(t *testing.T, a, b datastore.Store) {
	put(t, a, "d/k", "1", "d/empty", "", "top", "2")
	want(t, "through the other handle", get(t, b, "d/k"), "1")
	want(t, "a key without a directory", get(t, b, "top"), "2")
	if err := b.View(timeout(t), func(tx datastore.Tx) error {
		v, err := tx.Get("d/empty")
		if err == nil && (v == nil || len(v) != 0) {
			t.Errorf("empty value: got %v", v)
		}
		return err
	}); err != nil {
		t.Fatalf("an empty value is not an absent key: %v", err)
	}
	put(t, b, "d/k", "3")
	want(t, "replaced", get(t, a, "d/k"), "3")
	update(t, a, func(tx datastore.Tx) error { return errors.Join(tx.Delete("d/k"), tx.Delete("d/never")) })
	want(t, "deleted", get(t, b, "d/k"), "")
	err := b.View(timeout(t), func(tx datastore.Tx) error { _, err := tx.Get("d/k"); return err })
	wantKind(t, "Get of an absent key", err, errdefs.IsNotFound)
}

func listedByName(t *testing.T, a, b datastore.Store) {
	odd := datastore.Key("odd/../name")
	put(t, a, "d/b", "2", "d/a", "1", "d/a-", "3", "d/a/deep", "x", "d/a/b/deeper", "x", "d2/a", "x", "c/z", "x", "d/"+odd, "4", "top", "5")
	var got []string
	if err := b.View(timeout(t), func(tx datastore.Tx) error {
		got = nil
		for name, value := range tx.List("d") {
			got = append(got, name+"="+string(value))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wanted := []string{"a=1", "a-=3", "b=2", odd + "=4"}
	if !slices.Equal(got, wanted) {
		t.Fatalf("List: got %v, want %v", got, wanted)
	}
	wantMap(t, "a directory whose name is also a key", list(t, b, "d/a"), map[string]string{"deep": "x"})
	wantMap(t, "keys without a directory", list(t, b, ""), map[string]string{"top": "5"})
	wantMap(t, "an absent directory", list(t, b, "nothing"), map[string]string{})
	if err := b.View(timeout(t), func(tx datastore.Tx) error {
		for range tx.List("d") {
			break
		}
		return nil
	}); err != nil {
		t.Fatalf("a list that is left early: %v", err)
	}
}

func ownWritesSeen(t *testing.T, a, b datastore.Store) {
	put(t, a, "d/old", "1", "d/gone", "2", "d/kept", "3")
	update(t, a, func(tx datastore.Tx) error {
		if err := putAll(tx, "d/new", "4", "d/old", "5", "e/x", "6", "d/brief", "7"); err != nil {
			return err
		}
		if err := errors.Join(tx.Delete("d/gone"), tx.Delete("d/brief")); err != nil {
			return err
		}
		if v, err := tx.Get("d/new"); err != nil || string(v) != "4" {
			t.Errorf("Get of an own write: %q, %v", v, err)
		}
		if _, err := tx.Get("d/gone"); !errdefs.IsNotFound(err) {
			t.Errorf("Get of an own deletion: %v", err)
		}
		wantMap(t, "List over own writes", listed(tx, "d"), map[string]string{"new": "4", "old": "5", "kept": "3"})
		for name := range tx.List("d") { // deleting while listing
			if err := tx.Delete("d/" + name); err != nil {
				return err
			}
		}
		wantMap(t, "List after deleting all", listed(tx, "d"), map[string]string{})
		return tx.Put("d/last", []byte("8"))
	})
	wantMap(t, "after commit", list(t, b, "d"), map[string]string{"last": "8"})
	wantMap(t, "after commit", list(t, b, "e"), map[string]string{"x": "6"})
}

func errorDiscardsWrites(t *testing.T, a, b datastore.Store) {
	put(t, a, "d/k", "1")
	refused := errors.New("refused")
	err := a.Update(timeout(t), func(tx datastore.Tx) error {
		return errors.Join(putAll(tx, "d/k", "2", "d/new", "3"), tx.Delete("d/k"), refused)
	})
	if !errors.Is(err, refused) {
		t.Fatalf("the error of fn: got %v", err)
	}
	wantMap(t, "after an error", list(t, b, "d"), map[string]string{"k": "1"})
	if err := a.View(timeout(t), func(datastore.Tx) error { return refused }); !errors.Is(err, refused) {
		t.Fatalf("the error of a View: got %v", err)
	}
}

func panicDiscardsWrites(t *testing.T, a, b datastore.Store) {
	func() {
		defer func() { want(t, "the panic of fn", recover(), any("bug")) }()
		_ = a.Update(timeout(t), func(tx datastore.Tx) error {
			_ = tx.Put("d/k", []byte("1"))
			panic("bug")
		})
	}()
	func() {
		defer func() { want(t, "the panic of a View", recover(), any("bug")) }()
		_ = a.View(timeout(t), func(datastore.Tx) error { panic("bug") })
	}()
	wantMap(t, "after a panic", list(t, b, "d"), map[string]string{})
	put(t, a, "d/k", "2")
	want(t, "the store goes on", get(t, b, "d/k"), "2")
}

func viewDoesNotWrite(t *testing.T, a, b datastore.Store) {
	err := a.View(timeout(t), func(tx datastore.Tx) error { return tx.Put("d/k", nil) })
	wantKind(t, "Put in a View", err, errdefs.IsFailedPrecondition)
	err = a.View(timeout(t), func(tx datastore.Tx) error { _ = tx.Delete("d/k"); return nil })
	wantKind(t, "Delete in a View, its error dropped", err, errdefs.IsFailedPrecondition)
	want(t, "after", get(t, b, "d/k"), "")
}

func valuesAreCopies(t *testing.T, a, b datastore.Store) {
	update(t, a, func(tx datastore.Tx) error {
		buf := []byte("1")
		if err := tx.Put("d/k", buf); err != nil {
			return err
		}
		buf[0] = 'x'
		v, err := tx.Get("d/k")
		if err == nil {
			v[0] = 'y'
		}
		return err
	})
	var kept []byte
	if err := b.View(timeout(t), func(tx datastore.Tx) error {
		for _, v := range tx.List("d") {
			kept = v
		}
		v, err := tx.Get("d/k")
		if err == nil {
			v[0] = 'z'
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	put(t, a, "d/k", "2")
	want(t, "a value kept after its View", string(kept), "1")
	kept[0] = 'w'
	want(t, "the record", get(t, b, "d/k"), "2")
}

func badKeys(t *testing.T, a, b datastore.Store) {
	for _, key := range []string{"", "/", "/d", "d/", "d//k", ".", "..", "d/../k", "d/./k", "d k", "d/k\n", "d\x00k", "d/é", "d/%2f", "d/%4",
		"d/%41", "d/a%", "d/%zz", strings.Repeat("k", datastore.MaxKey+1)} {
		for op, do := range map[string]func(datastore.Tx) error{
			"Get":    func(tx datastore.Tx) error { _, err := tx.Get(key); return err },
			"Put":    func(tx datastore.Tx) error { return tx.Put(key, []byte("1")) },
			"Delete": func(tx datastore.Tx) error { return tx.Delete(key) },
			"List":   func(tx datastore.Tx) error { listed(tx, key); return nil },
		} {
			if op == "List" && key == "" { // the top
				continue
			}
			err := a.Update(timeout(t), func(tx datastore.Tx) error {
				if err := tx.Put("good/"+op, []byte("1")); err != nil {
					return err
				}
				return do(tx)
			})
			wantKind(t, op+" of "+key, err, errdefs.IsInvalidArgument)
		}
	}
	for batch, err := range a.Watch(timeout(t), "/d") {
		wantKind(t, "Watch of /d", err, errdefs.IsInvalidArgument)
		want(t, "its batch", len(batch.Put), 0)
	}
	wantMap(t, "nothing was written", list(t, b, "good"), map[string]string{})

	long := strings.Repeat("k", datastore.MaxKey)
	put(t, a, long, "1", datastore.Key("", ".", "..", "a/b", "é\x00"), "2")
	want(t, "the longest key", get(t, b, long), "1")
	want(t, "an escaped key", get(t, b, datastore.Key("", ".", "..", "a/b", "é\x00")), "2")
}

func maxKeys(t *testing.T, a, b datastore.Store) {
	keys := names("d", datastore.MaxKeys)
	update(t, a, func(tx datastore.Tx) error {
		for range 2 { // a key counts once
			for _, key := range keys {
				if _, err := tx.Get(key); err != nil && !errdefs.IsNotFound(err) {
					return err
				}
				if err := tx.Put(key, []byte("1")); err != nil {
					return err
				}
			}
		}
		return nil
	})
	want(t, "keys written", len(list(t, b, "d")), datastore.MaxKeys)
	for what, one := range map[string]func(datastore.Tx) error{
		"one Put more":                func(tx datastore.Tx) error { return tx.Put("d/more", []byte("2")) },
		"one Delete more":             func(tx datastore.Tx) error { return tx.Delete("d/more") },
		"one Get more":                func(tx datastore.Tx) error { _, err := tx.Get("d/more"); return err },
		"one List more":               func(tx datastore.Tx) error { listed(tx, "d"); return nil },
		"one Put more, error dropped": func(tx datastore.Tx) error { _ = tx.Put("d/more", []byte("2")); return nil },
	} {
		err := a.Update(timeout(t), func(tx datastore.Tx) error {
			for _, key := range keys {
				if err := tx.Put(key, []byte("2")); err != nil {
					return err
				}
			}
			return one(tx)
		})
		wantKind(t, what, err, errdefs.IsInvalidArgument)
		want(t, what+": nothing written", get(t, b, keys[0]), "1")
	}
	update(t, a, func(tx datastore.Tx) error { // what a list yields does not count
		want(t, "listed", len(listed(tx, "d")), datastore.MaxKeys)
		for _, key := range keys[1:] {
			if err := tx.Put(key, []byte("3")); err != nil {
				return err
			}
		}
		return nil
	})
	if err := b.View(timeout(t), func(tx datastore.Tx) error { // a View reads what it likes
		for _, key := range names("d", 5*datastore.MaxKeys) {
			if _, err := tx.Get(key); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func maxValue(t *testing.T, a, b datastore.Store) {
	largest := strings.Repeat("v", datastore.MaxValue)
	put(t, a, "d/largest", largest)
	if get(t, b, "d/largest") != largest {
		t.Fatal("the largest value came back changed")
	}
	err := a.Update(timeout(t), func(tx datastore.Tx) error { return putAll(tx, "d/small", "1", "d/larger", largest+"v") })
	wantKind(t, "a larger value", err, errdefs.IsInvalidArgument)
	want(t, "nothing written", get(t, b, "d/small"), "")
}

// The most that a transaction may touch, each key read and written in a directory of its own, and all the bytes that it may write.
func maxUpdate(t *testing.T, a, b datastore.Store) {
	value := strings.Repeat("\xff", datastore.MaxUpdate/datastore.MaxKeys)
	for _, written := range []string{"1", value} {
		update(t, a, func(tx datastore.Tx) error {
			for i := range datastore.MaxKeys {
				key := datastore.Key("dir", strconv.Itoa(i), "k")
				if _, err := tx.Get(key); err != nil && !errdefs.IsNotFound(err) {
					return err
				}
				if err := errors.Join(tx.Put(key, nil), tx.Put(key, []byte(written))); err != nil {
					return err
				}
			}
			return nil
		})
		for i := range datastore.MaxKeys {
			if get(t, b, datastore.Key("dir", strconv.Itoa(i), "k")) != written {
				t.Fatalf("the value of key %d came back changed", i)
			}
		}
	}
	largest := strings.Repeat("v", datastore.MaxValue)
	err := a.Update(timeout(t), func(tx datastore.Tx) error {
		for i := range datastore.MaxUpdate/datastore.MaxValue + 1 {
			if err := tx.Put("d/k"+strconv.Itoa(i), []byte(largest)); err != nil {
				return err
			}
		}
		return nil
	})
	wantKind(t, "more bytes", err, errdefs.IsInvalidArgument)
	wantMap(t, "nothing written", list(t, b, "d"), map[string]string{})
}

func table(t *testing.T, a, b datastore.Store) {
	type record struct{ Name string }
	tab := datastore.Table[record]{Dir: "tab/le"}
	update(t, a, func(tx datastore.Tx) error {
		return errors.Join(tab.Put(tx, "b", record{"B"}), tab.Put(tx, "a/..", record{"A"}), tab.Put(tx, "", record{"empty"}))
	})
	put(t, a, "tab/le/aa", "no JSON", "tab/le/c", `{"Name":"C","Later":1}`)
	var all []string
	if err := b.View(timeout(t), func(tx datastore.Tx) error {
		all = nil
		for r, err := range tab.All(tx) {
			if err != nil {
				wantKind(t, "All", err, errdefs.IsDataLoss)
				r.Name = "damaged"
			}
			all = append(all, r.Name)
		}
		if r, err := tab.Get(tx, "a/.."); err != nil || r.Name != "A" {
			t.Errorf("Get: %v, %v", r, err)
		}
		_, err := tab.Get(tx, "aa")
		wantKind(t, "Get of what does not parse", err, errdefs.IsDataLoss)
		_, err = tab.Get(tx, "never")
		wantKind(t, "Get of an absent record", err, errdefs.IsNotFound)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if wanted := []string{"empty", "A", "damaged", "B", "C"}; !slices.Equal(all, wanted) {
		t.Fatalf("All: got %v, want %v", all, wanted)
	}
	update(t, a, func(tx datastore.Tx) error { return tab.Delete(tx, "") })
	want(t, "records left", len(list(t, b, "tab/le")), 4)
}

func closed(t *testing.T, a, b datastore.Store) {
	ctx, cancel := context.WithCancel(timeout(t))
	defer cancel()
	watching, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		var last error
		for batch, err := range a.Watch(ctx, "d") {
			if last = err; batch.Full {
				close(watching)
			}
		}
		ended <- last
	}()
	<-watching
	for range 2 {
		if err := a.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	wantKind(t, "the watch", <-ended, errdefs.IsFailedPrecondition)
	nothing := func(datastore.Tx) error { return nil }
	wantKind(t, "Update", a.Update(ctx, nothing), errdefs.IsFailedPrecondition)
	wantKind(t, "View", a.View(ctx, nothing), errdefs.IsFailedPrecondition)
	for _, err := range a.Watch(ctx, "d") {
		wantKind(t, "Watch", err, errdefs.IsFailedPrecondition)
	}
	if b != a {
		put(t, b, "d/k", "1")
	}
}

// Who announced itself is told when its store is closed.
func presenceEndsWithStore(t *testing.T, a, _ datastore.Store) {
	p, ok := a.(datastore.Presence)
	if !ok {
		return
	}
	lost, err := p.Announce(timeout(t), "alive/host", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost:
		t.Fatal("it is lost at once")
	default:
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-lost:
	case <-time.After(limit):
		t.Error("it is not told")
	}
	_, err = p.Announce(timeout(t), "alive/host", []byte("one"))
	wantKind(t, "Announce", err, errdefs.IsFailedPrecondition)
}
