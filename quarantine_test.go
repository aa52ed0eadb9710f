package sealane_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
)

// A lost run store, with or without the root store, leaves all that runs running. It is listed as unknown, its addresses and ports stay
// taken, and deleting it leaves nothing.
func TestLostStoreLeavesWhatRuns(t *testing.T) {
	for name, lost := range map[string][]string{"run": {"run.db"}, "run and root": {"run.db", "root.db"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true, IPAM: subnets("10.1.0.0/24", "fd00:1::/64")})
			server := w.container("server", append(ports(t, "8080:80"), ports(t, "8080:80/udp")...), blue)
			neighbour := w.container("neighbour", nil, blue)
			visitor := newBound(t)
			third := w.sandbox(sandboxAt("third", visitor.path))
			third.join(blue, endpoint.Spec{Name: "third", Publish: ports(t, "8090:80")})
			fourth := w.sandbox(sandboxAt("fourth", newBound(t).path)) // nothing but its interface tells of its addresses
			fourth.join(blue, endpoint.Spec{Name: "fourth"})
			taken := []netip.Addr{server.address(false), server.address(true), neighbour.address(false), third.address(false), third.address(true),
				fourth.address(false), fourth.address(true)}
			talk := streams(t, w, server, neighbour)
			w.stop()
			for _, file := range lost {
				if err := os.Remove(filepath.Join(w.dir, file)); err != nil {
					t.Fatal(err)
				}
			}
			w.quarantined = true
			w.start()
			for _, s := range []string{string(server.ID()), string(neighbour.ID())} {
				h, err := w.Sandbox(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				if info, err := h.Info(t.Context()); err != nil || !info.Unknown {
					t.Errorf("got %+v, %v, want it listed as unknown", info, err)
				}
			}
			n, err := w.Network(t.Context(), string(blue.ID()))
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range taken {
				if e, err := n.CreateEndpoint(t.Context(), endpoint.Spec{Name: "x", Addresses: []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}}); !errdefs.IsAlreadyExists(err) {
					t.Errorf("%s: got %v, %v, want AlreadyExists", a, e, err)
				}
			}
			other := w.network(sealane.NetworkSpec{Name: "other"})
			x := w.sandbox(sandboxAt("x", newBound(t).path))
			for _, p := range []string{"8080:80", "8080:80/udp", "8090:80"} {
				e, err := other.CreateEndpoint(t.Context(), endpoint.Spec{Name: "x", Publish: ports(t, p)})
				if err != nil {
					t.Fatal(err)
				}
				if err := e.Join(t.Context(), x); !errdefs.IsAlreadyExists(err) {
					t.Errorf("port %s: got %v, want AlreadyExists", p, err)
				}
				if err := e.Delete(t.Context()); err != nil {
					t.Error(err)
				}
			}
			fresh := w.container("fresh", nil, n) // what is new talks to what is old
			if err := fresh.pings(taken[0]); err != nil {
				t.Error(err)
			}
			w.quarantined = false
			w.restart() // the next start knows them, and sweeps nothing of theirs
			nstest.EndAll(t, talk)
			all := 0
			for info, err := range w.Sandboxes(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				h, err := w.Sandbox(t.Context(), string(info.ID))
				if err == nil {
					err = h.Delete(t.Context())
				}
				if err != nil {
					t.Error(err)
				}
				all++
			}
			if all != 6 {
				t.Errorf("deleted %d sandboxes, want 6", all)
			}
			for info, err := range w.Networks(t.Context()) {
				h, herr := w.Network(t.Context(), string(info.ID))
				if err != nil || herr != nil {
					t.Fatal(err, herr)
				}
				if err := h.Delete(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if err := in(visitor.path, "ip", "link", "show", "lo"); err != nil {
				t.Error(err)
			}
			nstest.Eventually(t, "the visitor's interface is gone", func() bool { return in(visitor.path, "ip", "link", "show", "eth0") != nil })
		})
	}
}

// A lost root store costs a network its options, and nobody's traffic: its name is told by its endpoints, and that nothing leaves it by the
// firewall, for new endpoints too.
func TestLostRootStore(t *testing.T) {
	w := newWorld(t)
	quiet := w.network(sealane.NetworkSpec{Name: "quiet", Internal: true, IPAM: subnets("10.1.0.0/24")})
	server, neighbour := w.container("server", nil, quiet), w.container("neighbour", nil, quiet)
	at := server.address(false)
	server.as().Echo("80")
	talk := []*nstest.Stream{neighbour.as().Stream("udp", netip.AddrPortFrom(at, 80).String()),
		neighbour.as().Stream("tcp", netip.AddrPortFrom(at, 80).String())}
	w.stop()
	if err := os.Remove(filepath.Join(w.dir, "root.db")); err != nil {
		t.Fatal(err)
	}
	w.quarantined = true
	w.start()
	n, err := w.Network(t.Context(), "quiet")
	if err != nil {
		t.Fatal(err)
	}
	if info, err := n.Info(t.Context()); err != nil || !info.Unknown || !info.Internal || info.ID != quiet.ID() {
		t.Errorf("got %+v, %v, want the same network, unknown and internal", info, err)
	}
	if s, err := w.Sandbox(t.Context(), "server"); err != nil {
		t.Error(err)
	} else if info, err := s.Info(t.Context()); err != nil || info.Unknown {
		t.Errorf("got %+v, %v, want a sandbox that is known", info, err)
	}
	fresh := w.container("fresh", nil, n)
	if err := fresh.pings(at); err != nil {
		t.Error(err)
	}
	box, err := fresh.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := in(box.Key, "ip", "route", "get", "192.0.2.2"); err == nil {
		t.Error("a new endpoint has a way out")
	}
	w.quarantined = false
	w.restart()
	nstest.EndAll(t, talk)
	for info, err := range w.Sandboxes(t.Context()) {
		h, herr := w.Sandbox(t.Context(), string(info.ID))
		if err != nil || herr != nil {
			t.Fatal(err, herr)
		}
		if err := h.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n, err = w.Network(t.Context(), "quiet"); err == nil {
		err = n.Delete(t.Context())
	}
	if err != nil {
		t.Error(err)
	}
}
