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
	case <-time.After(5 * time.Second):
		r.Fatal("nothing is told")
		return ""
	}
}

// Watch tells of links that others delete, by hand or with the namespace at their far end, and of none that we delete: the last one told is
// the only one.
func TestWatchTellsOfOthersDeletesOnly(t *testing.T) {
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
	if got, want := next(r, news), outer.Links[0].Owner; got != want {
		t.Errorf("told of %s, want %s", got, want)
	}
	r.change(r.host, "net/1", bridge(), sandbox.Config{})
	r.change(r.host, "net/9", sandbox.Config{}, sandbox.Config{Links: []sandbox.Link{{Name: "sl-9", Owner: "net/9", Bridge: &sandbox.Bridge{}}}})
	r.h.Run("ip", "link", "del", "sl-9")
	if got := next(r, news); got != "net/9" {
		t.Errorf("told of %s, want net/9", got)
	}
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
