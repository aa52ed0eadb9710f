package netns_test

import (
	"context"
	"slices"
	"testing"

	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/sandboxtest"
)

// A veth of the host is told with where its far end is and what it is called there, or with the addresses that it has in somebody else's
// namespace; its MAC there is the container's to change.
func TestObserveTellsFarEnds(t *testing.T) {
	r := newRoom(t, 0)
	r.apply(r.host, "net/1", bridge())
	ours, _ := r.create()
	foreign := r.open(sandbox.Origin{Path: (&theirs{t: t, dir: t.TempDir()}).make()})
	in, _ := endpoint(2, ours.Key())
	out, inside := endpoint(3, foreign.Key())
	r.apply(r.host, in.Links[0].Owner, in)
	r.apply(r.host, out.Links[0].Owner, out)
	r.apply(foreign, "sb/3", inside)
	shares := must(r.host.Observe(context.Background()))(t)
	got := shares[in.Links[0].Owner].Links[0].Veth
	if want := in.Links[0].Veth; got.Space != want.Space || got.Peer != want.Peer || got.MAC != nil {
		t.Errorf("in a namespace of ours: got %+v, want %+v", got, want)
	}
	if got := shares[out.Links[0].Owner].Links[0].Veth; got.Space != "" || got.Peer != "" || !slices.Equal(got.Addrs, inside.Links[0].Addrs) {
		t.Errorf("in somebody else's: got %+v, want addresses %v", got, inside.Links[0].Addrs)
	}
}

// So is a port of a bridge in a namespace of ours, with whose it is; whoever watches is told who lost one.
func TestPortsOfANetworkTellFarEnds(t *testing.T) {
	r := newRoom(t, 0)
	on, _ := r.create()
	ours, _ := r.create()
	foreign := r.open(sandbox.Origin{Path: (&theirs{t: t, dir: t.TempDir()}).make()})
	r.change(on, "net/1", sandbox.Config{}, sandboxtest.Tunnel(0))
	in, _ := endpoint(2, ours.Key())
	out, inside := endpoint(3, foreign.Key())
	for _, c := range []sandbox.Config{in, out} {
		c.Links[0].Master = "br0"
		r.apply(on, c.Links[0].Owner, c)
	}
	r.apply(foreign, "sb/3", inside)
	seen := map[string]*sandbox.Veth{}
	for _, l := range must(on.Observe(context.Background()))(t)[""].Links {
		seen[l.Owner] = l.Veth
	}
	if got, want := seen[in.Links[0].Owner], in.Links[0].Veth; got == nil || got.Space != want.Space || got.Peer != want.Peer {
		t.Errorf("in a namespace of ours: got %+v, want %+v", got, want)
	}
	if got := seen[out.Links[0].Owner]; got == nil || got.Space != "" || got.Peer != "" || !slices.Equal(got.Addrs, inside.Links[0].Addrs) {
		t.Errorf("in somebody else's: got %+v, want addresses %v", got, inside.Links[0].Addrs)
	}
	news := watchedIn(r, on)
	r.inside(on, "ip", "link", "del", out.Links[0].Name)
	if owner := next(r, news); owner != out.Links[0].Owner {
		t.Errorf("told of %q", owner)
	}
}
