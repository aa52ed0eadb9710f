package overlay_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/drivers/overlay"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/netdriver/drivertest"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
)

// site is a host on which plans are done, as the Controller would.
type site struct {
	*nstest.Host
	t      *testing.T
	rooms  *netns.Provider
	walls  *nftables.Opener
	tunnel netip.Addr
	survey sandbox.Survey
	spaces map[string]sandbox.Namespace // by Space
	walled map[string]firewall.Firewall
	done   map[string]netdriver.Plan // by owner
	order  []string                  // owners
}

func newSite(t *testing.T, host *nstest.Host, tunnel string) *site {
	s := &site{Host: host, t: t, tunnel: netip.MustParseAddr(tunnel), spaces: map[string]sandbox.Namespace{}, walled: map[string]firewall.Firewall{},
		done: map[string]netdriver.Plan{}}
	var err error
	if s.rooms, err = netns.New(netns.Options{Host: host.Path(), Run: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, owner := range slices.Backward(s.order) {
			s.apply(owner, netdriver.Plan{})
		}
		for space, n := range s.spaces {
			n.Close()
			if id, is := strings.CutPrefix(space, "net/"); is {
				s.walled[space].Close()
				s.rooms.Remove(context.Background(), id)
			}
		}
		s.walled[""].Close()
		if err := s.rooms.Drain(context.Background()); err != nil {
			t.Error(err)
		}
		s.rooms.Close()
	})
	if s.walls, err = nftables.New(nftables.Options{Host: host.Path()}); err != nil {
		t.Fatal(err)
	}
	if s.survey, err = s.rooms.Survey(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	s.space("")
	return s
}

func (s *site) space(space string) sandbox.Namespace {
	s.t.Helper()
	if n := s.spaces[space]; n != nil {
		return n
	}
	n, err := s.rooms.Open(context.Background(), sandbox.Origin{Host: true})
	if id, is := strings.CutPrefix(space, "net/"); is {
		n, err = s.rooms.Create(context.Background(), id)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	wall, err := s.walls.Open(context.Background(), n.Key())
	if err != nil {
		s.t.Fatal(err)
	}
	s.spaces[space], s.walled[space] = n, wall
	return n
}

// share is a plan's part of one namespace, with the keys of namespaces where veths name networks.
func (s *site) share(p netdriver.Plan, space string) netdriver.Share {
	for _, share := range p.Shares {
		if share.Space != space {
			continue
		}
		share.Config.Links = slices.Clone(share.Config.Links)
		for i, l := range share.Config.Links {
			if l.Veth != nil && strings.HasPrefix(l.Veth.Space, "net/") {
				veth := *l.Veth
				veth.Space = s.space(veth.Space).Key()
				share.Config.Links[i].Veth = &veth
			}
		}
		return share
	}
	return netdriver.Share{}
}

// try turns what an owner has into a plan.
func (s *site) try(owner string, want netdriver.Plan) error {
	have := s.done[owner]
	var spaces []string
	for _, share := range append(slices.Clone(want.Shares), have.Shares...) {
		if !slices.Contains(spaces, share.Space) {
			spaces = append(spaces, share.Space)
		}
	}
	if len(want.Shares) == 0 {
		slices.Reverse(spaces)
	}
	for _, space := range spaces {
		n, h, w := s.space(space), s.share(have, space), s.share(want, space)
		if err := s.walled[space].Apply(context.Background(), []firewall.Change{{Owner: owner, Have: h.Terms, Want: w.Terms}}); err != nil {
			return err
		}
		if _, err := n.Apply(context.Background(), owner, h.Config, w.Config); err != nil {
			return err
		}
	}
	if s.done[owner] = want; !slices.Contains(s.order, owner) {
		s.order = append(s.order, owner)
	}
	return nil
}

func (s *site) apply(owner string, want netdriver.Plan) {
	s.t.Helper()
	if err := s.try(owner, want); err != nil {
		s.t.Fatalf("%s on %s: %v", owner, s.Name, err)
	}
}

// input is a network as this host knows it.
func (s *site) input(n netdriver.Network, peers ...netdriver.Peer) netdriver.Input {
	mtu := s.survey.MTUs[s.tunnel]
	return netdriver.Input{Network: n, Peers: peers, Host: netdriver.Host{MTU: mtu, Advertise: s.tunnel, Features: s.survey.Features, Routes: s.survey.Routes}}
}

// network makes a network with the peers that others are.
func (s *site) network(n netdriver.Network, peers ...netdriver.Peer) {
	s.t.Helper()
	plan, err := overlay.New().CreateNetwork(context.Background(), s.input(n, peers...))
	if err != nil {
		s.t.Fatal(err)
	}
	s.apply("net/"+string(n.ID), plan)
}

// box is a sandbox with an endpoint.
type box struct {
	*nstest.Host
	site *site
	n    netdriver.Network
	info endpoint.Info
}

var boxes int

// join puts a new sandbox on a network.
func (s *site) join(n netdriver.Network, publish []endpoint.PortBinding, addresses ...string) *box {
	s.t.Helper()
	boxes++
	b := &box{Host: nstest.New(s.t, fmt.Sprintf("box%d", boxes)), site: s, n: n}
	b.info = endpoint.Info{ID: endpoint.ID(fmt.Sprintf("%02x%062x", boxes, boxes)), Nonce: fmt.Sprintf("%012x", boxes), Ports: publish}
	for _, a := range addresses {
		b.info.Addresses = append(b.info.Addresses, netip.MustParsePrefix(a))
	}
	b.info.MAC = endpoint.MAC(b.info.Addresses[0].Addr())
	inside, err := s.rooms.Open(s.t.Context(), sandbox.Origin{Path: b.Path()})
	if err != nil {
		s.t.Fatal(err)
	}
	b.info.Key = inside.Key()
	plan, err := overlay.New().Join(s.t.Context(), s.input(n), b.info)
	if err != nil {
		s.t.Fatal(err)
	}
	content, err := sandbox.Merge(map[string]sandbox.Attachment{"e": *plan.Attachment})
	if err != nil {
		s.t.Fatal(err)
	}
	s.apply("ep/"+string(b.info.ID), plan.Named(content.Names["e"]))
	if _, err := inside.Apply(s.t.Context(), "sb/1", sandbox.Config{}, content.Config); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { inside.Close() })
	return b
}

// peer is the box as other hosts know it.
func (b *box) peer() netdriver.Peer {
	return netdriver.Peer{Published: endpoint.Published{ID: b.info.ID, Addresses: b.info.Addresses, MAC: b.info.MAC, Host: b.site.Name}, Tunnel: b.site.tunnel}
}

func (b *box) addr(i int) netip.Addr { return b.info.Addresses[i].Addr() }

func (b *box) pings(t *testing.T, to ...netip.Addr) {
	t.Helper()
	for _, a := range to {
		if out, err := b.Try("ping", "-c1", "-W10", a.String()); err != nil {
			t.Errorf("%s to %s: %v\n%s", b.Name, a, err, out)
		}
	}
}

func (b *box) doesNotReach(t *testing.T, to ...netip.Addr) {
	t.Helper()
	for _, a := range to {
		if out, err := b.Try("ping", "-c1", "-W1", a.String()); err == nil {
			t.Errorf("%s reaches %s:\n%s", b.Name, a, out)
		}
	}
}

// serve answers each connection with the address that it sees.
func serve(h *nstest.Host, network, address string) {
	l := h.Listen(network, address)
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Write([]byte(c.RemoteAddr().String()))
			c.Close()
		}
	}()
}

// ask connects and returns the address that the server sees, "" when there is no answer.
func ask(t *testing.T, from *nstest.Host, to string) string {
	t.Helper()
	c, err := from.Dial("tcp", to)
	if err != nil {
		t.Log(err)
		return ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	seen, _ := io.ReadAll(c)
	host, _, _ := net.SplitHostPort(string(seen))
	return host
}

// pair is two hosts on one underlay, with a machine outside that both reach.
func pair(t *testing.T, six bool) (a, b *site, outside *nstest.Host) {
	t.Helper()
	one, two, outside := nstest.New(t, "one"), nstest.New(t, "two"), nstest.New(t, "outside")
	for _, h := range []*nstest.Host{one, two, outside} {
		h.Sysctl("ipv6/conf/default/addr_gen_mode", "1")
	}
	both := func(four, six string) []netip.Prefix {
		return []netip.Prefix{netip.MustParsePrefix(four), netip.MustParsePrefix(six)}
	}
	nstest.Connect(one, two, both("192.0.2.1/24", "2001:db8::1/64"), both("192.0.2.2/24", "2001:db8::2/64"))
	nstest.Connect(one, outside, both("198.51.100.1/24", "2001:db8:1::1/64"), both("198.51.100.9/24", "2001:db8:1::9/64"))
	nstest.Connect(two, outside, both("203.0.113.1/24", "2001:db8:2::1/64"), both("203.0.113.9/24", "2001:db8:2::9/64"))
	one.MustReturn()
	two.MustReturn()
	tunnels := []string{"192.0.2.1", "192.0.2.2"}
	if six {
		tunnels = []string{"2001:db8::1", "2001:db8::2"}
	}
	return newSite(t, one, tunnels[0]), newSite(t, two, tunnels[1]), outside
}

func net1(id byte, vni uint32, subnets ...netdriver.Subnet) netdriver.Network {
	return netdriver.Network{ID: endpoint.NetworkID(fmt.Sprintf("%02x%062x", id, id)), Name: fmt.Sprintf("n%d", id), Number: vni, Subnets: subnets}
}

func dual() []netdriver.Subnet {
	return []netdriver.Subnet{drivertest.Subnet("10.1.0.0/24", "10.1.0.1/24"), drivertest.Subnet("fd00:1::/64", "fd00:1::1/64")}
}

// Two hosts, two networks with the same subnets, either family underneath: who is on one network reaches each other, the gateway and the
// outside, and nobody of the other. Ports are reached on both hosts, from everywhere, with the true address where there can be one.
func TestTwoHosts(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(fmt.Sprintf("underlay of IPv6 %v", six), func(t *testing.T) {
			nstest.MustNotLeak(t)
			a, b, outside := pair(t, six)
			blue, red := net1(1, 256, dual()...), net1(2, 257, dual()...)
			for _, s := range []*site{a, b} {
				s.network(blue)
				s.network(red)
			}
			a1 := a.join(blue, drivertest.Ports(t, "8080:80"), "10.1.0.2/24", "fd00:1::2/64")
			b1 := b.join(blue, drivertest.Ports(t, "8080:80"), "10.1.0.3/24", "fd00:1::3/64")
			a2 := a.join(red, drivertest.Ports(t, "8081:80"), "10.1.0.2/24", "fd00:1::2/64") // the addresses of a1
			b2 := b.join(red, nil, "10.1.0.4/24", "fd00:1::4/64")
			a.network(blue, b1.peer())
			b.network(blue, a1.peer())
			a.network(red, b2.peer())
			b.network(red, a2.peer())

			a1.pings(t, b1.addr(0), b1.addr(1), netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("fd00:1::1"))
			b1.pings(t, a1.addr(0), a1.addr(1))
			a2.pings(t, b2.addr(0), b2.addr(1))
			a1.doesNotReach(t, b2.addr(0), b2.addr(1))
			b2.doesNotReach(t, b1.addr(0))
			a1.pings(t, netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("2001:db8:1::9"))
			b2.pings(t, netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:2::9"))

			for name, box := range map[string]*box{"a1": a1, "b1": b1, "a2": a2} {
				serve(box.Host, "tcp4", "0.0.0.0:80")
				serve(box.Host, "tcp6", "[::]:80")
				_ = name
			}
			for _, c := range []struct{ what, from, to, sees string }{
				{"outside", "outside", "198.51.100.1:8080", "198.51.100.9"},
				{"outside", "outside", "[2001:db8:1::1]:8080", "2001:db8:1::9"},
				{"outside, the other host", "outside", "203.0.113.1:8080", "203.0.113.9"},
				{"outside, the other host", "outside", "[2001:db8:2::1]:8080", "2001:db8:2::9"},
				{"outside, the other network", "outside", "198.51.100.1:8081", "198.51.100.9"},
				{"the other host", "two", "192.0.2.1:8080", "192.0.2.2"},
				{"the host", "one", "192.0.2.1:8080", "*"},
				{"the host", "one", "[2001:db8::1]:8080", "*"},
				{"the host at 127.0.0.1", "one", "127.0.0.1:8080", "*"},
				{"the host at ::1", "one", "[::1]:8080", "*"},
				{"the container itself", "a1", "192.0.2.1:8080", "*"},
				{"the container itself", "a1", "[2001:db8::1]:8080", "*"},
				{"a neighbour on the other host", "b1", "192.0.2.1:8080", "*"},
				{"another network", "a2", "192.0.2.1:8080", "*"},
				{"across, directly", "b1", "10.1.0.2:80", "10.1.0.3"},
				{"across, directly", "b1", "[fd00:1::2]:80", "fd00:1::3"},
			} {
				from := map[string]*nstest.Host{"outside": outside, "one": a.Host, "two": b.Host, "a1": a1.Host, "b1": b1.Host, "a2": a2.Host}[c.from]
				if got := ask(t, from, c.to); got == "" || c.sees != "*" && got != c.sees {
					t.Errorf("%s to %s: the server sees %q, want %s", c.what, c.to, got, c.sees)
				}
			}
		})
	}
}

// What goes over the wire is VXLAN with the network's number on its port, from peers only.
func TestOnTheWire(t *testing.T) {
	a, b, _ := pair(t, false)
	blue := net1(1, 700, dual()...)
	blue.Options = overlay.Options{Port: 5789}.Labels()
	for _, s := range []*site{a, b} {
		s.network(blue)
	}
	a1, b1 := a.join(blue, nil, "10.1.0.2/24", "fd00:1::2/64"), b.join(blue, nil, "10.1.0.3/24", "fd00:1::3/64")
	a.network(blue, b1.peer())
	b.network(blue) // does not know a
	a1.doesNotReach(t, b1.addr(0))
	b.network(blue, a1.peer())

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dump := b.Command(ctx, "tcpdump", "-n", "-l", "-T", "vxlan", "-c1", "-i", "one", "udp port 5789")
	out, err := dump.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	errs, err := dump.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dump.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make([]byte, 256)
	if _, err := errs.Read(ready); err != nil { // it listens
		t.Fatal(err)
	}
	nstest.Eventually(t, "tcpdump has seen a packet", func() bool {
		a1.pings(t, b1.addr(0))
		return true
	})
	text, _ := io.ReadAll(out)
	dump.Wait()
	if !strings.Contains(string(text), "VXLAN") || !strings.Contains(string(text), "vni 700") {
		t.Errorf("tcpdump: %s", text)
	}
}

// What is for many or for all stays on a host, unless the option flood has it go to the others.
func TestFlood(t *testing.T) {
	nstest.MustNotLeak(t)
	a, b, _ := pair(t, false)
	blue, red := net1(1, 256, dual()...), net1(2, 257, drivertest.Subnet("10.2.0.0/24", "10.2.0.1/24"))
	red.Options = overlay.Options{Flood: true}.Labels()
	for _, s := range []*site{a, b} {
		s.network(blue)
		s.network(red)
	}
	for _, c := range []struct {
		on    netdriver.Network
		begin string
		heard bool
	}{{blue, "10.1.0.", false}, {red, "10.2.0.", true}} {
		one, two, near := a.join(c.on, nil, c.begin+"2/24"), b.join(c.on, nil, c.begin+"3/24"), a.join(c.on, nil, c.begin+"4/24")
		a.network(c.on, two.peer())
		b.network(c.on, one.peer(), near.peer())
		for _, box := range []*box{two, near} {
			box.Sysctl("ipv4/icmp_echo_ignore_broadcasts", "0")
		}
		one.pings(t, two.addr(0))
		for _, all := range []string{c.begin + "255", "224.0.0.1"} {
			var out string
			hears := func(b *box) bool { return strings.Contains(out, "from "+b.addr(0).String()) }
			nstest.Eventually(t, "all on this host hear "+all, func() bool {
				out, _ = one.Try("ping", "-b", "-c2", "-i0.2", "-W1", "-I", "eth0", all)
				return hears(near) && (hears(two) || !c.heard)
			})
			if !c.heard && hears(two) {
				t.Errorf("%s: the other host hears\n%s", all, out)
			}
		}
	}
}

// A network of several subnets: who is on different ones, and hosts, meets through the gateway that is near. One that is internal: across
// hosts, and nowhere else.
func TestSubnetsAndInternal(t *testing.T) {
	nstest.MustNotLeak(t)
	a, b, outside := pair(t, false)
	several := net1(1, 256, append(dual(), drivertest.Subnet("10.2.0.0/24", "10.2.0.1/24"))...)
	inner := net1(2, 257, dual()...)
	inner.Internal = true
	for _, s := range []*site{a, b} {
		s.network(several)
		s.network(inner)
	}
	one, two := a.join(several, nil, "10.1.0.2/24", "fd00:1::2/64"), b.join(several, nil, "10.2.0.3/24", "fd00:1::3/64")
	a.network(several, two.peer())
	b.network(several, one.peer())
	one.pings(t, two.addr(0), two.addr(1), netip.MustParseAddr("198.51.100.9"))
	two.pings(t, one.addr(0), one.addr(1), netip.MustParseAddr("203.0.113.9"))

	kept, far := a.join(inner, drivertest.Ports(t, "8080:80"), "10.1.0.2/24", "fd00:1::2/64"), b.join(inner, nil, "10.1.0.3/24", "fd00:1::3/64")
	a.network(inner, far.peer())
	b.network(inner, kept.peer())
	kept.pings(t, far.addr(0), far.addr(1))
	far.pings(t, kept.addr(0), kept.addr(1))
	kept.doesNotReach(t, netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("2001:db8:1::9"), netip.MustParseAddr("192.0.2.1"), two.addr(0))
	serve(kept.Host, "tcp4", "0.0.0.0:80")
	if c, err := outside.Dial("tcp", "198.51.100.1:8080"); err == nil {
		c.Close()
		t.Error("a port of an internal network is published")
	}
	if got := ask(t, far.Host, "10.1.0.2:80"); got != "10.1.0.3" {
		t.Errorf("inside, the server sees %q", got)
	}
}
