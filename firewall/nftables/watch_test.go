package nftables_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nstest"
)

// watch gathers what Watch yields until the test ends.
func watch(t testing.TB, f firewall.Firewall) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	told, done := make(chan string, 100), make(chan struct{})
	go func() {
		defer close(done)
		for who, err := range f.Watch(ctx) {
			if err != nil {
				t.Errorf("watch: %v", err)
			}
			told <- who
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return told
}

// tells waits for word of a change that somebody makes again and again, since nobody says when a watch has begun.
func tells(t testing.TB, told <-chan string, program string, change func()) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		change()
		select {
		case who := <-told:
			if !strings.HasPrefix(who, program+"[") {
				t.Errorf("told of %q, want %s with its process", who, program)
			}
			return
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			t.Fatal("nothing was told in a minute")
		}
	}
}

// TestWatch: somebody else's changes are told with their name, rules are put right at once, and what was flushed can be applied again.
func TestWatch(t *testing.T) {
	nstest.MustNotLeak(t)
	h := nstest.New(t, "h")
	_, f := open(t, h, "")
	told := watch(t, f)
	want := firewall.Terms{Networks: []firewall.Network{net1()}}
	all := []firewall.Change{{Owner: "net/1", Want: want}, {Owner: "ep/1", Want: port80()}}
	apply(t, f, all...)
	whole := h.Ruleset()

	tells(t, told, "nft", func() { h.Run("nft", "add", "element", "inet", "sealane", "masq", "{ ipv4 . \"x\" }") })
	if got, err := f.Observe(context.Background()); err != nil || got[""].IsZero() {
		t.Errorf("a foreign element is not observed as nobody's: %v, %v", got, err)
	}
	apply(t, f, firewall.Change{})
	if got := h.Ruleset(); got != whole {
		t.Errorf("nobody's element was not swept:\n%s", got)
	}

	tells(t, told, "nft", func() { h.Run("nft", "flush", "chain", "inet", "sealane", "forward") })
	nstest.Eventually(t, "our rules put right", func() bool { return h.Ruleset() == whole })

	tells(t, told, "nft", func() { h.Run("nft", "flush", "ruleset") })
	observed, err := f.Observe(context.Background())
	if err != nil || len(observed) != 0 {
		t.Errorf("after a flush: observed %v, %v", observed, err)
	}
	apply(t, f, all...)
	if got := h.Ruleset(); got != whole {
		t.Errorf("not built again:\n%s", got)
	}
}

func port80() firewall.Terms {
	return firewall.Terms{Ports: []firewall.Port{{Interface: "sl-1", Proto: firewall.TCP, Host: addr("0.0.0.0"), Target: addr("10.1.0.2"),
		HostPorts: firewall.Range{First: 8080, Last: 8080}, Ports: firewall.Range{First: 80, Last: 80}}}}
}

// TestFlushedUnseen: without a watch, too, a change that finds its table gone makes it again.
func TestFlushedUnseen(t *testing.T) {
	h := nstest.New(t, "h")
	_, f := open(t, h, "")
	net := firewall.Change{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{net1()}}}
	port := firewall.Change{Owner: "ep/1", Want: port80()}
	apply(t, f, net, port)
	whole := h.Ruleset()
	h.Run("nft", "flush", "ruleset")
	apply(t, f, net, port)
	if got := h.Ruleset(); got != whole {
		t.Errorf("not built again:\n%s", got)
	}
	h.Run("nft", "flush", "ruleset")
	net.Have, net.Want = net.Want, firewall.Terms{}
	port.Have, port.Want = port.Want, firewall.Terms{}
	apply(t, f, net, port)
	if got := h.Ruleset(); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
}

// TestOtherVersion: a table that was made with other rules gets ours and keeps its elements.
func TestOtherVersion(t *testing.T) {
	h := nstest.New(t, "h")
	_, f := open(t, h, "")
	all := []firewall.Change{{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{net1()}}}, {Owner: "ep/1", Want: port80()}}
	apply(t, f, all...)
	whole := h.Ruleset()
	old := strings.Replace(strings.Replace(whole, "ct status dnat accept", "", 1), "rules ", "older rules ", 1)
	h.Run("nft", "flush", "ruleset")
	h.Run("sh", "-c", "nft -f - <<'END'\n"+old+"\nEND")
	_, next := open(t, h, "")
	apply(t, next)
	if got := h.Ruleset(); got != whole {
		t.Errorf("want the rules of now:\n%s\ngot:\n%s", whole, got)
	}
	apply(t, next, all...)
	if got := h.Ruleset(); got != whole {
		t.Errorf("want the rules of now:\n%s\ngot:\n%s", whole, got)
	}
}

// TestInstances: two instances in one namespace know nothing of each other.
func TestInstances(t *testing.T) {
	h := nstest.New(t, "h")
	_, one := open(t, h, "")
	_, two := open(t, h, "other")
	change := firewall.Change{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{net1()}}}
	apply(t, one, change)
	first := h.Ruleset()
	apply(t, two, change)
	if err := two.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := h.Ruleset(); got != first {
		t.Errorf("the other instance's flush changed ours:\n%s", got)
	}
}
