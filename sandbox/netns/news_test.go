package netns_test

import (
	"context"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/sealane/sealane/sandbox"
)

// told collects what a sequence yields until the test ends.
func told(r *room, seq func(ctx context.Context, yield func(string))) <-chan string {
	ctx, cancel := context.WithCancel(context.Background())
	news, done := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(done)
		seq(ctx, func(s string) { news <- s })
	}()
	r.Cleanup(func() {
		cancel()
		<-done
	})
	return news
}

func watched(r *room) <-chan string {
	ready := make(chan struct{})
	news := told(r, func(ctx context.Context, yield func(string)) {
		close(ready)
		for owner, err := range r.host.Watch(ctx) {
			if err != nil {
				r.Error(err)
			}
			yield(owner)
		}
	})
	<-ready
	return news
}

// next is what is told next, which must not take long.
func next(r *room, news <-chan string) string {
	r.Helper()
	select {
	case s := <-news:
		return s
	case <-time.After(time.Minute):
		r.Fatal("nothing is told")
		return ""
	}
}

// another is the next owner who is not the one told of before: what is done by hand may be told in several pieces.
func another(r *room, news <-chan string, before string) string {
	r.Helper()
	for {
		if s := next(r, news); s != before {
			return s
		}
	}
}

// Watch tells of links that others set down, take off their bridge, take addresses from or delete, by hand or with the namespace at their
// far end, and of nothing that we do: what is told next is the only thing.
func TestWatchTellsOfOthersHarmOnly(t *testing.T) {
	r := newRoom(t, 0)
	news := watched(r)
	// A socket that is not listening yet misses what happens: repeat until the first is heard.
	for heard := false; !heard; {
		r.change(r.host, "net/0", sandbox.Config{}, sandbox.Config{Links: []sandbox.Link{{Name: "sl-0", Owner: "net/0", Bridge: &sandbox.Bridge{}}}})
		r.h.Run("ip", "link", "del", "sl-0")
		select {
		case owner := <-news:
			heard = owner == "net/0"
		case <-time.After(100 * time.Millisecond):
		}
	}
	r.change(r.host, "net/1", sandbox.Config{}, bridge())
	sb, name := r.create()
	outer, _ := endpoint(2, sb.Key())
	r.change(r.host, "ep/2", sandbox.Config{}, outer)
	r.change(r.host, "ep/2", outer, sandbox.Config{})
	tunnel := sandbox.Config{Links: []sandbox.Link{{Name: "sx1", Owner: "net/2", VXLAN: &sandbox.VXLAN{VNI: 300, Port: 4789}}, {Name: "tap1", Owner: "net/2", Tap: &sandbox.Tap{}}}}
	r.change(r.host, "net/2", sandbox.Config{}, tunnel)
	r.change(r.host, "net/2", tunnel, sandbox.Config{})
	r.drain()
	r.change(r.host, "ep/2", sandbox.Config{}, outer)
	sb.Close()
	r.remove(name) // its end takes the veth with it
	if got, want := another(r, news, "net/0"), outer.Links[0].Owner; got != want {
		t.Errorf("told of %s, want %s", got, want)
	}
	third, _ := r.create()
	port, inner := endpoint(3, third.Key())
	r.change(r.host, "ep/3", sandbox.Config{}, port)
	r.change(third, "sb/3", sandbox.Config{}, inner)
	before, veth := outer.Links[0].Owner, port.Links[0]
	for _, c := range []struct {
		harm, mend []string
		want       string
	}{
		{[]string{"link", "set", veth.Name, "nomaster"}, []string{"link", "set", veth.Name, "master", bridgeName}, veth.Owner},
		{[]string{"addr", "del", "10.0.0.1/16", "dev", bridgeName}, []string{"addr", "add", "10.0.0.1/16", "dev", bridgeName}, "net/1"},
		{[]string{"link", "set", veth.Name, "down"}, []string{"link", "set", veth.Name, "up"}, veth.Owner},
		{[]string{"addr", "del", "fd00:1::1/64", "dev", bridgeName}, []string{"addr", "add", "fd00:1::1/64", "dev", bridgeName, "nodad"}, "net/1"},
	} {
		r.h.Run("ip", c.harm...)
		if got := another(r, news, before); got != c.want {
			t.Errorf("ip %v: told of %s, want %s", c.harm, got, c.want)
		}
		r.h.Run("ip", c.mend...)
		before = c.want
	}
	mark := func(owner, before string) {
		r.change(r.host, owner, sandbox.Config{}, sandbox.Config{Links: []sandbox.Link{{Name: "sl-mark", Owner: owner, Bridge: &sandbox.Bridge{}}}})
		r.h.Run("ip", "link", "del", "sl-mark")
		if got := another(r, news, before); got != owner {
			t.Errorf("told of %s, want %s", got, owner)
		}
	}
	mark("net/8", before)
	moved := bridge()
	moved.Links[0].Addrs = prefixes("10.9.0.1/16", "fd00:1::1/64")
	r.change(r.host, "net/1", bridge(), moved)
	r.change(r.host, "net/1", moved, bridge())
	r.change(r.host, "ep/3", port, sandbox.Config{})
	third.Close()
	r.drain()
	r.change(r.host, "net/1", bridge(), sandbox.Config{})
	mark("net/9", "net/8")
}

// Gone tells of paths that are unlinked and processes that exit, though they were closed long ago, and of no other.
func TestGone(t *testing.T) {
	ctx := context.Background()
	r := newRoom(t, 0)
	others := &theirs{t: t, dir: t.TempDir()}
	paths := []string{others.make(), others.make(), others.make()}
	for _, p := range append(paths, paths...) {
		if err := must(r.p.Open(ctx, sandbox.Origin{Path: p}))(t).Close(); err != nil {
			t.Fatal(err)
		}
	}
	child := exec.Command("unshare", "--net", "cat")
	stdin := must(child.StdinPipe())(t)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	key := must(r.p.Open(ctx, sandbox.Origin{PID: child.Process.Pid}))(t).Key()
	others.end(paths[0]) // before anybody asks
	news := told(r, func(ctx context.Context, yield func(string)) {
		for key := range r.p.Gone(ctx) {
			yield(key)
		}
	})
	got := []string{next(r, news)}
	if err := os.WriteFile(others.dir+"/other", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(others.dir + "/other"); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	child.Wait()
	got = append(got, next(r, news))
	others.end(paths[1])
	got = append(got, next(r, news))
	if want := []string{paths[0], key, paths[1]}; !slices.Equal(got, want) {
		t.Errorf("told of %v, want %v", got, want)
	}
	if len(news) > 0 {
		t.Errorf("told of %s, which is there", <-news)
	}
}

// A second Gone goes on where the first was stopped.
func TestGoneAgain(t *testing.T) {
	r := newRoom(t, 0)
	others := &theirs{t: t, dir: t.TempDir()}
	path := others.make()
	r.open(sandbox.Origin{Path: path})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for key := range r.p.Gone(ctx) {
		t.Errorf("told of %s", key)
	}
	others.end(path)
	for key := range r.p.Gone(context.Background()) {
		if key != path {
			t.Errorf("told of %s", key)
		}
		break
	}
}
