package sealane_test

import (
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/storetest"
)

var faultStep = flag.Int("faultstep", 10, "let every n-th touch of the stores that hosts share fail; 1 is every one")

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

func newSharedMachine(t *testing.T, s datastore.Store) *member {
	h := newMember(t, "h1", addr("192.0.2.1"), s)
	if err := h.start(); err != nil {
		t.Fatal(err)
	}
	return h
}

// TestClusterFaultAtEveryTouch is TestFaultAtEveryTouch for networks that hosts share: the cluster store fails too. What is published is
// what there is, and in the end nothing is left in the store.
func TestClusterFaultAtEveryTouch(t *testing.T) {
	ops := script("bridge", "")
	want, touches := []string{}, []int{}
	h := newSharedMachine(t, datastore.NewMemory())
	for _, o := range ops {
		h.arm(true)
		if err := call(o, h.machine); err != nil {
			t.Fatalf("%s: %v", o.name, err)
		}
		touches = append(touches, h.arm(false))
		want = append(want, h.state()+h.records())
	}
	h.die()
	for i, o := range ops {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()                // most of it is waiting
			ops := script("bridge", "") // whose calls belong to one
			tried := 0
			for at := 1 + i%*faultStep; at <= touches[i]; at += *faultStep {
				for _, crash := range []bool{false, true} {
					tried++
					if !trySharedFault(t, ops, want, i, at, crash) {
						t.Fatalf("fault at touch %d of %d, crash %v", at, touches[i], crash)
					}
				}
			}
			t.Logf("%d faults tried", tried)
		})
	}
}

func trySharedFault(t *testing.T, ops []op, want []string, i, at int, crash bool) bool {
	s := datastore.NewMemory()
	h := newSharedMachine(t, s)
	defer func() { h.die(); s.Close() }()
	for _, o := range ops[:i] {
		if err := call(o, h.machine); err != nil {
			t.Errorf("%s: %v", o.name, err)
			return false
		}
	}
	h.mu.Lock() // the background touches too
	h.failAt, h.crash = at, crash
	h.mu.Unlock()
	h.arm(true)
	first := call(ops[i], h.machine)
	h.arm(false)
	if crash || ops[i].name == "restart" {
		h.restart()
	}
	again := call(ops[i], h.machine)
	switch name := ops[i].name; {
	case again == nil, strings.HasPrefix(name, "delete") && errdefs.IsNotFound(again), strings.HasPrefix(name, "leave") && errdefs.IsFailedPrecondition(again):
	case errdefs.IsAlreadyExists(again) && strings.Contains(again.Error(), "taken by"):
	default:
		t.Errorf("%s: first %v, then %v", name, first, again)
		return false
	}
	if d := h.differs(want[i]); d != "" {
		t.Errorf("%s: first %v, then %v: state (-want +got):\n%s", ops[i].name, first, again, d)
		return false
	}
	for _, o := range ops[i+1:] {
		if err := call(o, h.machine); err != nil {
			t.Errorf("%s, later %s: %v", ops[i].name, o.name, err)
			return false
		}
	}
	if d := h.differs(want[len(want)-1]); d != "" {
		t.Errorf("%s: at the end (-want +got):\n%s", ops[i].name, d)
		return false
	}
	left := storetest.Keys(t, s, "net", "name/net", "vni", "pool/default", "hostnet/h1", "block/"+id(1), "block/"+id(2), "ep/"+id(1), "ep/"+id(2), "look/h1")
	if len(left) > 0 {
		t.Errorf("%s: left in the store: %v", ops[i].name, left)
	}
	return len(left) == 0
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
