package etcd_test

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/etcd"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

// A View whose revision is compacted away runs again, and a watch that missed what was compacted is told all.
func TestCompaction(t *testing.T) {
	nstest.MustNotLeak(t)
	server := servertest.One(t, servertest.Etcd, servertest.Options{}).Servers[0]
	s, raw := open(t, server, etcd.Options{}), admin(t, server, nil)
	put := func(value string) {
		t.Helper()
		if err := s.Update(t.Context(), func(tx datastore.Tx) error {
			return tx.Put("d/"+value, []byte(value))
		}); err != nil {
			t.Fatal(err)
		}
	}
	compact := func() {
		t.Helper()
		resp, err := raw.Get(t.Context(), "sealane/")
		if err == nil {
			_, err = raw.Compact(t.Context(), resp.Header.Revision)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put("1")
	runs := 0
	if err := s.View(t.Context(), func(tx datastore.Tx) error {
		runs++
		if _, err := tx.Get("d/1"); err != nil {
			return err
		}
		if runs == 1 {
			put("2")
			compact()
		}
		_, err := tx.Get("d/2")
		return err
	}); err != nil || runs != 2 {
		t.Errorf("a View whose revision went: %v after %d runs, want none after 2", err, runs)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	known, fulls := map[string]string{}, 0
	for b, err := range s.Watch(ctx, "d") {
		if err != nil && !errdefs.IsUnavailable(err) {
			t.Fatal(err)
		}
		if b.Full {
			known = map[string]string{}
			fulls++
		}
		for name, value := range b.Put {
			known[name] = string(value)
		}
		if fulls == 1 && known["3"] == "" { // it has seen 2; now it must miss some
			server.Kill()
			server.Start()
			server.WaitReady()
			put("3")
			compact()
			put("4")
		}
		if known["3"] == "3" && known["4"] == "4" {
			break
		}
	}
	if fulls < 2 {
		t.Errorf("the watch was told all %d times, want again after the gap", fulls)
	}
}
