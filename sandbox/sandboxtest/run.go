package sandboxtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/sealane/sealane/sandbox"
)

// Env is a room, on a host where nothing else happens, and what the suite needs to see it from outside. The host has IPv6.
type Env struct {
	Provider sandbox.Provider
	Beside   sandbox.Provider          // another instance on the same host
	Path     func() string             // makes a namespace of somebody else's
	End      func(path string)         // ends that: its last process exits
	Bad      map[string]string         // paths that lead to no network namespace, by what they are
	Links    func(key string) []string // names of all links in a namespace, whoever's, but lo; those given up and not yet gone may be left out
	AddLink  func(key, name string)    // somebody adds a link
	DelLink  func(key, name string)    // somebody deletes a link
}

// Run runs the facts that hold for every room. open is called once for each, and cleans up with t.
func Run(t *testing.T, open func(t testing.TB) Env) {
	for _, fact := range []struct {
		name string
		test func(*testing.T, Env)
	}{
		{"a namespace is made once", testCreate},
		{"a namespace has one cookie", testCookie},
		{"what is no namespace is refused", testOpenRefuses},
		{"namespaces that end are told", testGone},
		{"an attach is what it says", testAttach},
		{"what is there is not made again", testAgain},
		{"nothing wanted is tearing down", testTearDown},
		{"a name is free again after it was given up", testNameAgain},
		{"a namespace takes its links along", testRemoveTakesLinks},
		{"a share changes in place", testChange},
		{"owners are kept apart", testOwners},
		{"instances are kept apart", testInstances},
		{"a link in the way is left alone", testInTheWay},
		{"what the kernel refuses has a kind", testRefusals},
		{"an error says what was reached", testReached},
		{"what somebody deleted comes back", testRepair},
		{"a change by somebody else is told", testWatch},
	} {
		t.Run(fact.name, func(t *testing.T) { fact.test(t, open(t)) })
	}
}

// patience bounds waits for what the room does in the background.
const patience = time.Minute

func (e Env) host(t *testing.T) sandbox.Namespace {
	t.Helper()
	n, err := e.Provider.Open(t.Context(), sandbox.Origin{Host: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// create makes a namespace that is removed when the test ends.
func (e Env) create(t *testing.T) (sandbox.Namespace, string) {
	t.Helper()
	id := newID()
	n, err := e.Provider.Create(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Close()
		if err := e.Provider.Remove(context.WithoutCancel(t.Context()), id); err != nil {
			t.Error(err)
		}
	})
	return n, id
}

func newID() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// apply must succeed, and is undone when the test ends.
func apply(t *testing.T, n sandbox.Namespace, owner string, have, want sandbox.Config) sandbox.Config {
	t.Helper()
	got, err := n.Apply(t.Context(), owner, have, want)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// observe is the share of one owner.
func observe(t *testing.T, n sandbox.Namespace, owner string) sandbox.Config {
	t.Helper()
	shares, err := n.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return shares[owner]
}

// same says that a share looks as wanted; known, that only what want names is looked at, as inside a container.
func same(t *testing.T, n sandbox.Namespace, owner string, want sandbox.Config) {
	t.Helper()
	got := observe(t, n, owner)
	if n.Key() != "" {
		got = got.Within(want)
	}
	for _, s := range sandbox.Diff(got, seen(want, n.Key() == "")) {
		t.Errorf("%s in %s is not as wanted: %s", owner, title(n.Key()), s)
	}
}

// seen is what Observe can tell of a Config, on the host or elsewhere.
func seen(c sandbox.Config, host bool) sandbox.Config {
	c.Sysctls = nil
	links := make([]sandbox.Link, 0, len(c.Links))
	for _, l := range c.Links {
		if l.Announce = nil; host {
			l.Entries = nil
		}
		links = append(links, l)
	}
	c.Links = links
	return c
}

// eventually waits for what the room does in the background.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %s: not %s", patience, what)
		}
	}
}

// attached is a bridge with one endpoint, as a driver plans it.
type attached struct {
	bridge, endpoint, inside sandbox.Config
}

// attach plans bridge n with the veth number i, whose far end is eth<i> in the namespace with key space.
func attach(n, i int, space string) attached {
	b, e := byte(n), byte(i)
	bridge, mac := "br"+string(rune('0'+n)), net.HardwareAddr{2, 0x42, 10, b, 0, e + 10}
	prefix := func(host byte) []netip.Prefix {
		return []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, b, 0, host}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 7: b, 15: host}), 64),
		}
	}
	router := prefix(1)
	eth := "eth" + string(rune('0'+i))
	route := func(p netip.Prefix) sandbox.Route {
		return sandbox.Route{Dst: netip.PrefixFrom(p.Addr(), 0).Masked(), Via: p.Addr(), Link: eth, Metric: 100}
	}
	return attached{
		bridge: sandbox.Config{
			Links: []sandbox.Link{{Name: bridge, Owner: "net/" + bridge, MTU: 1400, MAC: net.HardwareAddr{2, 0x42, 10, b, 0, 1}, Addrs: router,
				Silent: true, Bridge: &sandbox.Bridge{NoSnooping: true}}},
			Routes: []sandbox.Route{{Dst: netip.MustParsePrefix("::1/128"), Link: bridge, Type: "local"}},
		},
		endpoint: sandbox.Config{Links: []sandbox.Link{{Name: "sv0000000000" + string(rune('0'+n)) + string(rune('0'+i)), Master: bridge,
			Owner: "ep/" + bridge + "-" + eth, MTU: 1400, Silent: true, Veth: &sandbox.Veth{Peer: eth, Space: space, MAC: mac}}}},
		inside: sandbox.Config{
			Links:  []sandbox.Link{{Name: eth, MTU: 1400, MAC: mac, Addrs: prefix(e + 10), Silent: true}},
			Routes: []sandbox.Route{route(router[0]), route(router[1])},
		},
	}
}

// owners of its shares.
func (a attached) network() string { return a.bridge.Links[0].Owner }
func (a attached) owner() string   { return a.endpoint.Links[0].Owner }

// make applies it and undoes it at the end of the test.
func (a attached) make(t *testing.T, host, inside sandbox.Namespace) {
	t.Helper()
	apply(t, host, a.network(), sandbox.Config{}, a.bridge)
	apply(t, host, a.owner(), sandbox.Config{}, a.endpoint)
	apply(t, inside, "sb/x", sandbox.Config{}, a.inside)
}

// undo takes it down, whatever of it is still there.
func (a attached) undo(t *testing.T, host, inside sandbox.Namespace) {
	t.Helper()
	apply(t, inside, "sb/x", a.inside, sandbox.Config{})
	apply(t, host, a.owner(), a.endpoint, sandbox.Config{})
	apply(t, host, a.network(), a.bridge, sandbox.Config{})
}
