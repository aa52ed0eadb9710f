package sealane_test

import (
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/storetest"
)

var faultStep = flag.Int("faultstep", 5, "let every n-th touch of the stores that hosts share fail; 1 is every one")

// records is what the cluster store says, but for blocks, which stay for a while, as text.
func (h *member) records() string {
	h.t.Helper()
	var lines []string
	err := h.link.Store.View(h.t.Context(), func(tx datastore.Tx) error {
		lines = nil
		for _, dir := range []string{"net", "name/net", "pool/default", "ep/" + id(1), "ep/" + id(2), "name/ep/" + id(1), "name/ep/" + id(2)} {
			for name := range tx.List(dir) {
				lines = append(lines, dir+"/"+name)
			}
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// TestClusterFaultAtEveryTouch is TestFaultAtEveryTouch for networks that hosts share: the cluster store fails too. What is published is
// what there is, and in the end nothing is left in the store.
func TestClusterFaultAtEveryTouch(t *testing.T) {
	ops := script("bridge", "")
	var want []string
	live := func(at int, crash bool) (struck int) {
		s := datastore.NewMemory()
		defer s.Close()
		h := newMember(t, "h1", addr("192.0.2.1"), s)
		if err := h.start(); err != nil {
			t.Fatal(err)
		}
		defer h.die()
		if at == 0 {
			want = h.undisturbed(ops, func() string { return h.state() + h.records() })
			return 0
		}
		struck = h.plagued(ops, at, crash, func(i int) string { return h.differs(want[i]) })
		left := storetest.Keys(t, s, "net", "name/net", "vni", "pool/default", "hostnet/h1", "block/"+id(1), "block/"+id(2), "ep/"+id(1), "ep/"+id(2), "look/h1")
		if len(left) > 0 {
			t.Fatalf("faults at touch %d, crash %v: left in the store: %v", at, crash, left)
		}
		return struck
	}
	live(0, false)
	t.Logf("%d faults tried", eachTouch(*faultStep, live))
}

// differs waits until the world is as wanted, and says what is not.
func (h *member) differs(want string) (d string) {
	const patience = time.Minute
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if d = cmp.Diff(want, h.state()+h.records()); d == "" {
			return ""
		}
		select {
		case <-deadline.C:
			return d
		case <-tick.C:
		}
	}
}
