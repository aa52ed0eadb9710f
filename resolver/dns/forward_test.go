package dns_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// upstream is somebody else's server in a test host. It counts what it is asked.
type upstream struct {
	asked atomic.Int64
	reply func(q, m *mdns.Msg, tcp bool) // fills in m; nil: says nothing
}

func serve(t testing.TB, h *nstest.Host, address string, reply func(q, m *mdns.Msg, tcp bool)) *upstream {
	t.Helper()
	u := &upstream{reply: reply}
	for _, s := range []*mdns.Server{{PacketConn: h.ListenPacket("udp", address)}, {Listener: h.Listen("tcp", address)}} {
		tcp := s.Listener != nil
		s.Handler = mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
			u.asked.Add(1)
			if u.reply == nil {
				return
			}
			m := new(mdns.Msg)
			m.SetReply(q)
			u.reply(q, m, tcp)
			w.WriteMsg(m)
		})
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go s.ActivateAndServe()
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return u
}

func rr(t testing.TB, text string) mdns.RR {
	r, err := mdns.NewRR(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// says answers every question for an address with this one.
func says(t testing.TB, address string) func(q, m *mdns.Msg, tcp bool) {
	return func(q, m *mdns.Msg, _ bool) {
		if q.Question[0].Qtype == mdns.TypeA {
			m.Answer = append(m.Answer, rr(t, q.Question[0].Name+" 60 IN A "+address))
		}
	}
}

func code(rcode int) func(q, m *mdns.Msg, tcp bool) {
	return func(_, m *mdns.Msg, _ bool) { m.Rcode = rcode }
}

// resolvConf writes the host's file as editors do, by renaming, or in place.
func (w *world) resolvConf(inPlace bool, servers ...string) {
	w.t.Helper()
	text := ""
	for _, s := range servers {
		text += "nameserver " + s + "\n"
	}
	file := filepath.Join(w.etc, "resolv.conf")
	to := file + ".new"
	if inPlace {
		to = file
	}
	err := os.WriteFile(to, []byte(text), 0o644)
	if err == nil && !inPlace {
		err = os.Rename(to, file)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// open makes a sandbox with a way out.
func (w *world) open(upstreams ...string) sandbox.ID {
	w.n++
	id := sandbox.ID(fmt.Sprintf("%x", w.n))
	v := resolver.View{Sandbox: id, Zones: []endpoint.NetworkID{blue}, Forward: true}
	for _, u := range upstreams {
		v.Upstreams = append(v.Upstreams, resolver.Upstream{Server: netip.AddrPortFrom(netip.MustParseAddr(u), 0)})
	}
	w.set(w.space(), v)
	return id
}

// answers fails unless the name has this address.
func (w *world) answers(id sandbox.ID, name, want string) {
	w.t.Helper()
	if m := w.ask(id, name, mdns.TypeA); data(m) != want {
		w.t.Errorf("%s: %v, want %s", name, m, want)
	}
}

// Behaviour 31: a server on the host's loopback is asked from the host; a sandbox without a way out is not given it; a server inside is asked
// from inside.
func TestHostResolverOnLoopback(t *testing.T) {
	w := newWorld(t, nil)
	four, six := serve(t, w.host, "127.0.0.1:53", says(t, "192.0.2.1")), serve(t, w.host, "[::1]:53", says(t, "192.0.2.6"))
	w.resolvConf(false, "127.0.0.1")
	w.answers(w.open(), "example.com", "192.0.2.1")
	w.resolvConf(false, "::1")
	w.answers(w.open(), "example.com", "192.0.2.6")
	before := four.asked.Load() + six.asked.Load()
	w.set(w.space(), resolver.View{Sandbox: "in", Zones: []endpoint.NetworkID{blue}})
	if m := w.ask("in", "example.com", mdns.TypeA); m.Rcode != mdns.RcodeRefused {
		t.Errorf("internal only: %v", m)
	}
	if m := w.ask("in", "nothing", mdns.TypeA); m.Rcode != mdns.RcodeNameError {
		t.Errorf("internal only, one label: %v", m)
	}
	if now := four.asked.Load() + six.asked.Load(); now != before {
		t.Errorf("the outside was asked %d times", now-before)
	}
	serve(t, w.inside["in"], "127.0.0.5:53", says(t, "10.9.9.9"))
	w.set(w.ns["in"], resolver.View{Sandbox: "in", Upstreams: []resolver.Upstream{{Server: netip.MustParseAddrPort("127.0.0.5:53")}}})
	w.answers("in", "example.com", "10.9.9.9")
}

// Behaviour 32: it does not ask itself.
func TestNoLoop(t *testing.T) {
	w := newWorld(t, nil)
	if m := w.ask(w.open("127.0.0.11"), "example.com", mdns.TypeA); m.Rcode != mdns.RcodeServerFailure {
		t.Errorf("got %v", m)
	}
}

// Behaviour 33: a network of IPv6 only resolves outside names.
func TestIPv6OnlyNetwork(t *testing.T) {
	w := newWorld(t, nil)
	serve(t, w.host, "[::1]:53", says(t, "192.0.2.6"))
	w.resolvConf(false, "::1")
	w.zone(blue, "blue", published("1", "six", "fd00:1::2/64"))
	id := w.open()
	w.answers(id, "example.com", "192.0.2.6")
	if got := data(w.ask(id, "six", mdns.TypeAAAA)); got != "fd00:1::2" {
		t.Errorf("got %s", got)
	}
}

// Behaviours 34 and 68: what is dead, fails or refuses is passed over, and NXDOMAIN is an answer.
func TestNextServer(t *testing.T) {
	for name, first := range map[string]func(q, m *mdns.Msg, tcp bool){
		"dead": nil, "servfail": code(mdns.RcodeServerFailure), "refused": code(mdns.RcodeRefused),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			serve(t, w.host, "127.0.0.1:53", first)
			serve(t, w.host, "127.0.0.2:53", says(t, "192.0.2.2"))
			w.resolvConf(false, "127.0.0.1", "127.0.0.2")
			w.answers(w.open(), "example.com", "192.0.2.2")
		})
	}
	t.Run("nxdomain", func(t *testing.T) {
		w := newWorld(t, nil)
		serve(t, w.host, "127.0.0.1:53", code(mdns.RcodeNameError))
		other := serve(t, w.host, "127.0.0.2:53", says(t, "192.0.2.2"))
		w.resolvConf(false, "127.0.0.1", "127.0.0.2")
		if m := w.ask(w.open(), "example.com", mdns.TypeA); m.Rcode != mdns.RcodeNameError || other.asked.Load() > 1 {
			t.Errorf("got %v", m)
		}
	})
	t.Run("all fail", func(t *testing.T) {
		w := newWorld(t, nil)
		serve(t, w.host, "127.0.0.1:53", code(mdns.RcodeRefused))
		w.resolvConf(false, "127.0.0.1")
		if m := w.ask(w.open(), "example.com", mdns.TypeA); m.Rcode != mdns.RcodeRefused {
			t.Errorf("got %v", m)
		}
	})
}

// Behaviour 68: a name with IPv4 only has no AAAA, and nobody else is asked for it.
func TestKnownNameIsNotForwarded(t *testing.T) {
	w := newWorld(t, nil)
	up := serve(t, w.host, "127.0.0.1:53", says(t, "192.0.2.1"))
	w.resolvConf(false, "127.0.0.1")
	w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
	id := w.open()
	for _, typ := range []uint16{mdns.TypeAAAA, mdns.TypeMX, mdns.TypeTXT, mdns.TypeHTTPS} {
		if m := w.ask(id, "web", typ); m.Rcode != mdns.RcodeSuccess || len(m.Answer) != 0 {
			t.Errorf("%v", m)
		}
	}
	if up.asked.Load() != 0 {
		t.Error("somebody else was asked")
	}
}

// Behaviour 69: what does not fit is cut by UDP and whole by TCP; ours and others'. A broken reverse name harms nobody.
func TestOversized(t *testing.T) {
	w := newWorld(t, nil)
	serve(t, w.host, "127.0.0.1:53", func(q, m *mdns.Msg, tcp bool) {
		if !tcp {
			m.Truncated = true
			return
		}
		for i := range 100 {
			m.Answer = append(m.Answer, rr(t, fmt.Sprintf("%s 60 IN A 192.0.2.%d", q.Question[0].Name, i+1)))
		}
	})
	w.resolvConf(false, "127.0.0.1")
	var many []endpoint.Published
	for i := range 100 {
		p := published(fmt.Sprint(i), fmt.Sprintf("n%d", i), fmt.Sprintf("10.1.0.%d/16", i+1))
		p.Aliases = []string{"pool"}
		many = append(many, p)
	}
	w.zone(blue, "blue", many...)
	id := w.open()
	for _, name := range []string{"pool", "big.example.com"} {
		for _, c := range []struct {
			network string
			size    uint16
			tc      bool
		}{{"udp", 0, true}, {"udp", 1232, true}, {"udp", 4096, false}, {"tcp", 0, false}} {
			q := question(name, mdns.TypeA)
			if c.size != 0 {
				q.SetEdns0(c.size, false)
			}
			m, err := w.exchange(id, c.network, q)
			if err != nil {
				t.Fatal(err)
			}
			m.Compress = true
			if m.Truncated != c.tc || !c.tc && len(m.Answer) != 100 || m.Len() > max(int(c.size), 512) && c.network == "udp" {
				t.Errorf("%s by %s with %d: truncated %v, %d answers, %d bytes", name, c.network, c.size, m.Truncated, len(m.Answer), m.Len())
			}
		}
	}
	for _, name := range []string{"1.in-addr.arpa", "x.1.1.1.in-addr.arpa", "300.1.1.1.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "f.ip6.arpa"} {
		w.ask(id, name, mdns.TypePTR)
	}
}

// Types that nobody has heard of pass, and letters stay as they were asked.
func TestAnyType(t *testing.T) {
	w := newWorld(t, nil)
	serve(t, w.host, "127.0.0.1:53", func(q, m *mdns.Msg, _ bool) {
		m.Answer = append(m.Answer, rr(t, q.Question[0].Name+` 60 IN TYPE65280 \# 3 abcdef`))
	})
	w.resolvConf(false, "127.0.0.1")
	id := w.open()
	for _, name := range []string{"eXample.COM.", "Example.com."} { // the second is remembered
		m := w.ask(id, name, 65280)
		if data(m) != "abcdef" || m.Question[0].Name != name || m.Answer[0].Header().Name != name {
			t.Errorf("got %v", m)
		}
	}
}

// Answers are remembered as long as they say, that something is not there too, and one question of many is asked once.
func TestMemory(t *testing.T) {
	w := newWorld(t, nil)
	hold := make(chan struct{})
	up := serve(t, w.host, "127.0.0.1:53", func(q, m *mdns.Msg, _ bool) {
		switch q.Question[0].Name {
		case "none.example.com.":
			m.Rcode = mdns.RcodeNameError
			m.Ns = append(m.Ns, rr(t, "example.com. 60 IN SOA ns. me. 1 2 3 4 60"))
		case "many.example.com.":
			<-hold
			says(t, "192.0.2.1")(q, m, false)
		default:
			says(t, "192.0.2.1")(q, m, false)
		}
	})
	w.resolvConf(false, "127.0.0.1")
	id := w.open()
	for range 3 {
		w.ask(id, "one.example.com", mdns.TypeA)
		w.ask(id, "NONE.example.com", mdns.TypeA)
	}
	if got := up.asked.Load(); got != 2 {
		t.Errorf("asked %d times, want 2", got)
	}
	done := make(chan string)
	for range 20 {
		go func() {
			m, err := w.exchange(id, "udp", question("many.example.com", mdns.TypeA))
			if err != nil {
				done <- err.Error()
				return
			}
			done <- data(m)
		}()
	}
	for up.asked.Load() == 2 {
		w.ask(id, "one.example.com", mdns.TypeA)
	}
	close(hold)
	for range 20 {
		if got := <-done; got != "192.0.2.1" {
			t.Error(got)
		}
	}
	if got := up.asked.Load(); got > 4 { // one may have come after the answer had been taken up by all others
		t.Errorf("asked %d times", got)
	}
}

// The host's file is read anew when it was replaced or changed in place; behind systemd-resolved's listener are the servers that it names.
func TestHostFileChanges(t *testing.T) {
	w := newWorld(t, nil)
	serve(t, w.host, "127.0.0.1:53", says(t, "192.0.2.1"))
	serve(t, w.host, "127.0.0.2:53", says(t, "192.0.2.2"))
	serve(t, w.host, "127.0.0.3:53", says(t, "192.0.2.3"))
	id := w.open()
	for _, c := range []struct {
		server  string
		inPlace bool
	}{{"127.0.0.1", false}, {"127.0.0.2", true}, {"127.0.0.1", true}, {"127.0.0.3", false}} {
		w.resolvConf(c.inPlace, c.server)
		w.answers(id, "example.com", "192.0.2."+c.server[len(c.server)-1:])
	}
	w.resolvConf(false, "127.0.0.53")
	if err := os.WriteFile(filepath.Join(w.etc, "stub"), []byte("nameserver 127.0.0.2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.answers(id, "example.com", "192.0.2.2")
}

// Domains have servers of their own; the longest that fits decides.
func TestSplit(t *testing.T) {
	w := newWorld(t, nil)
	serve(t, w.host, "127.0.0.1:53", says(t, "192.0.2.1"))
	w.resolvConf(false, "127.0.0.1")
	ns := w.space()
	view := resolver.View{Sandbox: "s", Forward: true, Upstreams: []resolver.Upstream{
		{Server: netip.MustParseAddrPort("127.0.0.2:53"), Domains: []string{"corp.example"}},
		{Server: netip.MustParseAddrPort("127.0.0.3:53"), Domains: []string{"lab.corp.example"}},
	}}
	w.set(ns, view)
	serve(t, w.inside["s"], "127.0.0.2:53", says(t, "192.0.2.2"))
	serve(t, w.inside["s"], "127.0.0.3:53", says(t, "192.0.2.3"))
	for name, want := range map[string]string{
		"example.com": "192.0.2.1", "corp.example": "192.0.2.2", "a.CORP.example": "192.0.2.2", "x.lab.corp.example": "192.0.2.3", "notcorp.example": "192.0.2.1",
	} {
		w.answers("s", name, want)
	}
}

// An alias may stand for a name outside.
func TestAliasOutside(t *testing.T) {
	w := newWorld(t, nil)
	serve(t, w.host, "127.0.0.1:53", says(t, "192.0.2.1"))
	w.resolvConf(false, "127.0.0.1")
	p := published("1", "web", "10.1.0.2/24")
	p.Aliases = []string{"shop=shop.example.com"}
	w.zone(blue, "blue", p)
	m := w.ask(w.open(), "shop", mdns.TypeA)
	if data(m) != "192.0.2.1 shop.example.com." || m.Question[0].Name != "shop." {
		t.Errorf("got %v", m)
	}
}

// The first server is dead: after it was noticed the next one is asked at once, and until then it costs little.
func TestDeadFirstServer(t *testing.T) {
	w := newWorld(t, nil)
	serve(t, w.host, "127.0.0.1:53", nil)
	serve(t, w.host, "127.0.0.2:53", says(t, "192.0.2.2"))
	w.resolvConf(false, "127.0.0.1", "127.0.0.2")
	id := w.open()
	var took []time.Duration
	for i := range 200 {
		began := time.Now()
		w.answers(id, fmt.Sprintf("n%d.example.com", i), "192.0.2.2")
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("p99 %v, most %v", took[198], took[199])
	nstest.Within(t, "the median question", took[100], time.Second)
}

func exchangeOn(t testing.TB, c *mdns.Conn, q *mdns.Msg) *mdns.Msg {
	t.Helper()
	c.SetDeadline(time.Now().Add(time.Minute))
	if err := c.WriteMsg(q); err != nil {
		t.Fatal(err)
	}
	m, err := c.ReadMsg()
	if err != nil {
		t.Fatal(err)
	}
	return m
}
