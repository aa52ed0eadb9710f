package consul_test

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/consul"
	"github.com/sealane/sealane/datastore/storetest"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

// ways are two addresses of one server, which a store takes for two servers; each is over a wire of its own.
type ways struct {
	t     *testing.T
	store *consul.Store
	wires map[string]*way
	one   *way // asked first
	two   *way
}

type way struct {
	*storetest.Wire
	dialed atomic.Int64
	deaf   atomic.Bool // who calls waits for an answer
}

func (w *ways) dial(ctx context.Context, network, address string) (net.Conn, error) {
	way := w.wires[address]
	way.dialed.Add(1)
	if way.deaf.Load() {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return way.Dial(ctx, network, address)
}

func (w *ways) put(value string) error {
	return w.store.Update(w.t.Context(), func(tx datastore.Tx) error { return tx.Put("d/k", []byte(value)) })
}

func (w *ways) get() (value string, err error) {
	err = w.store.View(w.t.Context(), func(tx datastore.Tx) error {
		text, err := tx.Get("d/k")
		value = string(text)
		return err
	})
	return value, err
}

// reads wants the store to have the value, and to take as long as it may.
func (w *ways) reads(want string) {
	w.t.Helper()
	if got, err := w.get(); got != want || err != nil {
		w.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

func (w *ways) writes(value string) {
	w.t.Helper()
	if err := w.put(value); err != nil {
		w.t.Fatal(err)
	}
	w.reads(value)
}

// Of several servers one is asked as long as it answers, and what may have been done is not done again elsewhere.
func TestSeveralServers(t *testing.T) {
	nstest.MustNotLeak(t)
	server := servertest.One(t, servertest.Consul, servertest.Options{}).Servers[0]
	for name, show := range map[string]func(*testing.T, *ways){
		"Refused": refused, "Deaf": deaf, "Mute": mute, "LostReply": lostReply, "Watch": watch, "Presence": presence, "None": none,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			w := &ways{t: t, one: &way{}, two: &way{}}
			w.wires = map[string]*way{"one:1": w.one, "two:2": w.two}
			for _, way := range w.wires {
				way.Wire = storetest.NewWire(func(ctx context.Context, _, _ string) (net.Conn, error) {
					return server.Host.DialContext(ctx, "tcp", server.Endpoint())
				})
			}
			w.store = openAt(t, []string{"one:1", "two:2"}, consul.Options{Prefix: name, Dial: w.dial, Timeout: 4 * time.Second})
			w.writes("before")
			if w.two.dialed.Load() > 0 {
				t.Error("the second server is asked although the first one answers")
			}
			show(t, w)
		})
	}
}

// Who refuses connections certainly did nothing.
func refused(t *testing.T, w *ways) {
	w.one.Cut()
	w.writes("1")
	w.one.Mend()
	asked := w.one.dialed.Load()
	w.writes("2")
	if w.one.dialed.Load() != asked {
		t.Error("it goes back although the second server answers")
	}
	w.two.Cut()
	w.writes("3")
}

// Nor did who does not even answer a call.
func deaf(t *testing.T, w *ways) {
	w.one.Cut()
	w.one.Mend()
	w.one.deaf.Store(true)
	w.writes("1")
	w.two.Cut()
	w.one.deaf.Store(false)
	w.two.Mend()
	w.two.deaf.Store(true)
	w.reads("1")
}

// Who keeps us waiting is not waited for.
func mute(t *testing.T, w *ways) {
	w.one.Mute()
	w.reads("before")
	w.writes("1")
}

// A write whose answer is lost may have been done: it is not sent to the other one.
func lostReply(t *testing.T, w *ways) {
	w.one.Mute()
	err := w.put("1")
	if !datastore.IsUncertain(err) || !errdefs.IsUnavailable(err) {
		t.Errorf("got %v, want Uncertain of kind Unavailable", err)
	}
	if w.two.dialed.Load() > 0 {
		t.Error("the write was sent to the other server too")
	}
	w.writes("2")
}

// A watch goes on at the other server, and nobody is told that something was away.
func watch(t *testing.T, w *ways) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for b, err := range w.store.Watch(ctx, "d") {
		if err != nil {
			t.Fatal(err)
		}
		switch string(b.Put["k"]) {
		case "before":
			w.one.Cut()
			w.writes("1")
		case "1":
			w.two.Mute()
			w.one.Mend()
			w.reads("1")
			w.writes("2")
		case "2":
			return
		}
	}
}

// Who is there stays there.
func presence(t *testing.T, w *ways) {
	ctx, cancel := context.WithCancel(t.Context())
	lost, err := w.store.Announce(ctx, "alive/host", []byte("one"))
	if err != nil {
		t.Fatal(err)
	}
	w.one.Cut()
	nstest.Eventually(t, "it is renewed by the other server", func() bool { return w.two.Received.Load() > 0 })
	select {
	case <-lost:
		t.Error("lost")
	default:
	}
	cancel()
	<-lost
}

func none(t *testing.T, w *ways) {
	w.one.Cut()
	w.two.Cut()
	for _, err := range []error{w.put("1"), func() error { _, err := w.get(); return err }()} {
		if !errdefs.IsUnavailable(err) || datastore.IsUncertain(err) || !strings.Contains(err.Error(), "consul at one:1,two:2") {
			t.Errorf("got %v, want Unavailable for certain that names both", err)
		}
	}
}
