package consul_test

import (
	"crypto/rand"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/consul"
	"github.com/sealane/sealane/datastore/storetest"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

// Who watches a directory is told what others write there that watch it too, without reading all of it; and comes to know it as it is whoever
// wrote in what order: who does not watch it, much at once, several at the same time.
func TestWatchIsToldOfChanges(t *testing.T) {
	nstest.MustNotLeak(t)
	server := servertest.One(t, servertest.Consul, servertest.Options{}).Servers[0]
	wire := storetest.NewWire(server.Host.DialContext)
	a, stranger := open(t, server, consul.Options{}), open(t, server, consul.Options{})
	c := openAt(t, []string{server.Endpoint()}, consul.Options{Dial: wire.Dial})
	const many, few = 200, 20
	size := 0 // of what does not pack well, as ids do not
	for i := range many {
		text := rand.Text() + rand.Text() + rand.Text()
		size += len(text)
		write(t, stranger, fmt.Sprint("old", i), text)
	}
	knows := []*knower{newKnower(t, a), newKnower(t, c)}
	agree := func(when string) {
		t.Helper()
		want := map[string]string{}
		err := stranger.View(t.Context(), func(tx datastore.Tx) error {
			clear(want)
			for name, value := range tx.List("d") {
				want[name] = string(value)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range knows {
			nstest.Eventually(t, when+": all is known", func() bool { return maps.Equal(k.now(), want) })
		}
	}
	agree("at first")
	wire.Received.Store(0)
	for i := range few {
		write(t, a, "new", fmt.Sprint(i))
		agree("a change")
	}
	write(t, a, "old7", "")
	agree("a deletion")
	if got := wire.Received.Load(); got > int64(2*size) {
		t.Errorf("%d bytes for %d changes: the directory was read", got, few+1)
	}
	write(t, stranger, "new", "by who does not watch")
	write(t, a, "new", "after that")
	agree("a stranger between")
	write(t, a, "large", strings.Repeat("y", 10<<10))
	write(t, a, "small", "y")
	agree("more than is told of")
	var both sync.WaitGroup
	for who, s := range map[string]datastore.Store{"a": a, "c": c, "stranger": stranger} {
		both.Go(func() {
			for i := range few {
				write(t, s, fmt.Sprint("by", who, i), "at once")
				write(t, s, "common", who)
			}
		})
	}
	both.Wait()
	agree("several at once")
	for name := range knows[0].now() {
		write(t, a, name, "")
	}
	agree("nothing left")
	write(t, a, "again", "1")
	agree("a beginning")
}

// write puts a record into the directory, or deletes it when value is empty.
func write(t *testing.T, s datastore.Store, name, value string) {
	t.Helper()
	err := s.Update(t.Context(), func(tx datastore.Tx) error {
		if value == "" {
			return tx.Delete("d/" + name)
		}
		return tx.Put("d/"+name, []byte(value))
	})
	if err != nil {
		t.Error(err)
	}
}

// knower is what a watch tells of the directory.
type knower struct {
	mu    sync.Mutex
	known map[string]string
}

func newKnower(t *testing.T, s datastore.Store) *knower {
	k := &knower{known: map[string]string{}}
	var watching sync.WaitGroup
	watching.Go(func() {
		for batch, err := range s.Watch(t.Context(), "d") {
			if err == nil {
				k.take(batch)
			}
		}
	})
	t.Cleanup(watching.Wait)
	return k
}

func (k *knower) take(b datastore.Batch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if b.Full {
		clear(k.known)
	}
	for name, value := range b.Put {
		k.known[name] = string(value)
	}
	for _, name := range b.Delete {
		delete(k.known, name)
	}
}

func (k *knower) now() map[string]string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.known)
}
