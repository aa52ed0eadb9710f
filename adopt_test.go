package sealane_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// loseRun ends the daemon, and its run store with all that it knew; what runs goes on.
func (h *member) loseRun() {
	h.t.Helper()
	h.die()
	h.run, h.lost = datastore.NewMemory(), true
}

// again starts a daemon in this boot. lost: it is told that a store was lost.
func (h *member) again(lost bool) {
	h.t.Helper()
	h.die()
	h.lost = lost
	h.kernel.Crash()
	if err := h.start(); err != nil {
		h.t.Fatal(err)
	}
}

// spread makes a network of the cluster with an endpoint in each kind of namespace: one of ours, one by its path, and one into which somebody
// else moves the link.
func (h *member) spread(driver, name string, addresses ...string) []endpoint.Info {
	h.t.Helper()
	ctx := h.t.Context()
	n, err := h.CreateNetwork(ctx, sealane.NetworkSpec{Name: name, Driver: driver, Scope: netdriver.Global, IPAM: ipamOf("10.9.0.0/24")})
	if err != nil {
		h.t.Fatal(err)
	}
	spec := func(kind string, i int) endpoint.Spec {
		s := endpoint.Spec{Name: kind + name}
		if len(addresses) > 0 {
			s.Addresses = []netip.Prefix{netip.MustParsePrefix(addresses[i])}
		}
		return s
	}
	path := "/run/netns/of-" + name
	h.kernel.AddNamespace(path)
	_, ours := h.boxed(sandbox.Spec{Name: "ours" + name}, spec("ours", 0), n)
	_, at := h.boxed(sandboxAt("at"+name, path), spec("at", 1), n)
	moved, err := n.CreateEndpoint(ctx, spec("moved", 2))
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.JoinForeign(ctx, n.ID(), moved.ID(), sandbox.Spec{ID: sandbox.ID(fmt.Sprintf("%064x", name)), Name: "moved" + name, Namespace: sandbox.Origin{Foreign: true}}); err != nil {
		h.t.Fatal(err)
	}
	var all []endpoint.Info
	for _, e := range append(append(ours, at...), moved) {
		all = append(all, must(e.Info(ctx)))
	}
	return all
}

// keeps says that all endpoints are here as they were, in sandboxes of which nobody knows more, and that nobody gets their addresses.
func (h *member) keeps(network string, ran []endpoint.Info) {
	h.t.Helper()
	ctx := h.t.Context()
	n := h.on(network)
	for _, r := range ran {
		if e, err := n.CreateEndpoint(ctx, endpoint.Spec{Addresses: r.Addresses}); !errdefs.IsAlreadyExists(err) {
			h.t.Errorf("the addresses of %s: %v, %v, want AlreadyExists", r.Spec.Name, e, err)
		}
		e, err := n.Endpoint(ctx, string(r.ID))
		if err != nil {
			h.t.Errorf("%s: %v", r.Spec.Name, err)
			continue
		}
		info := must(e.Info(ctx))
		s := must(h.Sandbox(ctx, string(info.Sandbox)))
		if box := must(s.Info(ctx)); !box.Unknown || !slices.Equal(info.Addresses, r.Addresses) || info.MAC.String() != r.MAC.String() {
			h.t.Errorf("%s is %+v in %+v", r.Spec.Name, info, box)
		}
		if strings.HasPrefix(r.Spec.Name, "ours") && info.Sandbox != r.Sandbox {
			h.t.Errorf("%s is in %s, was in %s", r.Spec.Name, info.Sandbox, r.Sandbox)
		}
		if err := e.Check(ctx); err != nil {
			h.t.Error(err)
		}
	}
}

// inherits waits until a host is given the address of an endpoint that is no more.
func (h *member) inherits(network string, late endpoint.Info) {
	h.t.Helper()
	nstest.Eventually(h.t, "the address of "+late.Spec.Name+" is free", func() bool {
		_, err := h.attach(network, "heir-of-"+late.Spec.Name, late.Addresses[0].Addr().String())
		return err == nil
	})
}

func peersOf(ran []endpoint.Info) (all []string) {
	for _, r := range ran {
		all = append(all, r.Spec.Name+"@192.0.2.1 "+r.Addresses[0].Addr().String())
	}
	return all
}

// A host whose run store was lost keeps its part of the cluster's networks, whatever driver they have and whoever made the namespaces; so
// does one that could not ask the cluster store, and started once more meanwhile.
func TestLostRunStoreInACluster(t *testing.T) {
	for _, driver := range []string{"overlay", "bridge"} {
		for _, away := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, store away %v", driver, away), func(t *testing.T) {
				hosts := newCluster(t, 2)
				a, b := hosts[0], hosts[1]
				ran := a.spread(driver, "blue")
				other := b.mustAttach("blue", "other")
				b.seesPeers("blue", peersOf(ran)...)
				nstest.Eventually(t, "the kernel knows the other", func() bool {
					return driver != "overlay" || strings.Contains(a.kernel.Dump(), other.MAC.String()+" 192.0.2.2")
				})
				before := a.kernel.Dump()
				a.loseRun()
				if away {
					a.link.cut()
				}
				a.again(true)
				if away {
					a.again(false)
					if _, err := a.Network(t.Context(), "blue"); !errdefs.IsUnavailable(err) {
						t.Errorf("a network that nobody can know: %v", err)
					}
					a.link.heal()
					nstest.Eventually(t, "the network is known", func() bool { _, err := a.Network(t.Context(), "blue"); return err == nil })
				}
				a.keeps("blue", ran)
				for range 2 {
					b.seesPeers("blue", peersOf(ran)...)
					nstest.Eventually(t, "the kernel is as before", func() bool { return a.kernel.Dump() == before })
					a.again(false)
				}
				if _, err := b.attach("blue", "thief", ran[1].Addresses[0].Addr().String()); !errdefs.IsAlreadyExists(err) {
					t.Errorf("the other host is given an address: %v", err)
				}
				for _, r := range ran {
					e := must(a.Endpoint(r.Network, r.ID).Info(t.Context()))
					if err := must(a.Sandbox(t.Context(), string(e.Sandbox))).Delete(t.Context()); err != nil {
						t.Error(err)
					}
				}
				b.seesPeers("blue")
				a.idle()
				if dump := a.kernel.Dump(); strings.Contains(dump, "veth") {
					t.Errorf("left over:\n%s", dump)
				}
			})
		}
	}
}

// After a power cut nothing runs: what the host had is withdrawn at once, and free for others.
func TestPowerCutFreesOverlay(t *testing.T) {
	hosts := newCluster(t, 2)
	a, b := hosts[0], hosts[1]
	ran := a.spread("overlay", "blue")
	b.mustAttach("blue", "other")
	b.seesPeers("blue", peersOf(ran)...)
	a.lost = true // as a daemon's, whose run directory is empty after a boot
	a.reboot()
	b.seesPeers("blue")
	for _, r := range ran {
		b.inherits("blue", r)
	}
}

// What others do not know of endpoints is found all the same: one that was made while the store was away, one whose address was given away by
// force meanwhile, which goes. Two networks with one subnet are told apart.
func TestLostRunStoreAndWhatNobodyWasTold(t *testing.T) {
	hosts := newCluster(t, 2)
	a, b := hosts[0], hosts[1]
	ctx := t.Context()
	blue := a.spread("overlay", "blue")
	red := a.spread("overlay", "red", "10.9.0.4/24", "10.9.0.3/24", "10.9.0.2/24") // those of blue, the other way round
	other := b.mustAttach("blue", "other")
	b.seesPeers("blue", peersOf(blue)...)
	a.link.cut()
	path := "/run/netns/late"
	a.kernel.AddNamespace(path)
	_, late := a.boxed(sandboxAt("late", path), endpoint.Spec{}, a.on("blue"))
	untold := must(late[0].Info(ctx))
	a.loseRun()
	nstest.Eventually(t, "h1 is unreachable", func() bool { return b.stateOf("h1") == "unreachable" })
	if err := must(b.on("blue").Endpoint(ctx, blue[1].Spec.Name)).Forget(ctx); err != nil {
		t.Error(err)
	}
	heir := b.mustAttach("blue", "heir", blue[1].Addresses[0].Addr().String())
	a.link.heal()
	a.again(true)
	untold.Spec.Name = string(untold.ID[:12])
	stay := []endpoint.Info{blue[0], blue[2], untold}
	a.keeps("blue", stay)
	a.keeps("red", red)
	b.seesPeers("blue", peersOf(stay)...)
	nstest.Eventually(t, "what was given up is gone", func() bool { return !strings.Contains(a.kernel.Dump(), string(blue[1].ID)) })
	a.seesPeers("blue", "other@192.0.2.2 "+other.Addresses[0].Addr().String(), "heir@192.0.2.2 "+heir.Addresses[0].Addr().String())

	a.kernel.End(path) // a container ends, and nobody says so; another one while the daemon is away
	b.seesPeers("blue", peersOf(stay[:2])...)
	b.inherits("blue", untold)
	a.die()
	a.kernel.End("/run/netns/of-red")
	a.again(false)
	b.inherits("red", red[1])
}
