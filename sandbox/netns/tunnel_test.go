package netns_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/sandboxtest"
)

// Whatever somebody does to entries by hand is seen, told as the owner's, and mended from what is seen.
func TestEntriesHurtByHand(t *testing.T) {
	r := newRoom(t, 0)
	on, _ := r.create()
	want := sandboxtest.Tunnel(2)
	r.change(on, "net/1", sandbox.Config{}, want)
	r.mustBe(on, "", want)
	news := watchedIn(r, on)
	for _, c := range []string{
		"bridge fdb del 02:00:00:01:00:10 dev sx0 self",
		"bridge fdb del 02:00:00:01:00:10 dev sx0 master",
		"bridge fdb replace 02:00:00:01:00:10 dev sx0 dst 192.0.2.77 self static",
		"ip neigh del 10.1.0.17 dev br0",
		"ip neigh replace 10.1.0.17 lladdr 02:00:00:00:00:66 dev br0 nud permanent",
		"ip neigh replace 10.1.0.17 lladdr 02:00:00:01:00:11 dev br0 nud stale",
		"ip -6 neigh del fd00:1::10 dev br0",
		"ip link del sx0",
		"ip link del br0",
	} {
		r.inside(on, strings.Fields(c)...)
		if owner := next(r, news); owner != "net/1" {
			t.Fatalf("%s: told of %q", c, owner)
		}
		shares := must(on.Observe(context.Background()))(r.TB)
		if len(sandbox.Diff(shares[""], want)) == 0 {
			t.Errorf("%s: it is seen as if it were right", c)
		}
		r.change(on, "net/1", shares[""], want)
		r.mustBe(on, "", want)
		for len(news) > 0 {
			<-news
		}
	}
	r.inside(on, "bridge", "fdb", "add", "02:00:00:00:00:66", "dev", "sx0", "dst", "192.0.2.66", "self", "static")
	r.inside(on, "ip", "neigh", "add", "10.1.0.66", "lladdr", "02:00:00:00:00:66", "dev", "br0", "nud", "permanent")
	shares := must(on.Observe(context.Background()))(r.TB)
	r.change(on, "net/1", shares[""], want) // what nobody wants goes
	r.mustBe(on, "", want)
	r.change(on, "net/1", want, sandbox.Config{})
}

// What is for many or for all goes to several hosts: entries of one MAC that come and go each by itself.
func TestFloodingEntries(t *testing.T) {
	r := newRoom(t, 0)
	on, _ := r.create()
	to := func(hosts ...string) sandbox.Config {
		c := sandboxtest.Tunnel(2)
		c.Links[1].Port.Broadcast = true
		for _, via := range hosts {
			c.Links[1].Entries = append(c.Links[1].Entries, sandbox.Entry{MAC: make(net.HardwareAddr, 6), Via: netip.MustParseAddr(via)})
		}
		return c
	}
	have := sandbox.Config{}
	for _, want := range []sandbox.Config{to("192.0.2.2"), to("192.0.2.2", "192.0.2.3", "192.0.2.4"), to("192.0.2.4"), to(), to("192.0.2.5")} {
		r.change(on, "net/1", have, want)
		r.mustBe(on, "", want)
		have = want
	}
	news := watchedIn(r, on)
	for _, c := range []string{
		"bridge fdb del 00:00:00:00:00:00 dev sx0 dst 192.0.2.5 self",
		"bridge fdb append 00:00:00:00:00:00 dev sx0 dst 192.0.2.6 self",
	} {
		r.inside(on, strings.Fields(c)...)
		if owner := next(r, news); owner != "net/1" {
			t.Fatalf("%s: told of %q", c, owner)
		}
		r.settle(on, have)
		for len(news) > 0 {
			<-news
		}
	}
	r.change(on, "net/1", have, sandboxtest.Tunnel(2))
	r.mustBe(on, "", sandboxtest.Tunnel(2))
	r.change(on, "net/1", sandboxtest.Tunnel(2), sandbox.Config{})
}

func watchedIn(r *room, ns sandbox.Namespace) <-chan string {
	return told(r, func(ctx context.Context, yield func(string)) {
		for owner, err := range ns.Watch(ctx) {
			if err != nil {
				r.Error(err)
			}
			yield(owner)
		}
	})
}

// A number that somebody else's device has on the port is refused with that device's name, on the host and in another namespace of ours;
// on another port it is free. One that has just gone with its namespace is waited for.
func TestTunnelNumberTaken(t *testing.T) {
	r := newRoom(t, 0)
	want := sandboxtest.Tunnel(0)
	on, _ := r.create()
	r.h.Run("ip", "link", "add", "theirs0", "type", "vxlan", "id", "256", "dstport", "4789", "local", "192.0.2.1")
	_, err := on.Apply(t.Context(), "net/1", sandbox.Config{}, want)
	if !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "theirs0") || !strings.Contains(err.Error(), "VNI 256 on UDP port 4789") {
		t.Fatalf("beside theirs: %v", err)
	}
	r.h.Run("ip", "link", "del", "theirs0")
	r.settle(on, want)

	other, id := r.create()
	elsewhere := sandboxtest.Tunnel(0)
	if _, err = other.Apply(t.Context(), "net/2", sandbox.Config{}, elsewhere); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "sx0 of namespace") {
		t.Fatalf("twice: %v", err)
	}
	elsewhere.Links[1].VXLAN = &sandbox.VXLAN{VNI: 256, Port: 4790, Local: netip.MustParseAddr("192.0.2.1")}
	r.settle(other, elsewhere)

	if err := r.p.Remove(t.Context(), id); err != nil { // with the tunnel in it
		t.Fatal(err)
	}
	again, _ := r.create()
	r.settle(again, elsewhere)
}

// settle makes a namespace look as wanted from whatever it looks like.
func (r *room) settle(ns sandbox.Namespace, want sandbox.Config) {
	r.Helper()
	r.change(ns, "net/1", must(ns.Observe(context.Background()))(r.TB)[""], want)
	r.mustBe(ns, "", want)
}

// The whole of a thousand peers goes in and out of the kernel as it was wanted.
func TestThousandPeers(t *testing.T) {
	r := newRoom(t, 0)
	on, _ := r.create()
	want, none := sandboxtest.Tunnel(1000), sandboxtest.Tunnel(0)
	r.change(on, "net/1", sandbox.Config{}, none)
	r.change(on, "net/1", none, want)
	r.mustBe(on, "", want)
	r.change(on, "net/1", want, none)
	r.mustBe(on, "", none)
}

func BenchmarkThousandPeers(b *testing.B) {
	r := newRoom(b, 0)
	on, _ := r.create()
	want, none := sandboxtest.Tunnel(1000), sandboxtest.Tunnel(0)
	r.change(on, "net/1", sandbox.Config{}, none)
	for b.Loop() {
		r.change(on, "net/1", none, want)
		b.StopTimer()
		r.change(on, "net/1", want, none)
		b.StartTimer()
	}
}
