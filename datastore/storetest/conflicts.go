package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
)

// rounds is how often a race is tried.
const rounds = 40

var errTaken = errors.New("taken")

// oneWins accepts that the other found the place taken.
func oneWins(ran *int, err error) error {
	if err == nil {
		*ran++
	}
	if errors.Is(err, errTaken) {
		return nil
	}
	return err
}

// Two writers each see that a name is free and take it.
func skewThroughAbsentKey(t *testing.T, a, b datastore.Store) {
	for round := range rounds {
		name := datastore.Key("name", strconv.Itoa(round))
		take := func(s datastore.Store, who string) error {
			return s.Update(timeout(t), func(tx datastore.Tx) error {
				switch _, err := tx.Get(name); {
				case err == nil:
					return errTaken
				case !errdefs.IsNotFound(err):
					return err
				}
				return putAll(tx, name, who, datastore.Key("by", who, strconv.Itoa(round)), name)
			})
		}
		var first, second int
		together(t, func() error { return oneWins(&first, take(a, "first")) }, func() error { return oneWins(&second, take(b, "second")) })
		want(t, "winners", first+second, 1)
	}
}

// Two writers each find a directory empty and put a key of their own into it.
func skewThroughInsert(t *testing.T, a, b datastore.Store) {
	for round := range rounds {
		dir := datastore.Key("dir", strconv.Itoa(round))
		insert := func(s datastore.Store, who string) error {
			return s.Update(timeout(t), func(tx datastore.Tx) error {
				if len(listed(tx, dir)) > 0 {
					return errTaken
				}
				return putAll(tx, dir+"/"+who, "1")
			})
		}
		var first, second int
		together(t, func() error { return oneWins(&first, insert(a, "first")) }, func() error { return oneWins(&second, insert(b, "second")) })
		want(t, "winners", first+second, 1)
		want(t, "keys", len(list(t, a, dir)), 1)
	}
}

// Two writers each see that two are on duty and take a different one off.
func skewThroughDelete(t *testing.T, a, b datastore.Store) {
	for round := range rounds {
		dir := datastore.Key("duty", strconv.Itoa(round))
		put(t, a, dir+"/first", "1", dir+"/second", "1")
		leave := func(s datastore.Store, who string) error {
			return s.Update(timeout(t), func(tx datastore.Tx) error {
				if len(listed(tx, dir)) < 2 {
					return errTaken
				}
				return tx.Delete(dir + "/" + who)
			})
		}
		var first, second int
		together(t, func() error { return oneWins(&first, leave(a, "first")) }, func() error { return oneWins(&second, leave(b, "second")) })
		want(t, "winners", first+second, 1)
		want(t, "on duty", len(list(t, a, dir)), 1)
	}
}

// A deletes a mark that B sees, while B writes again the very bytes that A's list shows: whoever is second must see the first.
func skewThroughEqualValue(t *testing.T, a, b datastore.Store) {
	for round := range rounds {
		dir := datastore.Key("equal", strconv.Itoa(round))
		put(t, a, dir+"/x", "same", dir+"/mark", "1")
		var order [2]string
		together(t, func() error {
			return a.Update(timeout(t), func(tx datastore.Tx) error {
				_, err := tx.Get(dir + "/touched")
				order[0] = fmt.Sprint("B ", err == nil)
				listed(tx, dir)
				return tx.Delete(dir + "/mark")
			})
		}, func() error {
			return b.Update(timeout(t), func(tx datastore.Tx) error {
				_, marked := listed(tx, dir)["mark"]
				order[1] = fmt.Sprint("A ", !marked)
				return putAll(tx, dir+"/x", "same", dir+"/touched", "1")
			})
		})
		if order == [2]string{"B false", "A false"} || order == [2]string{"B true", "A true"} {
			t.Fatalf("round %d: no order of the two explains %v", round, order)
		}
	}
}

// What was listed changes before the commit, by an insert, a delete or another value.
func staleListNeverCommits(t *testing.T, a, b datastore.Store) {
	for what, change := range map[string]func(datastore.Tx) error{
		"insert": func(tx datastore.Tx) error { return tx.Put("d/new", nil) },
		"delete": func(tx datastore.Tx) error { return tx.Delete("d/old") },
		"value":  func(tx datastore.Tx) error { return tx.Put("d/old", []byte("2")) },
	} {
		update(t, a, func(tx datastore.Tx) error { return errors.Join(tx.Put("d/old", []byte("1")), tx.Delete("d/new")) })
		var seen map[string]string
		wait := func() error { return nil }
		runs, first := 0, false
		update(t, a, func(tx datastore.Tx) error {
			seen = listed(tx, "d")
			if runs++; runs == 1 {
				first, wait = meanwhile(func() error { return b.Update(timeout(t), change) })
			}
			return tx.Put("copy/"+what, []byte(fmt.Sprint(seen)))
		})
		if first {
			wantMap(t, what+": what was copied after the change", seen, list(t, b, "d"))
		}
		if err := wait(); err != nil {
			t.Fatal(err)
		}
		want(t, what+": the copy", get(t, b, "copy/"+what), fmt.Sprint(seen))
	}
}

// Two keys always change together, here between the reads of fn, which fails when it sees them differ.
func tornReadIsNeverBelieved(t *testing.T, a, b datastore.Store) {
	put(t, a, "pair/x", "0", "pair/y", "0")
	for what, run := range map[string]func(context.Context, func(datastore.Tx) error) error{"Update": a.Update, "View": a.View} {
		for round := range 5 {
			value := what + strconv.Itoa(round)
			runs, wait := 0, func() error { return nil }
			err := run(timeout(t), func(tx datastore.Tx) error {
				x, err := tx.Get("pair/x")
				if err != nil {
					return err
				}
				if runs++; runs == 1 {
					_, wait = meanwhile(func() error {
						return b.Update(timeout(t), func(tx datastore.Tx) error { return putAll(tx, "pair/x", value, "pair/y", value) })
					})
				}
				y, err := tx.Get("pair/y")
				if err == nil && string(x) != string(y) {
					err = fmt.Errorf("torn: %s and %s", x, y)
				}
				return err
			})
			if err := errors.Join(err, wait()); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			want(t, "the other's write", get(t, a, "pair/y"), value)
		}
	}
}

// A list and a key are read of one moment.
func viewIsOneMoment(t *testing.T, a, b datastore.Store) {
	put(t, a, "count", "0")
	ctx, stop := context.WithCancel(timeout(t))
	defer stop()
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := 0; ; i = (i + 1) % 10 {
			if b.Update(ctx, func(tx datastore.Tx) error {
				n := len(listed(tx, "d"))
				if n == 5 {
					for name := range tx.List("d") {
						if err := tx.Delete("d/" + name); err != nil {
							return err
						}
					}
					return tx.Put("count", []byte("0"))
				}
				return putAll(tx, "d/k"+strconv.Itoa(i), "1", "count", strconv.Itoa(n+1))
			}) != nil {
				return
			}
		}
	}()
	for range rounds {
		var count string
		var n int
		if err := a.View(timeout(t), func(tx datastore.Tx) error {
			v, err := tx.Get("count")
			count, n = string(v), len(listed(tx, "d"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		want(t, "keys listed beside their count", strconv.Itoa(n), count)
	}
	stop()
	<-written
}

// All finish, and each saw a different number of keys.
func writersOfOneDirectory(t *testing.T, a, b datastore.Store) {
	const writers = 32
	fns := make([]func() error, writers)
	for i := range fns {
		s := a
		if i%2 == 1 {
			s = b
		}
		key := datastore.Key("d", fmt.Sprintf("w%02d", i))
		fns[i] = func() error {
			return s.Update(timeout(t), func(tx datastore.Tx) error {
				return tx.Put(key, []byte(strconv.Itoa(len(listed(tx, "d")))))
			})
		}
	}
	together(t, fns...)
	seen := map[string]bool{}
	for _, n := range list(t, a, "d") {
		seen[n] = true
	}
	want(t, "different numbers seen", len(seen), writers)
}

// An Update that cannot get its turn ends with its context, one whose context has ended does nothing.
func endsWithContext(t *testing.T, a, b datastore.Store) {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	fn := func(tx datastore.Tx) error { return tx.Put("d/never", nil) }
	wantKind(t, "Update", a.Update(over, fn), errdefs.IsAborted)
	if err := a.Update(over, fn); !errors.Is(err, context.Canceled) {
		t.Fatalf("Update: the error of the context is not in %v", err)
	}
	wantKind(t, "View", a.View(over, func(datastore.Tx) error { return nil }), errdefs.IsAborted)
	wantMap(t, "nothing written", list(t, b, "d"), map[string]string{})

	inside, release := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	runs := 0
	go func() {
		first <- a.Update(timeout(t), func(tx datastore.Tx) error {
			if runs++; runs == 1 {
				close(inside)
			}
			<-release
			return tx.Put("d/first", nil)
		})
	}()
	<-inside
	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := b.Update(short, func(tx datastore.Tx) error { return tx.Put("d/second", nil) })
	if err != nil { // a store may let both in
		wantKind(t, "Update behind another", err, errdefs.IsAborted)
	}
	if d := time.Since(start); d > limit/2 {
		t.Fatalf("Update behind another ended after %v, its context after 50 ms", d)
	}
	close(release)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	_, second := list(t, b, "d")["second"]
	want(t, "the second is there if it said so", second, err == nil)
}

// What fn read changes during each of its runs.
func endsWithContextUnderConflict(t *testing.T, a, b datastore.Store) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	var waits []func() error
	start := time.Now()
	n := 0
	err := a.Update(ctx, func(tx datastore.Tx) error {
		if _, err := tx.Get("d/k"); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		n++
		value := []byte(strconv.Itoa(n))
		_, wait := meanwhile(func() error {
			return b.Update(timeout(t), func(tx datastore.Tx) error { return tx.Put("d/k", value) })
		})
		waits = append(waits, wait)
		return tx.Put("d/mine", value)
	})
	if err != nil { // nil where nobody else may write meanwhile
		wantKind(t, "Update", err, errdefs.IsAborted)
	}
	if d := time.Since(start); d > limit/2 {
		t.Fatalf("ended after %v, its context after 200 ms", d)
	}
	for _, wait := range waits {
		if err := wait(); err != nil {
			t.Fatal(err)
		}
	}
	_, mine := list(t, b, "d")["mine"]
	want(t, "written if it said so", mine, err == nil)
}

// What was the same many times is found to be another when it is, by who writes and by who refuses; and what was absent is found to be there.
func steadyKeyChanges(t *testing.T, a, b datastore.Store) {
	const often = 4
	put(t, a, "steady", "0")
	for i := range 3 {
		for range often {
			update(t, a, func(tx datastore.Tx) error {
				value, err := tx.Get("steady")
				if err == nil && string(value) != strconv.Itoa(i) {
					err = fmt.Errorf("steady is %s, want %d", value, i)
				}
				return errors.Join(err, tx.Put("copy", value))
			})
		}
		put(t, b, "steady", strconv.Itoa(i+1))
	}
	put(t, b, "there", "by b")
	update(t, a, func(tx datastore.Tx) error {
		if p, able := tx.(datastore.Presumer); able {
			p.Presume("there")
		}
		value, err := tx.Get("there")
		if errdefs.IsNotFound(err) {
			return tx.Put("there", []byte("by a"))
		}
		return errors.Join(err, tx.Put("copy", value))
	})
	want(t, "what was there", get(t, b, "there"), "by b")
	want(t, "the copy", get(t, b, "copy"), "by b")
}
