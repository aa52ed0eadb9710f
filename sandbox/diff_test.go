package sandbox_test

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sealane/sealane/internal/golden"
	"github.com/sealane/sealane/sandbox"
)

var update = flag.Bool("update", false, "write testdata")

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

func prefixes(s ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range s {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func defaults(via4, via6, link string) []sandbox.Route {
	return []sandbox.Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr(via4), Link: link},
		{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr(via6), Link: link},
	}
}

// links is a Config of links alone.
func links(l ...sandbox.Link) sandbox.Config { return sandbox.Config{Links: l} }

func network() sandbox.Link {
	return sandbox.Link{Name: "sl-1", Owner: "net/1", MTU: 1500, MAC: mac("02:42:0a:00:00:01"), Silent: true, Bridge: &sandbox.Bridge{NoSnooping: true},
		Addrs: prefixes("10.0.0.1/16", "fd00:1::1/64")}
}

func port() sandbox.Link {
	return sandbox.Link{Name: "sv1", Master: "sl-1", Owner: "ep/1", MTU: 1500, Silent: true,
		Veth: &sandbox.Veth{Peer: "eth0", Space: "/run/sealane/netns/1", MAC: mac("02:42:0a:00:00:02")}}
}

func inside() sandbox.Config {
	return sandbox.Config{
		Links: []sandbox.Link{{Name: "eth0", MTU: 1500, MAC: mac("02:42:0a:00:00:02"), Silent: true, Addrs: prefixes("10.0.0.2/16", "fd00:1::2/64")}},
		Routes: append(defaults("10.0.0.1", "fd00:1::1", "eth0"), sandbox.Route{Dst: netip.MustParsePrefix("192.0.2.7/32"), Link: "eth0"},
			sandbox.Route{Dst: netip.MustParsePrefix("198.51.100.0/24"), Type: "blackhole"}),
		Rules:   []sandbox.Rule{{Source: netip.MustParsePrefix("10.0.0.2/32"), Table: 100}},
		Sysctls: []sandbox.Sysctl{{Key: "core/somaxconn", Value: "1024"}, {Key: "ipv4/conf/IFNAME/arp_ignore", Value: "1", Link: "eth0"}},
	}
}

func tunnel() sandbox.Config {
	entry := func(addr, via, m string) sandbox.Entry {
		e := sandbox.Entry{MAC: mac(m)}
		if addr != "" {
			e.Addr = netip.MustParseAddr(addr)
		}
		if via != "" {
			e.Via = netip.MustParseAddr(via)
		}
		return e
	}
	return links(
		sandbox.Link{Name: "sx1", Master: "br0", MTU: 1450, Port: sandbox.Port{NoFlood: true, NoLearning: true, ProxyARP: true},
			VXLAN:   &sandbox.VXLAN{VNI: 256, Port: 4789, Local: netip.MustParseAddr("192.0.2.1")},
			Entries: []sandbox.Entry{entry("", "192.0.2.9", "02:00:00:00:00:09"), entry("", "192.0.2.8", "02:00:00:00:00:08")}},
		sandbox.Link{Name: "br0", MTU: 1450, Bridge: &sandbox.Bridge{}, Addrs: prefixes("10.1.0.1/24"),
			Entries: []sandbox.Entry{entry("10.1.0.9", "", "02:00:00:00:00:09"), entry("10.1.0.8", "", "02:00:00:00:00:08")}})
}

// changed is a Config with its first link changed.
func changed(c sandbox.Config, change func(*sandbox.Link)) sandbox.Config {
	c.Links = slices.Clone(c.Links)
	change(&c.Links[0])
	return c
}

type diffCase struct {
	name       string
	have, want sandbox.Config
}

func diffCases() []diffCase {
	nothing := sandbox.Config{}
	up := sandbox.Config{Links: []sandbox.Link{{Name: "eth1", Addrs: prefixes("10.9.0.2/24", "fd00:9::2/64")}}, Routes: []sandbox.Route{{Dst: netip.MustParsePrefix("10.8.0.0/16"), Link: "eth1"}}}
	down := changed(up, func(l *sandbox.Link) { l.Down = true })
	source := func(c sandbox.Config, s string) sandbox.Config {
		c.Routes = slices.Clone(c.Routes)
		c.Routes[1].Source = netip.MustParseAddr(s)
		return c
	}
	return []diffCase{
		{"nothing", inside(), inside()},
		{"a network comes", nothing, links(network())},
		{"a network goes", links(network()), nothing},
		{"an endpoint comes", nothing, links(port())},
		{"an endpoint goes", links(port()), nothing},
		{"inside a sandbox, to a network", nothing, inside()},
		{"inside a sandbox, away from it", inside(), nothing},
		{"another gateway", inside(), sandbox.Config{Links: inside().Links, Routes: defaults("10.0.0.9", "fd00:1::9", "eth0"), Rules: inside().Rules, Sysctls: inside().Sysctls}},
		{"settings that change while it lives", links(port()), changed(links(port()), func(l *sandbox.Link) {
			l.MTU, l.Master, l.Owner, l.Port = 1400, "sl-2", "ep/2", sandbox.Port{Isolated: true, Hairpin: true}
		})},
		{"a bridge that snoops again", links(network()), changed(links(network()), func(l *sandbox.Link) { l.Bridge = &sandbox.Bridge{}; l.MAC = mac("02:42:0a:00:00:09") })},
		{"off its bridge and down", links(port()), changed(links(port()), func(l *sandbox.Link) { l.Master = ""; l.Down = true })},
		{"zero fields are left alone", links(network()), changed(links(network()), func(l *sandbox.Link) { l.MTU = 0; l.MAC = nil })},
		{"another peer", links(port()), changed(links(port()), func(l *sandbox.Link) { l.Veth = &sandbox.Veth{Peer: "eth1", Space: "/run/sealane/netns/1"} })},
		{"a veth seen from one end", links(sandbox.Link{Name: "sv1", Master: "sl-1", Owner: "ep/1", MTU: 1500, Silent: true, Veth: &sandbox.Veth{}}), links(port())},
		{"a bridge made again under its port", links(sandbox.Link{Name: "sl-1", Tap: &sandbox.Tap{}}, port()), links(port(), network())},
		{"IPv6 prefix length", links(network()), changed(links(network()), func(l *sandbox.Link) { l.Addrs = prefixes("10.0.0.1/24", "fd00:1::1/80") })},
		{"source of an IPv6 route", inside(), source(inside(), "fd00:1::2")},
		{"up again", down, up},
		{"a tunnel comes", nothing, tunnel()},
		{"a tunnel goes", tunnel(), nothing},
		{"a peer moves and a neighbour is replaced", tunnel(), changed(tunnel(), func(l *sandbox.Link) {
			l.Entries = slices.Clone(l.Entries)
			l.Entries[0].Via = netip.MustParseAddr("192.0.2.8")
			l.Entries = l.Entries[:1]
		})},
		{"a foreign bridge", nothing, links(sandbox.Link{Name: "br9", Adopt: true, Addrs: prefixes("10.0.0.1/16")}, sandbox.Link{Name: "sv1", Master: "br9", Veth: &sandbox.Veth{Peer: "x"}})},
		{"off a foreign bridge", sandbox.Config{Links: []sandbox.Link{{Name: "br9", Adopt: true, Addrs: prefixes("10.0.0.1/16")}}, Routes: []sandbox.Route{{Dst: netip.MustParsePrefix("10.8.0.0/16"), Link: "br9"}}}, nothing},
		{"a remote driver's link", nothing, links(sandbox.Link{Name: "eth0", Arrives: "wl7", Addrs: prefixes("10.0.0.2/16")})},
		{"a remote driver's link goes home", links(sandbox.Link{Name: "eth0", Arrives: "wl7"}), nothing},
		{"children and a tap", nothing, links(
			sandbox.Link{Name: "v9", Owner: "net/9", Child: &sandbox.Child{Kind: "vlan", Parent: "uplink", ID: "9"}},
			sandbox.Link{Name: "eth0", MAC: mac("02:00:00:00:00:01"), Child: &sandbox.Child{Kind: "macvlan", Parent: "v9", Mode: "bridge"}},
			sandbox.Link{Name: "eth1", Child: &sandbox.Child{Kind: "ipvlan", Parent: "uplink", Mode: "l3", Flag: "private"}},
			sandbox.Link{Name: "tap0", MTU: 1400, Tap: &sandbox.Tap{UID: 1000, GID: 100}})},
		{"a child in another mode", links(sandbox.Link{Name: "eth0", Child: &sandbox.Child{Kind: "macvlan", Parent: "u", Mode: "bridge"}}),
			links(sandbox.Link{Name: "eth0", Child: &sandbox.Child{Kind: "macvlan", Parent: "u", Mode: "private"}})},
	}
}

func TestDiff(t *testing.T) {
	var b strings.Builder
	for _, c := range diffCases() {
		fmt.Fprintf(&b, "== %s\n", c.name)
		for _, s := range sandbox.Diff(c.have, c.want) {
			fmt.Fprintln(&b, s)
		}
	}
	golden.Check(t, *update, "diff", b.String())
}

func TestAfterDiffIsWhatWasWanted(t *testing.T) {
	for _, c := range diffCases() {
		t.Run(c.name, func(t *testing.T) { reaches(t, c.have, c.want) })
	}
}

// reaches checks that the steps lead to want, in an order that a kernel can follow, and that nothing is left to do then.
func reaches(t rapid.TB, have, want sandbox.Config) {
	steps := sandbox.Diff(have, want)
	got := have
	for i, s := range steps {
		if err := lawful(got, s); err != nil {
			t.Fatalf("step %d, %s: %v\nof %v", i, s, err, steps)
		}
		got = sandbox.After(got, []sandbox.Step{s})
	}
	if left := sandbox.Diff(got, want); len(left) != 0 {
		t.Fatalf("steps %v\nleave undone %v", steps, left)
	}
	if diff := cmp.Diff(complete(want, got), complete(got, got), same()...); diff != "" {
		t.Fatalf("steps %v\nreach (-want +got):\n%s", steps, diff)
	}
}

// lawful says why a kernel would refuse a step.
func lawful(c sandbox.Config, s sandbox.Step) error {
	find := func(name string) *sandbox.Link {
		if i := slices.IndexFunc(c.Links, func(l sandbox.Link) bool { return l.Name == name }); i >= 0 {
			return &c.Links[i]
		}
		return nil
	}
	l := find(s.Link.Name)
	switch s.Op {
	case sandbox.AddLink:
		if l != nil {
			return fmt.Errorf("the name is taken")
		}
	case sandbox.SetLink, sandbox.DelLink, sandbox.SetEntry, sandbox.DelEntry, sandbox.DelAddr:
		if l == nil {
			return fmt.Errorf("there is no such link")
		}
	case sandbox.AddAddr:
		if l == nil {
			return fmt.Errorf("there is no such link")
		}
		for _, p := range l.Addrs {
			if p == s.Addr || p.Addr() == s.Addr.Addr() && p.Addr().Is6() {
				return fmt.Errorf("the address is there")
			}
		}
	case sandbox.AddRoute:
		if slices.Contains(c.Routes, s.Route) {
			return fmt.Errorf("the route is there")
		}
	case sandbox.DelRoute:
		if !slices.Contains(c.Routes, s.Route) {
			return fmt.Errorf("there is no such route")
		}
	}
	return nil
}

// complete is c with what it leaves open taken from there.
func complete(c, there sandbox.Config) sandbox.Config {
	c.Links = slices.Clone(c.Links)
	for i := range c.Links {
		l := &c.Links[i]
		for _, o := range there.Links {
			if o.Name != l.Name {
				continue
			}
			if l.MTU == 0 {
				l.MTU = o.MTU
			}
			if len(l.MAC) == 0 {
				l.MAC = o.MAC
			}
			if l.Master == "" {
				l.Port = o.Port
			}
			if l.Veth != nil && o.Veth != nil && (len(l.Veth.MAC) == 0 || o.Veth.Peer == "") {
				l.Veth = o.Veth
			}
			if l.Adopt {
				*l = sandbox.Link{Name: l.Name, Adopt: true, MTU: l.MTU, MAC: l.MAC, Addrs: l.Addrs, Entries: l.Entries, Owner: o.Owner, Master: o.Master, Silent: o.Silent, Port: o.Port, Down: o.Down}
			}
		}
	}
	c.Sysctls = nil // written and never turned back
	return c
}

func same() []cmp.Option {
	return []cmp.Option{
		cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty(),
		cmpopts.SortSlices(func(a, b sandbox.Link) bool { return a.Name < b.Name }),
		cmpopts.SortSlices(func(a, b netip.Prefix) bool { return a.String() < b.String() }),
		cmpopts.SortSlices(func(a, b sandbox.Route) bool { return a.String() < b.String() }),
		cmpopts.SortSlices(func(a, b sandbox.Rule) bool { return fmt.Sprint(a) < fmt.Sprint(b) }),
		cmpopts.SortSlices(func(a, b sandbox.Entry) bool { return fmt.Sprint(a) < fmt.Sprint(b) }),
		cmpopts.IgnoreFields(sandbox.Link{}, "Announce"),
	}
}

// configs draws what the parts of a plan look like, from few names so that they meet.
func configs() *rapid.Generator[sandbox.Config] {
	return rapid.Custom(func(t *rapid.T) sandbox.Config {
		var c sandbox.Config
		for _, name := range []string{"a", "b", "c", "d"} {
			if l, ok := drawLink(t, name); ok {
				c.Links = append(c.Links, l)
			}
		}
		names := []string{"z"}
		for _, l := range c.Links {
			if !l.Down {
				names = append(names, l.Name)
			}
		}
		addrs := rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")})
		addrs6 := rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")})
		c.Routes = rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) sandbox.Route {
			r := sandbox.Route{Dst: rapid.SampledFrom(prefixes("0.0.0.0/0", "10.8.0.0/16", "::/0", "fd08::/64")).Draw(t, "dst"), Link: rapid.SampledFrom(names).Draw(t, "link"),
				Metric: rapid.SampledFrom([]int{0, 100}).Draw(t, "metric")}
			from := addrs
			if r.Dst.Addr().Is6() {
				from = addrs6
			}
			r.Via, r.Source = from.Draw(t, "via"), from.Draw(t, "source")
			return r
		}), 0, 4, func(r sandbox.Route) string { // what the kernel tells apart in both families
			return fmt.Sprint(r.Dst, r.Via, r.Link, r.Metric, r.Table)
		}).Draw(t, "routes")
		c.Rules = rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) sandbox.Rule {
			return sandbox.Rule{Source: rapid.SampledFrom(prefixes("10.0.0.2/32", "fd00::2/128")).Draw(t, "source"), Table: rapid.IntRange(100, 101).Draw(t, "table")}
		}), 0, 3, rapid.ID[sandbox.Rule]).Draw(t, "rules")
		return c
	})
}

func drawLink(t *rapid.T, name string) (sandbox.Link, bool) {
	l := sandbox.Link{Name: name, MTU: rapid.SampledFrom([]int{0, 1400, 1500}).Draw(t, "mtu"), Owner: rapid.SampledFrom([]string{"ep/1", "ep/2"}).Draw(t, "owner"),
		Down: rapid.Bool().Draw(t, "down"), Silent: rapid.Bool().Draw(t, "silent")}
	switch rapid.IntRange(0, 7).Draw(t, "kind") {
	case 0:
		return l, false
	case 1:
		l.Bridge = &sandbox.Bridge{NoSnooping: rapid.Bool().Draw(t, "snooping")}
	case 2:
		l.Veth = &sandbox.Veth{Peer: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "peer")}
	case 3:
		l.VXLAN = &sandbox.VXLAN{VNI: rapid.Uint32Range(1, 2).Draw(t, "vni")}
	case 4:
		l.Child = &sandbox.Child{Kind: rapid.SampledFrom([]string{"macvlan", "vlan"}).Draw(t, "child"), Parent: "up"}
	case 5:
		l.Tap = &sandbox.Tap{UID: rapid.Uint32Range(0, 1).Draw(t, "uid")}
	case 6:
		l = sandbox.Link{Name: name, Adopt: true}
	case 7:
	}
	if name > "a" && l.Bridge == nil && !l.Adopt {
		l.Master = rapid.SampledFrom([]string{"", "a", "z"}).Draw(t, "master")
	}
	if l.Master != "" {
		l.Port.Isolated = rapid.Bool().Draw(t, "isolated")
	}
	l.Addrs = rapid.SliceOfNDistinct(rapid.SampledFrom(prefixes("10.0.0.2/16", "10.0.0.2/24", "10.0.0.3/16", "fd00::2/64", "fd00::2/80", "fd00::3/64")), 0, 3,
		func(p netip.Prefix) string {
			if p.Addr().Is6() {
				return p.Addr().String()
			}
			return p.String()
		}).Draw(t, "addrs")
	l.Entries = rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) sandbox.Entry {
		e := sandbox.Entry{MAC: mac(rapid.SampledFrom([]string{"02:00:00:00:00:01", "02:00:00:00:00:02"}).Draw(t, "mac"))}
		if rapid.Bool().Draw(t, "fdb") {
			e.Via = rapid.SampledFrom([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}).Draw(t, "via")
		} else {
			e.Addr = rapid.SampledFrom([]netip.Addr{netip.MustParseAddr("10.0.0.8"), netip.MustParseAddr("10.0.0.9")}).Draw(t, "addr")
		}
		return e
	}), 0, 3, func(e sandbox.Entry) string {
		if e.Via.IsValid() {
			return e.MAC.String()
		}
		return e.Addr.String()
	}).Draw(t, "entries")
	return l, true
}

func TestDiffOfEqualsIsEmpty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := configs().Draw(t, "config")
		if steps := sandbox.Diff(c, c); len(steps) != 0 {
			t.Fatalf("%v", steps)
		}
	})
}

func TestDiffReachesWhatIsWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		reaches(t, configs().Draw(t, "have"), configs().Draw(t, "want"))
	})
}

func TestDiffTearsDown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := configs().Draw(t, "config")
		left := sandbox.After(c, sandbox.Diff(c, sandbox.Config{}))
		left.Sysctls = nil
		if diff := cmp.Diff(sandbox.Config{}, left, same()...); diff != "" {
			t.Fatalf("left (-want +got):\n%s", diff)
		}
	})
}

// A delete comes before an add only to make room for one.
func TestAddsBeforeDeletes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, want := configs().Draw(t, "have"), configs().Draw(t, "want")
		steps := sandbox.Diff(have, want)
		for i, s := range steps {
			isAdd := func(o sandbox.Step) bool { return !strings.HasSuffix(string(o.Op), "del") }
			later := steps[i+1:]
			if !isAdd(s) && slices.ContainsFunc(later, isAdd) && !slices.ContainsFunc(later, func(o sandbox.Step) bool { return makesRoom(s, o) }) {
				t.Fatalf("%s makes no room for what follows it: %v", s, later)
			}
		}
	})
}

// makesRoom says whether what del removes must go before add.
func makesRoom(del, add sandbox.Step) bool {
	switch add.Op {
	case sandbox.AddLink:
		return add.Link.Name == del.Link.Name || add.Link.Name == del.Route.Link
	case sandbox.AddAddr:
		return del.Op == sandbox.DelAddr && del.Link.Name == add.Link.Name && del.Addr.Addr() == add.Addr.Addr()
	case sandbox.AddRoute:
		return del.Op == sandbox.DelRoute && del.Route.Dst == add.Route.Dst && del.Route.Link == add.Route.Link && del.Route.Via == add.Route.Via
	}
	return false
}
