package sealane_test

import (
	"bytes"
	"flag"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/servertest"
	"github.com/sealane/sealane/sandbox"
)

var across = flag.Int("across", 10, "how many endpoints another host learns of in TestAcross")

// What one host makes, another can use as soon as the store has told it: the time from the call until both have it in their kernels is shown
// beside what the store takes from a write to its watch, in turns.
func TestAcross(t *testing.T) {
	for _, kind := range []servertest.Kind{servertest.Consul, servertest.Etcd} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			server := servertest.One(t, kind, servertest.Options{})
			fleet := newFleet(t, 2, func(int) datastore.Store { return openAt(t, server, 0, "across") })
			here, there := overlay(t, fleet[0], fleet[1], "blue")
			fleet[1].container("db", nil, there)
			fleet[0].container("first", nil, here)
			learnt := neighboursAt(t, fleet[1].dir+"/netns/"+string(there.ID()))
			echo := newEcho(t, openAt(t, server, 0, "across"), openAt(t, server, 0, "across"))
			var usable, told []time.Duration
			for i := range *across {
				told = append(told, echo.took())
				name := fmt.Sprint("web", i)
				c := fleet[0].sandbox(sandbox.Spec{Name: name})
				begin := time.Now()
				c.join(here, endpoint.Spec{Name: name})
				info, err := c.endpoints[len(c.endpoints)-1].Info(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				learnt(info.MAC)
				usable = append(usable, time.Since(begin))
			}
			t.Logf("usable %s, write to watch %s", spread(usable), spread(told))
		})
	}
}

func spread(all []time.Duration) string {
	slices.Sort(all)
	return fmt.Sprintf("%v, at the 99th percentile %v", all[len(all)/2], all[len(all)*99/100])
}

// neighboursAt returns what waits until a namespace has a neighbour with a MAC, as the kernel tells.
func neighboursAt(t *testing.T, path string) func(net.HardwareAddr) {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	news, done := make(chan netlink.NeighUpdate, 1024), make(chan struct{})
	if err := netlink.NeighSubscribeAt(ns, news, done); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(done)
		for range news { // until the kernel's side is closed
		}
	})
	return func(mac net.HardwareAddr) {
		for n := range news {
			if n.Type == unix.RTM_NEWNEIGH && n.Family == unix.AF_INET && bytes.Equal(n.HardwareAddr, mac) {
				return
			}
		}
	}
}

// echo is a key that one client of a store writes and another watches.
type echo struct {
	t     *testing.T
	store datastore.Store
	heard chan string
	count int
}

func newEcho(t *testing.T, writer, watcher datastore.Store) *echo {
	e := &echo{t: t, store: writer, heard: make(chan string, 16)}
	go func() {
		for batch, err := range watcher.Watch(t.Context(), "echo") {
			if err == nil {
				e.heard <- string(batch.Put["key"])
			}
		}
	}()
	<-e.heard // what is there at first
	return e
}

// took is how long the next write takes to be told of.
func (e *echo) took() time.Duration {
	e.t.Helper()
	e.count++
	value := fmt.Sprint(e.count)
	begin := time.Now()
	err := e.store.Update(e.t.Context(), func(tx datastore.Tx) error { return tx.Put("echo/key", []byte(value)) })
	if err != nil {
		e.t.Fatal(err)
	}
	for e.heard != nil {
		if <-e.heard == value {
			break
		}
	}
	return time.Since(begin)
}
