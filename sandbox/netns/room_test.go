package netns_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
)

// room is a host with a provider on it.
type room struct {
	testing.TB
	h    *nstest.Host
	p    *netns.Provider
	host sandbox.Namespace
}

// newRoom makes one that must leave nothing behind.
func newRoom(t testing.TB, ready int) *room {
	t.Helper()
	h := nstest.New(t, "h")
	nstest.MustNotLeak(t)
	h.MustReturn()
	r := &room{TB: t, h: h, p: provider(t, h, ready)}
	r.host = r.open(sandbox.Origin{Host: true})
	return r
}

func provider(t testing.TB, h *nstest.Host, ready int) *netns.Provider {
	t.Helper()
	return must(netns.New(netns.Options{Host: h.Path(), Run: runDir(t), Instance: "test", Ready: ready}))(t, closed[*netns.Provider])
}

// runDir is on a tmpfs, as run directories are.
func runDir(t testing.TB) string {
	t.Helper()
	dir := must(os.MkdirTemp("/dev/shm", "netns"))(t)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func closed[C interface{ Close() error }](t testing.TB, c C) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// must gives a value, or fails the test; what is in use until the test ends is handed on.
func must[T any](v T, err error) func(testing.TB, ...func(testing.TB, T)) T {
	return func(t testing.TB, until ...func(testing.TB, T)) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range until {
			f(t, v)
		}
		return v
	}
}

func (r *room) open(o sandbox.Origin) sandbox.Namespace {
	r.Helper()
	return must(r.p.Open(context.Background(), o))(r.TB, closed[sandbox.Namespace])
}

// create makes a namespace that is removed when the test ends.
func (r *room) create() (sandbox.Namespace, string) {
	r.Helper()
	name := id()
	ns := must(r.p.Create(context.Background(), name))(r.TB, closed[sandbox.Namespace])
	r.Cleanup(func() { r.remove(name) })
	return ns, name
}

func (r *room) remove(id string) {
	r.Helper()
	if err := r.p.Remove(context.Background(), id); err != nil {
		r.Error(err)
	}
}

// apply makes want of nothing and takes it back when the test ends.
func (r *room) apply(ns sandbox.Namespace, owner string, want sandbox.Config) {
	r.Helper()
	r.change(ns, owner, sandbox.Config{}, want)
	r.Cleanup(func() { r.change(ns, owner, want, sandbox.Config{}) })
}

func (r *room) change(ns sandbox.Namespace, owner string, have, want sandbox.Config) {
	r.Helper()
	if _, err := ns.Apply(context.Background(), owner, have, want); err != nil {
		r.Fatal(err)
	}
}

// mustBe fails unless what is observed of an owner is as wanted.
func (r *room) mustBe(ns sandbox.Namespace, owner string, want sandbox.Config) {
	r.Helper()
	shares := must(ns.Observe(context.Background()))(r.TB)
	if steps := sandbox.Diff(shares[owner], observable(want)); len(steps) > 0 {
		r.Errorf("%s is not as wanted: %v\nobserved %+v", owner, steps, shares)
	}
}

// observable is c without what Observe does not tell.
func observable(c sandbox.Config) sandbox.Config {
	c.Sysctls = nil
	return c
}

func (r *room) drain() {
	r.Helper()
	if err := r.p.Drain(context.Background()); err != nil {
		r.Error(err)
	}
}

func id() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func prefixes(s ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range s {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// inside runs a program in a namespace.
func (r *room) inside(ns sandbox.Namespace, args ...string) string {
	r.Helper()
	return r.h.Run("nsenter", append([]string{"--net=" + ns.Key()}, args...)...)
}

const bridgeName = "sl-0123456789ab"

func bridge() sandbox.Config {
	return sandbox.Config{Links: []sandbox.Link{{
		Name: bridgeName, Owner: "net/1", MTU: 1500, MAC: net.HardwareAddr{2, 0x42, 10, 0, 0, 1}, Silent: true,
		Bridge: &sandbox.Bridge{NoSnooping: true}, Addrs: prefixes("10.0.0.1/16", "fd00:1::1/64"),
	}}}
}

// endpoint is the nth on the bridge: the host's share and the sandbox's.
func endpoint(n int, space string) (host, inside sandbox.Config) {
	mac := net.HardwareAddr{2, 0x42, 10, 0, byte(n >> 8), byte(n)}
	nonce := hex.EncodeToString([]byte{0, 0, 0, 0, byte(n >> 8), byte(n)})
	host = sandbox.Config{Links: []sandbox.Link{{
		Name: "sv" + nonce, Master: bridgeName, Owner: "ep/" + nonce, MTU: 1500, Silent: true, Veth: &sandbox.Veth{Peer: "eth0", Space: space, MAC: mac},
	}}}
	a6 := netip.MustParseAddr("fd00:1::").As16()
	a6[14], a6[15] = byte(n>>8), byte(n)
	a4 := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
	inside = sandbox.Config{
		Links: []sandbox.Link{{Name: "eth0", MAC: mac, MTU: 1500, Silent: true, Addrs: []netip.Prefix{netip.PrefixFrom(a4, 16), netip.PrefixFrom(netip.AddrFrom16(a6), 64)}}},
		Routes: []sandbox.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1"), Link: "eth0"},
			{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00:1::1"), Link: "eth0"},
		},
	}
	return host, inside
}
