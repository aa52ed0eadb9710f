package dns_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/resolver/dns"
	"github.com/sealane/sealane/resolver/resolvertest"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
	"golang.org/x/sys/unix"
)

// world is a host with a resolver and what a Controller would do for it.
type world struct {
	t      testing.TB
	host   *nstest.Host
	r      *dns.Resolver
	etc    string
	spaces *netns.Provider
	walls  *nftables.Opener
	inside map[sandbox.ID]*nstest.Host
	ns     map[sandbox.ID]sandbox.Namespace
	n      int
}

func newWorld(t testing.TB, change func(*dns.Options)) *world {
	t.Helper()
	w := &world{t: t, host: nstest.New(t, "host"), etc: t.TempDir(), inside: map[sandbox.ID]*nstest.Host{}, ns: map[sandbox.ID]sandbox.Namespace{}}
	var err error
	udp, tcp := netns.Kind{Domain: unix.AF_INET, Type: unix.SOCK_DGRAM}, netns.Kind{Domain: unix.AF_INET, Type: unix.SOCK_STREAM}
	netlink := netns.Kind{Domain: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_NETFILTER}
	o := netns.Options{Host: w.host.Path(), Run: t.TempDir(), Instance: "dns", Sockets: []netns.Kind{udp, tcp, netlink}}
	if w.spaces, err = netns.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.spaces.Close() })
	if w.walls, err = nftables.New(nftables.Options{Host: w.host.Path(), Socket: func(path string) (int, error) { return w.spaces.Socket(path, netlink) }}); err != nil {
		t.Fatal(err)
	}
	names := dns.Options{Host: w.host.Path(), Etc: w.etc, Stub: w.etc + "/stub", Socket: func(path string, typ int) (int, error) {
		return w.spaces.Socket(path, netns.Kind{Domain: unix.AF_INET, Type: typ})
	}}
	if change != nil {
		change(&names)
	}
	if w.r, err = dns.New(names); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.r.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// space makes a namespace, which ends with the test.
func (w *world) space() sandbox.Namespace {
	w.t.Helper()
	w.n++
	id := fmt.Sprintf("%064x", w.n)
	ns, err := w.spaces.Create(context.Background(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		ns.Close()
		w.spaces.Remove(context.Background(), id)
	})
	return ns
}

// set is Set, with the redirects applied.
func (w *world) set(ns sandbox.Namespace, v resolver.View) []firewall.Redirect {
	w.t.Helper()
	redirects, err := w.redirected(w.t.Context(), ns, v)
	if err != nil {
		w.t.Fatal(err)
	}
	return redirects
}

func (w *world) redirected(ctx context.Context, ns sandbox.Namespace, v resolver.View) ([]firewall.Redirect, error) {
	redirects, err := w.r.Set(ctx, ns, v)
	if err != nil {
		return nil, err
	}
	if w.inside[v.Sandbox] == nil {
		w.ns[v.Sandbox] = ns
		w.inside[v.Sandbox] = nstest.At(w.t, string(v.Sandbox), ns.Key())
	}
	wall, err := w.walls.Open(ctx, ns.Key())
	if err != nil {
		return nil, err
	}
	defer wall.Close()
	return redirects, wall.Apply(ctx, []firewall.Change{{Owner: "sb/" + string(v.Sandbox), Want: firewall.Terms{Redirects: redirects}}})
}

// Set lets the conformance suite have its redirects applied.
type redirecting struct {
	*dns.Resolver
	w *world
}

func (r redirecting) Set(ctx context.Context, ns sandbox.Namespace, v resolver.View) ([]firewall.Redirect, error) {
	return r.w.redirected(ctx, ns, v)
}

// Remove takes them away again: without a listener they make silence of a refusal.
func (r redirecting) Remove(ctx context.Context, id sandbox.ID) error {
	if err := r.Resolver.Remove(ctx, id); err != nil {
		return err
	}
	wall, err := r.w.walls.Open(ctx, r.w.inside[id].Path())
	if err != nil {
		return err
	}
	defer wall.Close()
	have, err := wall.Observe(ctx)
	if err != nil {
		return err
	}
	return wall.Apply(ctx, []firewall.Change{{Owner: "sb/" + string(id), Have: have["sb/"+string(id)]}})
}

// exchange asks inside a sandbox, at 127.0.0.11.
func (w *world) exchange(id sandbox.ID, network string, q *mdns.Msg) (*mdns.Msg, error) {
	c, err := w.inside[id].Dial(network, "127.0.0.11:53")
	if err != nil {
		return nil, resolvertest.ErrNoResolver
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	conn := &mdns.Conn{Conn: c, UDPSize: 65535}
	if err := conn.WriteMsg(q); err != nil {
		return nil, err
	}
	return conn.ReadMsg()
}

func question(name string, typ uint16) *mdns.Msg {
	q := new(mdns.Msg)
	return q.SetQuestion(mdns.Fqdn(name), typ)
}

// ask is exchange of a plain question by UDP that must be answered.
func (w *world) ask(id sandbox.ID, name string, typ uint16) *mdns.Msg {
	w.t.Helper()
	m, err := w.exchange(id, "udp", question(name, typ))
	if err != nil {
		w.t.Fatalf("%s %s: %v", name, mdns.TypeToString[typ], err)
	}
	return m
}

// data is the last field of each answer, sorted.
func data(m *mdns.Msg) string {
	var all []string
	for _, rr := range m.Answer {
		fields := strings.Fields(rr.String())
		all = append(all, fields[len(fields)-1])
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// lookup is resolvertest.Env.Ask.
func (w *world) lookup(id sandbox.ID, name, typ string) (answers []string, known bool, err error) {
	if typ == "PTR" {
		if name, err = mdns.ReverseAddr(name); err != nil {
			return nil, false, err
		}
	}
	m, err := w.exchange(id, "udp", question(name, mdns.StringToType[typ]))
	if err != nil {
		return nil, false, err
	}
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *mdns.A:
			answers = append(answers, rr.A.String())
		case *mdns.AAAA:
			answers = append(answers, rr.AAAA.String())
		case *mdns.PTR:
			answers = append(answers, rr.Ptr)
		}
	}
	slices.Sort(answers)
	return answers, m.Rcode == mdns.RcodeSuccess, nil
}

func TestRoom(t *testing.T) {
	resolvertest.Run(t, func(t testing.TB) resolvertest.Env {
		w := newWorld(t, nil)
		host, err := w.spaces.Open(t.Context(), sandbox.Origin{Host: true})
		if err != nil {
			t.Fatal(err)
		}
		return resolvertest.Env{Resolver: redirecting{w.r, w}, Space: w.space, Host: host, Ask: w.lookup}
	})
}

const blue = endpoint.NetworkID("b1")

func published(id, name string, addrs ...string) endpoint.Published {
	p := endpoint.Published{ID: endpoint.ID(id), Name: name}
	for _, a := range addrs {
		p.Addresses = append(p.Addresses, netip.MustParsePrefix(a))
	}
	return p
}

func (w *world) zone(id endpoint.NetworkID, name string, put ...endpoint.Published) {
	w.t.Helper()
	if err := w.r.SetZone(w.t.Context(), id, resolver.Change{Name: name, Put: put}); err != nil {
		w.t.Fatal(err)
	}
}
