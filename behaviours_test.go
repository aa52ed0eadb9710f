package sealane_test

import (
	"context"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/resolver"
	roomdns "github.com/sealane/sealane/resolver/dns"
	"github.com/sealane/sealane/sandbox"
)

var recreates = flag.Int("recreates", 60, "how often TestRecreatesOfAName makes a name again")

// What users of other engines rely on, by its number in the list of behaviours worth a test: names and files on the real kernel, through
// the Controller.

// newNamedWorld is a world with a resolver, whose host has this resolv.conf.
func newNamedWorld(t *testing.T, conf string) *world {
	t.Helper()
	nstest.MustNotLeak(t)
	w := newHosts(t)
	w.etc = t.TempDir()
	w.conf(conf)
	w.host.MustReturn()
	w.start()
	t.Cleanup(w.stop)
	return w
}

func (w *world) conf(text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.etc, "resolv.conf"), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// openNames opens the resolver and the files of sandboxes.
func (w *world) openNames() (resolver.Resolver, resolver.Files, error) {
	if w.etc == "" {
		return nil, nil, nil
	}
	names, err := roomdns.New(roomdns.Options{Host: w.host.Path(), Etc: w.etc, Stub: filepath.Join(w.etc, "stub.conf")})
	if err != nil {
		return nil, nil, err
	}
	w.closers = append(w.closers, names.Close)
	return names, resolver.Directory{Path: filepath.Join(w.dir, "sandboxes"), Etc: w.etc}, nil
}

// file is what a sandbox sees.
func (c *container) file(name string) string {
	c.world.t.Helper()
	text, err := os.ReadFile(filepath.Join(c.world.dir, "sandboxes", string(c.ID()), name))
	if err != nil {
		c.world.t.Fatal(err)
	}
	return string(text)
}

// asks sends one question to the sandbox's resolver.
func (c *container) asks(network, name string, qtype uint16) *dns.Msg {
	c.world.t.Helper()
	reply, err := c.tryAsk(network, name, qtype, time.Minute)
	if err != nil {
		c.world.t.Fatalf("%s %s by %s: %v", name, dns.TypeToString[qtype], network, err)
	}
	return reply
}

func (c *container) tryAsk(network, name string, qtype uint16, patience time.Duration) (*dns.Msg, error) {
	conn, err := c.as().Dial(network, "127.0.0.11:53")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	client := dns.Client{Net: network, Timeout: patience}
	reply, _, err := client.ExchangeWithConn(q, &dns.Conn{Conn: conn})
	return reply, err
}

// answers is a reply as text: its code when that is no success, then the data of its answers, sorted.
func answers(m *dns.Msg) string {
	var all []string
	for _, rr := range m.Answer {
		all = append(all, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(all)
	if m.Rcode != dns.RcodeSuccess {
		all = append([]string{dns.RcodeToString[m.Rcode]}, all...)
	}
	return strings.Join(all, " ")
}

func (c *container) sees(name string, qtype uint16, want string) {
	c.world.t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		if got := answers(c.asks(network, name, qtype)); got != want {
			c.world.t.Errorf("%s %s by %s: %q, want %q", name, dns.TypeToString[qtype], network, got, want)
		}
	}
}

// upstream is a server of somebody else's in a host of the test, and how often it was asked.
type upstream struct{ asked atomic.Int64 }

// serveNames answers at an address with a table of "name TYPE" to records; what is not in it does not exist.
func serveNames(h *nstest.Host, at string, records map[string]string) *upstream {
	u := &upstream{}
	answer := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		u.asked.Add(1)
		m := new(dns.Msg).SetReply(q)
		key := q.Question[0].Name + " " + dns.TypeToString[q.Question[0].Qtype]
		switch text, there := records[key]; {
		case !there:
			m.Rcode = dns.RcodeNameError
		case text == "SERVFAIL":
			m.Rcode = dns.RcodeServerFailure
		case text != "":
			for one := range strings.SplitSeq(text, ",") {
				rr, err := dns.NewRR(q.Question[0].Name + " 60 IN " + one)
				if err != nil {
					panic(err)
				}
				m.Answer = append(m.Answer, rr)
			}
		}
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(m)
	})
	udp, tcp := &dns.Server{PacketConn: h.ListenPacket("udp", at), Handler: answer}, &dns.Server{Listener: h.Listen("tcp", at), Handler: answer}
	go udp.ActivateAndServe()
	go tcp.ActivateAndServe()
	return u
}

const outsideName = "www.example.org"

func outsideRecords() map[string]string {
	return map[string]string{"www.example.org. A": "A 198.51.100.7", "www.example.org. AAAA": ""}
}

// 30. Given no IPv6 in the container, no line of hosts is IPv6's; on disconnect exactly that network's lines go.
func TestBehaviour30HostsLines(t *testing.T) {
	w := newNamedWorld(t, "nameserver 192.0.2.1\n")
	blue, red := w.network(sealane.NetworkSpec{Name: "blue", IPAM: subnets("10.1.0.0/24")}), w.network(sealane.NetworkSpec{Name: "red", IPAM: subnets("10.2.0.0/24")})
	c := w.sandbox(sandbox.Spec{Name: "c", Sysctls: map[string]string{"net.ipv6.conf.all.disable_ipv6": "1"}, Names: sandbox.Names{Hostname: "box"}})
	c.join(blue, endpoint.Spec{Name: "c"})
	on := c.join(red, endpoint.Spec{Name: "c"})
	want := "127.0.0.1\tlocalhost\n10.1.0.2\tbox\n10.2.0.2\tbox\n"
	if got := c.file("hosts"); got != want {
		t.Errorf("hosts: %q, want %q", got, want)
	}
	c.as().Do(func() error {
		if lines, err := os.ReadFile("/proc/thread-self/net/if_inet6"); len(lines) > 0 {
			t.Errorf("it has IPv6: %s %v", lines, err)
		}
		return nil
	})
	if err := on.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := c.file("hosts"), "127.0.0.1\tlocalhost\n10.1.0.2\tbox\n"; got != want {
		t.Errorf("hosts: %q, want %q", got, want)
	}
	six := w.container("six", nil, blue)
	if got := six.file("hosts"); !strings.Contains(got, "::1\tlocalhost ip6-localhost ip6-loopback\n") {
		t.Errorf("hosts with IPv6: %q", got)
	}
}

// 31. Given the host's resolver on 127.0.0.1 or ::1, names resolve through the host's namespace; containers that are only on internal
// networks get no such forward; servers in the container's own networks still work.
func TestBehaviour31HostLoopbackResolver(t *testing.T) {
	for _, at := range []string{"127.0.0.1", "::1"} {
		t.Run(at, func(t *testing.T) {
			w := newNamedWorld(t, "nameserver "+at+"\n")
			ours := serveNames(w.host, net.JoinHostPort(at, "53"), outsideRecords())
			blue := w.network(sealane.NetworkSpec{Name: "blue"})
			inner := w.network(sealane.NetworkSpec{Name: "inner", Internal: true, IPAM: subnets("10.3.0.0/24")})
			c := w.container("c", nil, blue)
			c.sees(outsideName, dns.TypeA, "198.51.100.7")
			if !strings.HasPrefix(c.file("resolv.conf"), "nameserver 127.0.0.11\n") {
				t.Errorf("resolv.conf: %q", c.file("resolv.conf"))
			}
			asked := ours.asked.Load()
			alone := w.container("alone", nil, inner)
			if got := alone.asks("udp", "other.example.org", dns.TypeA); got.Rcode == dns.RcodeSuccess || len(got.Answer) > 0 {
				t.Errorf("without a way out: %v", got)
			}
			if now := ours.asked.Load(); now != asked {
				t.Errorf("the host's server was asked %d times for who has no way out", now-asked)
			}
			server := w.container("server", nil, inner)
			serveNames(server.as(), net.JoinHostPort(server.address(false).String(), "53"), map[string]string{"corp.example. A": "A 198.51.100.9"})
			user := w.sandbox(sandbox.Spec{Name: "user", Names: sandbox.Names{DNS: []netip.Addr{server.address(false)}}})
			user.join(inner, endpoint.Spec{Name: "user"})
			user.sees("corp.example", dns.TypeA, "198.51.100.9")
			user.sees("server", dns.TypeA, server.address(false).String())
		})
	}
}

// 32. Given --dns 127.0.0.11, an unknown name is asked of nobody in a ring, and is SERVFAIL.
func TestBehaviour32NoLoop(t *testing.T) {
	w := newNamedWorld(t, "")
	blue := w.network(sealane.NetworkSpec{Name: "blue"})
	c := w.sandbox(sandbox.Spec{Name: "c", Names: sandbox.Names{DNS: []netip.Addr{resolver.Address()}}})
	c.join(blue, endpoint.Spec{Name: "c"})
	c.sees("unknown.example", dns.TypeA, "SERVFAIL")
}

// 33. Given a network of IPv6 alone, an external name resolves.
func TestBehaviour33IPv6Only(t *testing.T) {
	w := newNamedWorld(t, "nameserver 127.0.0.1\n")
	serveNames(w.host, "127.0.0.1:53", outsideRecords())
	c := w.container("c", nil, w.network(sealane.NetworkSpec{Name: "six", NoIPv4: true, IPv6: true}))
	c.sees(outsideName, dns.TypeA, "198.51.100.7")
	c.sees("c", dns.TypeAAAA, c.address(true).String())
	c.sees("c", dns.TypeA, "")
}

// 34. Given that the first of several servers is dead, the second answers.
func TestBehaviour34SecondServer(t *testing.T) {
	w := newNamedWorld(t, "")
	serveNames(w.outside, "192.0.2.1:53", outsideRecords())
	blue := w.network(sealane.NetworkSpec{Name: "blue"})
	c := w.sandbox(sandbox.Spec{Name: "c", Names: sandbox.Names{DNS: []netip.Addr{addr("192.0.2.250"), addr("192.0.2.1")}}})
	c.join(blue, endpoint.Spec{Name: "c"})
	c.sees(outsideName, dns.TypeA, "198.51.100.7")
}

// 66. SRV gives port, target and addresses of who publishes or exposes it; an address that comes back has the name of who has it now.
func TestBehaviour66SRV(t *testing.T) {
	w := newNamedWorld(t, "")
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPAM: subnets("10.1.0.0/24")})
	asker := w.container("asker", nil, blue)
	web := w.sandbox(sandbox.Spec{Name: "web"})
	web.join(blue, endpoint.Spec{Name: "web", Publish: ports(t, "8080:80"), Exposed: ports(t, "53/udp")})
	got := asker.asks("udp", "_80._tcp.web", dns.TypeSRV)
	if len(got.Answer) != 1 || got.Answer[0].(*dns.SRV).Port != 80 || len(got.Extra) == 0 || !strings.Contains(got.Extra[0].String(), "10.1.0.3") {
		t.Errorf("SRV: %v", got)
	}
	asker.sees("_81._tcp.web", dns.TypeSRV, "NXDOMAIN")
	asker.sees("3.0.1.10.in-addr.arpa", dns.TypePTR, "web.blue.")
	if err := web.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := w.sandbox(sandbox.Spec{Name: "next"})
	next.join(blue, endpoint.Spec{Name: "next", Addresses: []netip.Prefix{prefix("10.1.0.3/32")}})
	asker.sees("3.0.1.10.in-addr.arpa", dns.TypePTR, "next.blue.")
	asker.sees("next", dns.TypeA, "10.1.0.3")
}

// 67. Given priorities and families, the gateway of each family, and with it the order in which networks are asked for a name, is as
// computed.
func TestBehaviour67GatewayOrder(t *testing.T) {
	w := newNamedWorld(t, "")
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPAM: subnets("10.1.0.0/24")})
	dual := w.network(sealane.NetworkSpec{Name: "dual", IPv6: true, IPAM: subnets("10.2.0.0/24", "fd00:2::/64")})
	inner := w.network(sealane.NetworkSpec{Name: "inner", Internal: true, IPAM: subnets("10.3.0.0/24")})
	for _, n := range []sealane.Network{blue, dual, inner} { // one name on all, at .2
		w.container("web-"+must(n.Info(t.Context())).Name, nil).join(n, endpoint.Spec{Name: "web"})
	}
	c := w.sandbox(sandbox.Spec{Name: "c"})
	routes := func(when, four, six, name string) {
		t.Helper()
		got := []string{strings.TrimSpace(c.as().Run("ip", "-4", "route", "show", "default")), strings.TrimSpace(c.as().Run("ip", "-6", "route", "show", "default"))}
		for i, via := range []string{four, six} {
			if (via == "") != (got[i] == "") || !strings.Contains(got[i]+" ", "via "+via) && via != "" {
				t.Errorf("%s: default route %q, want by %q", when, got[i], via)
			}
		}
		if got := answers(c.asks("udp", "web", dns.TypeA)); got != name {
			t.Errorf("%s: web is %q, want %q", when, got, name)
		}
	}
	c.join(inner, endpoint.Spec{Name: "c"})
	routes("internal", "", "", "10.3.0.2")
	onBlue := c.join(blue, endpoint.Spec{Name: "c"})
	routes("and blue", "10.1.0.1 ", "", "10.1.0.2")
	onDual := c.join(dual, endpoint.Spec{Name: "c"})
	routes("and dual", "10.1.0.1 ", "fd00:2::1 ", "10.1.0.2")
	if err := onBlue.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	routes("without blue", "10.2.0.1 ", "fd00:2::1 ", "10.2.0.2")
	if err := onDual.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.join(dual, endpoint.Spec{Name: "d", Priority: 1})
	c.join(blue, endpoint.Spec{Name: "d"})
	routes("dual first", "10.2.0.1 ", "fd00:2::1 ", "10.2.0.2")
}

// 68. Given a name known with IPv4 alone, AAAA is NOERROR and empty, and nobody is asked; SERVFAIL goes on to the next server.
func TestBehaviour68NoData(t *testing.T) {
	w := newNamedWorld(t, "nameserver 127.0.0.1\nnameserver 127.0.0.2\n")
	first := serveNames(w.host, "127.0.0.1:53", map[string]string{"www.example.org. A": "SERVFAIL"})
	serveNames(w.host, "127.0.0.2:53", outsideRecords())
	c := w.container("c", nil, w.network(sealane.NetworkSpec{Name: "blue"}))
	for _, qtype := range []uint16{dns.TypeAAAA, dns.TypeMX, dns.TypeTXT, dns.TypeHTTPS} {
		c.sees("c", qtype, "")
		c.sees("c.blue", qtype, "")
	}
	if n := first.asked.Load(); n > 0 {
		t.Errorf("a server was asked %d times for our own name", n)
	}
	c.sees(outsideName, dns.TypeA, "198.51.100.7")
	c.sees(outsideName, dns.TypeAAAA, "")
	c.sees("nowhere.example.org", dns.TypeA, "NXDOMAIN")
}

// 69. Given a reply larger than UDP carries, it is cut off with TC and TCP has the whole; NXDOMAIN passes; a malformed PTR harms nobody.
func TestBehaviour69LargeReplies(t *testing.T) {
	var many []string
	for i := range 60 {
		many = append(many, "A "+netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}).String())
	}
	w := newNamedWorld(t, "nameserver 127.0.0.1\n")
	serveNames(w.host, "127.0.0.1:53", map[string]string{"large.example.org. A": strings.Join(many, ",")})
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPAM: subnets("10.1.0.0/24")})
	c := w.container("c", nil, blue)
	for range 3 { // the later ones from the cache
		if m := c.asks("udp", "large.example.org", dns.TypeA); !m.Truncated || len(m.Answer) >= 60 {
			t.Errorf("by UDP: TC %v with %d answers", m.Truncated, len(m.Answer))
		}
		if m := c.asks("tcp", "large.example.org", dns.TypeA); m.Truncated || len(m.Answer) != 60 {
			t.Errorf("by TCP: TC %v with %d answers", m.Truncated, len(m.Answer))
		}
	}
	c.sees("nowhere.example.org", dns.TypeA, "NXDOMAIN")
	for _, odd := range []string{"x.in-addr.arpa", "1.2.3.in-addr.arpa", "999.1.1.1.in-addr.arpa", "1.ip6.arpa", "in-addr.arpa"} {
		c.asks("udp", odd, dns.TypePTR)
	}
	c.sees("c", dns.TypeA, "10.1.0.2")
}

// 70. Given the resolver, ndots of the host is kept when it is one, and 0 else; a change of what the sandbox asks is seen.
func TestBehaviour70ResolvConf(t *testing.T) {
	for options, want := range map[string]string{"": "ndots:0", "options ndots:2\n": "ndots:2", "options ndots:many rotate\n": "rotate ndots:0"} {
		t.Run(want, func(t *testing.T) {
			w := newNamedWorld(t, "nameserver 192.0.2.1\nsearch example.org\n"+options)
			c := w.container("c", nil, w.network(sealane.NetworkSpec{Name: "blue"}))
			var lines []string
			for line := range strings.Lines(c.file("resolv.conf")) {
				if !strings.HasPrefix(line, "#") && line != "\n" {
					lines = append(lines, strings.TrimSpace(line))
				}
			}
			if diff := cmp.Diff([]string{"nameserver 127.0.0.11", "search example.org", "options " + want}, lines); diff != "" {
				t.Errorf("%q: %s", options, diff)
			}
		})
	}
}

// A sandbox that leaves its last network has no resolver any more, nor rules of one, though its namespace is somebody else's and stays.
func TestResolverLeavesASandbox(t *testing.T) {
	w := newNamedWorld(t, "nameserver 192.0.2.1\n")
	guest := nstest.New(t, "guest")
	before := guest.Ruleset()
	blue := w.network(sealane.NetworkSpec{Name: "blue"})
	c := w.sandbox(sandboxAt("guest", guest.Path()))
	on := c.join(blue, endpoint.Spec{Name: "guest"})
	c.sees("guest", dns.TypeA, c.address(false).String())
	w.restart()
	c.again()
	c.sees("guest", dns.TypeA, c.address(false).String())
	n := w.named("blue")
	ep, err := n.Endpoint(context.Background(), string(on.ID()))
	if err != nil {
		t.Fatal(err)
	}
	if err := ep.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.rest()
	if after := guest.Ruleset(); after != before {
		t.Errorf("rules are left:\n%s", after)
	}
	if _, err := c.tryAsk("tcp", "guest", dns.TypeA, 5*time.Second); err == nil {
		t.Error("somebody answers")
	}
}

// Who changes what leads a sandbox to the resolver is found out when the sandbox is looked at, here because the host's rules were changed too:
// it is put right and told.
func TestRedirectsChangedByHandAreRepaired(t *testing.T) {
	w := newNamedWorld(t, "")
	c := w.container("c", nil, w.network(sealane.NetworkSpec{Name: "blue"}))
	before := c.as().Ruleset()
	reading, stop := context.WithCancel(t.Context())
	defer stop()
	told := make(chan string, 100)
	events := w.Events(reading)
	go func() {
		for e, err := range events {
			if err == nil && e.Action == "repair" && e.Type == "sandbox" {
				told <- e.ID
			}
		}
	}()
	c.as().Run("nft", "flush", "ruleset")
	w.host.Run("nft", "flush", "ruleset")
	select {
	case id := <-told:
		if id != string(c.ID()) {
			t.Errorf("told of %s", id)
		}
	case <-time.After(time.Minute):
		t.Error("nobody tells that it was put right")
	}
	if after := c.as().Ruleset(); after != before {
		t.Errorf("rules were\n%s and are\n%s", before, after)
	}
	c.sees("c", dns.TypeA, c.address(false).String())
}

// A name is made again and again in namespaces, each time at another address, while its neighbour asks: no question is lost, no answer is
// an address that is gone, and after Join the answer is the new one.
func TestRecreatesOfAName(t *testing.T) {
	w := newNamedWorld(t, "")
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPAM: subnets("10.1.0.0/16")})
	asker := w.container("asker", nil, blue)
	var gone sync.Map
	done := make(chan struct{})
	var all sync.WaitGroup
	asked := 0
	all.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			dead := map[string]bool{}
			gone.Range(func(a, _ any) bool { dead[a.(string)] = true; return true })
			m, err := asker.tryAsk("udp", "web", dns.TypeA, time.Minute)
			if err != nil {
				t.Errorf("question %d is lost: %v", asked, err)
				return
			}
			asked++
			if got := answers(m); dead[got] {
				t.Errorf("%s is answered, which is gone", got)
				return
			}
		}
	})
	for i := range *recreates {
		a := netip.AddrFrom4([4]byte{10, 1, 1 + byte(i/250), 1 + byte(i%250)})
		web, err := w.CreateSandbox(t.Context(), sandbox.Spec{Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		c := &container{Sandbox: web, world: w}
		c.join(blue, endpoint.Spec{Name: "web", Addresses: []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}})
		asker.sees("web", dns.TypeA, a.String())
		if err := web.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone.Store(a.String(), true)
	}
	close(done)
	all.Wait()
	t.Logf("%d re-creates, %d questions", *recreates, asked)
}
