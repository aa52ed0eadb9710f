package netns_test

import (
	"context"
	"testing"
	"time"

	"github.com/sealane/sealane/sandbox"
)

// A veth of the host is told with where its far end is and what it is called there.
func TestObserveTellsFarEnds(t *testing.T) {
	r := newRoom(t, 0)
	r.apply(r.host, "net/1", bridge())
	ours, _ := r.create()
	foreign := r.open(sandbox.Origin{Path: (&theirs{t: t, dir: t.TempDir()}).make()})
	in, _ := endpoint(2, ours.Key())
	out, _ := endpoint(3, foreign.Key())
	r.apply(r.host, in.Links[0].Owner, in)
	r.apply(r.host, out.Links[0].Owner, out)
	shares := must(r.host.Observe(context.Background()))(t)
	got := shares[in.Links[0].Owner].Links[0].Veth
	if want := in.Links[0].Veth; got.Space != want.Space || got.Peer != want.Peer || got.MAC.String() != want.MAC.String() {
		t.Errorf("in a namespace of ours: got %+v, want %+v", got, want)
	}
	if got := shares[out.Links[0].Owner].Links[0].Veth; got.Space != "" || got.Peer != "" {
		t.Errorf("in somebody else's: got %+v", got)
	}
}

// What we delete ourselves is not told, what somebody else deletes is.
func TestWatchTellsWhatOthersDelete(t *testing.T) {
	r := newRoom(t, 0)
	ctx, cancel := context.WithCancel(context.Background())
	told, ended := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(ended)
		for owner, err := range r.host.Watch(ctx) {
			if err != nil {
				owner = err.Error()
			}
			told <- owner
		}
	}()
	probe := func() bool { // nothing says when the watch has begun
		r.change(r.host, "probe", sandbox.Config{}, sandbox.Config{Links: []sandbox.Link{{Name: "sl-probe", Owner: "probe", Bridge: &sandbox.Bridge{}}}})
		r.h.Run("ip", "link", "del", "sl-probe")
		select {
		case got := <-told:
			return got == "probe"
		case <-time.After(100 * time.Millisecond):
			return false
		}
	}
	for end := time.Now().Add(10 * time.Second); !probe(); {
		if time.Now().After(end) {
			t.Fatal("nothing was told")
		}
	}
	for range 3 {
		sb, name := r.create()
		outer, inner := endpoint(2, sb.Key())
		r.change(r.host, "net/1", sandbox.Config{}, bridge())
		r.change(r.host, "ep/2", sandbox.Config{}, outer)
		r.change(sb, "sb/2", sandbox.Config{}, inner)
		r.change(r.host, "ep/2", outer, sandbox.Config{})
		r.remove(name)
		r.change(r.host, "net/1", bridge(), sandbox.Config{})
		r.drain()
	}
	if !probe() { // comes after all that would have been told of ours
		t.Error("something of ours was told before the probe")
	}
	cancel()
	<-ended
}
