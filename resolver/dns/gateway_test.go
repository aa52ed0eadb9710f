package dns_test

import (
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	mdns "github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/holder"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/resolver/dns"
	"github.com/sealane/sealane/sandbox"
)

// lan is a machine on a link of the host's that has the gateway addresses.
func (w *world) lan(link string, gateways ...string) *nstest.Host {
	w.t.Helper()
	m := nstest.New(w.t, link)
	w.host.Run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", m.Path())
	for i, g := range gateways {
		p := netip.MustParsePrefix(g)
		w.host.Run("ip", "address", "add", g, "dev", link, "nodad")
		m.Run("ip", "address", "add", netip.PrefixFrom(p.Addr().Next(), p.Bits()).String(), "dev", "eth0", "nodad")
		if i == 0 {
			m.Run("ip", "link", "set", "eth0", "up")
			w.host.Run("ip", "link", "set", link, "up")
			m.Run("ip", "route", "add", "default", "via", p.Addr().String())
		}
	}
	return m
}

func (w *world) hostSpace() sandbox.Namespace {
	w.t.Helper()
	ns, err := w.spaces.Open(w.t.Context(), sandbox.Origin{Host: true})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ns.Close() })
	return ns
}

// asks asks a server from somewhere.
func asks(from *nstest.Host, network, at string, q *mdns.Msg) string {
	c, err := from.Dial(network, at)
	if err != nil {
		return "nobody"
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	conn := &mdns.Conn{Conn: c}
	if err := conn.WriteMsg(q); err != nil {
		return "nobody"
	}
	m, err := conn.ReadMsg()
	switch {
	case err != nil:
		return "nobody"
	case m.Rcode != mdns.RcodeSuccess:
		return mdns.RcodeToString[m.Rcode]
	}
	return data(m)
}

// Who is on a network asks about it at its gateway, in both families and both ways; who is not does not reach it there.
func TestGateway(t *testing.T) {
	w := newWorld(t, nil)
	host := w.hostSpace()
	member, stranger := w.lan("sl-b1", "10.1.0.1/24", "fd01::1/64"), w.lan("sl-9e", "10.2.0.1/24")
	w.zone(blue, "blue", endpoint.Published{ID: "e1", Name: "e1", Aliases: []string{"web", "www"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24")}})
	w.zone("9e", "green", published("2", "db", "10.2.0.2/24"))
	at := resolver.Gateway{Network: blue, Link: "sl-b1", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd01::1")}}
	set := func() {
		t.Helper()
		if err := w.r.SetGateway(t.Context(), host, at); err != nil {
			t.Fatal(err)
		}
	}
	says := func(from *nstest.Host, network, at, name string, typ uint16, want string) {
		t.Helper()
		if got := asks(from, network, at, question(name, typ)); got != want {
			t.Errorf("%s of %s over %s: %s, want %s", name, at, network, got, want)
		}
	}
	for range 2 { // repeated
		set()
		says(member, "udp", "10.1.0.1:53", "web", mdns.TypeA, "10.1.0.2")
		says(member, "tcp", "10.1.0.1:53", "www.blue", mdns.TypeA, "10.1.0.2")
		says(member, "udp", "[fd01::1]:53", "web", mdns.TypeA, "10.1.0.2")
		says(member, "udp", "10.1.0.1:53", "2.0.1.10.in-addr.arpa", mdns.TypePTR, "web.blue.")
		says(member, "udp", "10.1.0.1:53", "db", mdns.TypeA, "NXDOMAIN") // another network's
		says(stranger, "udp", "10.1.0.1:53", "web", mdns.TypeA, "nobody")
		says(stranger, "tcp", "10.1.0.1:53", "web", mdns.TypeA, "nobody")
		says(w.host, "udp", "10.1.0.1:53", "web", mdns.TypeA, "10.1.0.2")
	}
	w.host.Run("ip", "link", "del", "sl-b1") // and made anew
	if err := w.r.SetGateway(t.Context(), host, at); !errdefs.IsNotFound(err) {
		t.Errorf("without the link: %v", err)
	}
	member = w.lan("sl-b1", "10.1.0.1/24", "fd01::1/64")
	set()
	says(member, "udp", "10.1.0.1:53", "web", mdns.TypeA, "10.1.0.2")
	at.Addrs = at.Addrs[:1]
	set()
	says(member, "udp", "[fd01::1]:53", "web", mdns.TypeA, "nobody")
	at.Addrs = nil
	set()
	says(member, "udp", "10.1.0.1:53", "web", mdns.TypeA, "nobody")
	w.host.ListenPacket("udp", "10.1.0.1:53")
	at.Addrs = []netip.Addr{netip.MustParseAddr("10.1.0.1")}
	if err := w.r.SetGateway(t.Context(), host, at); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("where another server is: %v", err)
	}
}

// What the network does not know is asked of the host's servers, if it has a way out.
func TestGatewayForwards(t *testing.T) {
	w := newWorld(t, nil)
	serve(t, w.host, "127.0.0.1:53", says(t, "192.0.2.7"))
	w.resolvConf(false, "127.0.0.1")
	host, member := w.hostSpace(), w.lan("sl-b1", "10.1.0.1/24")
	for forward, want := range map[bool]string{true: "192.0.2.7", false: "REFUSED"} {
		at := resolver.Gateway{Network: blue, Link: "sl-b1", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.1")}, Forward: forward}
		if err := w.r.SetGateway(t.Context(), host, at); err != nil {
			t.Fatal(err)
		}
		if got := asks(member, "udp", "10.1.0.1:53", question("example.org", mdns.TypeA)); got != want {
			t.Errorf("forward %v: %s", forward, got)
		}
	}
}

// A question that comes while nobody is there waits, and is answered by the next process.
func TestGatewayRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolver.sock")
	w := newWorld(t, func(o *dns.Options) { o.Keeper = held(t, path) })
	host, member := w.hostSpace(), w.lan("sl-b1", "10.1.0.1/24")
	at := resolver.Gateway{Network: blue, Link: "sl-b1", Addrs: []netip.Addr{netip.MustParseAddr("10.1.0.1")}}
	if err := w.r.SetGateway(t.Context(), host, at); err != nil {
		t.Fatal(err)
	}
	if err := w.r.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := member.Dial("udp", "10.1.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	conn := &mdns.Conn{Conn: c}
	if err := conn.WriteMsg(question("web", mdns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if w.r, err = dns.New(dns.Options{Host: w.host.Path(), Etc: w.etc, Keeper: held(t, path)}); err != nil {
		t.Fatal(err)
	}
	w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
	if err := w.r.SetGateway(t.Context(), host, at); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if m, err := conn.ReadMsg(); err != nil || data(m) != "10.1.0.2" {
		t.Errorf("asked while nobody was there: %v, %v", m, err)
	}
	at.Addrs = nil
	if err := w.r.SetGateway(t.Context(), host, at); err != nil {
		t.Error(err)
	}
	if again, err := holder.NewProcess(path, "/proc/self/exe").Kept(); err != nil || len(again) != 0 {
		t.Errorf("the holder holds %v, %v", again, err)
	}
}
