package dns_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/holder"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/resolver/dns"
	"github.com/sealane/sealane/sandbox"
)

var recreates = flag.Int("recreates", 100, "how often TestRecreate makes a name anew")

// The test binary is the holder, or a resolver to be killed, when it is told so.
func TestMain(m *testing.M) {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "hold":
		err = holder.Serve(3, args[1])
	case len(args) == 5 && args[0] == "victim":
		err = victimMain(args[1], args[2], args[3], args[4])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func held(t testing.TB, path string) *holder.Process {
	p := holder.NewProcess(path, "/proc/self/exe", "hold", path)
	t.Cleanup(func() { p.Close() })
	return p
}

// A question that comes while nobody is there waits in a socket that the holder has, and is answered by the next process; the holder ends with
// the last sandbox.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolver.sock")
	w := newWorld(t, func(o *dns.Options) { o.Keeper = held(t, path) })
	w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
	ns, gone := w.space(), w.space()
	view := resolver.View{Sandbox: "a", Zones: []endpoint.NetworkID{blue}}
	before := w.set(ns, view)
	w.set(gone, resolver.View{Sandbox: "b", Zones: []endpoint.NetworkID{blue}})
	for range 3 {
		if err := w.r.Close(); err != nil {
			t.Fatal(err)
		}
		answer := make(chan string)
		asked := make(chan struct{})
		go func() {
			c, err := w.inside["a"].Dial("udp", "127.0.0.11:53")
			if err != nil {
				close(asked)
				answer <- err.Error()
				return
			}
			defer c.Close()
			conn := &mdns.Conn{Conn: c}
			c.SetDeadline(time.Now().Add(time.Minute))
			err = conn.WriteMsg(question("web", mdns.TypeA))
			close(asked)
			if err == nil {
				var m *mdns.Msg
				if m, err = conn.ReadMsg(); err == nil {
					answer <- data(m)
					return
				}
			}
			answer <- err.Error()
		}()
		<-asked
		r, err := dns.New(dns.Options{Host: w.host.Path(), Etc: w.etc, Keeper: held(t, path)})
		if err != nil {
			t.Fatal(err)
		}
		w.r = r
		w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
		if after := w.set(ns, view); after[0] != before[0] {
			t.Errorf("redirects were %v and are %v", before, after)
		}
		if got := <-answer; got != "10.1.0.2" {
			t.Errorf("asked while nobody was there: %s", got)
		}
	}
	if err := w.r.Sweep(t.Context(), []sandbox.ID{"a"}); err != nil { // b was never set again
		t.Error(err)
	}
	if err := w.r.Remove(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	again, err := holder.NewProcess(path, "/proc/self/exe").Kept() // waits for its end, or finds it ended
	if err != nil || len(again) != 0 {
		t.Errorf("the holder holds %v, %v", again, err)
	}
}

// A name that is made anew with another address all the time: no answer has an address that was given up before it was asked for, and none is lost.
func TestRecreate(t *testing.T) {
	w := newWorld(t, nil)
	w.zone(blue, "blue", published("0", "other", "10.1.0.1/16"))
	w.set(w.space(), resolver.View{Sandbox: "a", Zones: []endpoint.NetworkID{blue}})
	stop, stopped := make(chan struct{}), make(chan int)
	go func() { // the load: it must be answered always
		n := 0
		defer func() { stopped <- n }()
		c, err := w.inside["a"].Dial("udp", "127.0.0.11:53")
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for conn := (&mdns.Conn{Conn: c}); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			c.SetDeadline(time.Now().Add(time.Minute))
			if err := conn.WriteMsg(question("other", mdns.TypeA)); err != nil {
				t.Error(err)
				return
			}
			if m, err := conn.ReadMsg(); err != nil || data(m) != "10.1.0.1" {
				t.Errorf("%v, %v", m, err)
				return
			}
		}
	}()
	for i := range *recreates {
		p := published(fmt.Sprint("e", i), "web", fmt.Sprintf("10.1.%d.%d/16", 1+i/200, 1+i%200))
		w.zone(blue, "blue", p)
		w.answers("a", "web", p.Addresses[0].Addr().String())
		if err := w.r.SetZone(t.Context(), blue, resolver.Change{Name: "blue", Drop: []endpoint.ID{p.ID}}); err != nil {
			t.Fatal(err)
		}
		if m := w.ask("a", "web", mdns.TypeA); len(m.Answer) != 0 {
			t.Fatalf("an address that was given up is answered: %v", m)
		}
	}
	close(stop)
	t.Logf("%d questions beside %d changes", <-stopped, 2**recreates)
}
