package sandboxtest

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/sandbox"
)

// Walk takes random walks, each of some changes of a namespace's content, and says that where a walk ends the namespace looks as a new one
// to which the last content was applied alone. The seed is printed when it does not.
func Walk(t *testing.T, e Env, seed uint64, walks, changes int) {
	for walk := range walks {
		r := rand.New(rand.NewPCG(seed, uint64(walk)))
		walked, id := e.walker(t)
		var have sandbox.Config
		var path []sandbox.Step
		for range changes {
			want := randomConfig(r)
			path = append(path, sandbox.Diff(have, want)...)
			reached, err := walked.Apply(t.Context(), "sb/walk", have, want)
			if err != nil {
				t.Fatalf("seed %d, walk %d: %v\n%s", seed, walk, err, lines(path))
			}
			have = reached
		}
		fresh, id2 := e.walker(t)
		if _, err := fresh.Apply(t.Context(), "sb/walk", sandbox.Config{}, have); err != nil {
			t.Fatalf("seed %d, walk %d, alone: %v", seed, walk, err)
		}
		if a, b := look(t, walked, have), look(t, fresh, have); a != b {
			t.Fatalf("seed %d, walk %d ends with\n%sand not, as alone, with\n%safter\n%s", seed, walk, a, b, lines(path))
		}
		for n, id := range map[sandbox.Namespace]string{walked: id, fresh: id2} {
			n.Close()
			if err := e.Provider.Remove(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (e Env) walker(t *testing.T) (sandbox.Namespace, string) {
	t.Helper()
	id := newID()
	n, err := e.Provider.Create(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return n, id
}

func lines(steps []sandbox.Step) string {
	var b strings.Builder
	for _, s := range steps {
		fmt.Fprintf(&b, "  %s\n", s)
	}
	return b.String()
}

// look is what Observe shows, as text, in an order that does not depend on how it came about.
func look(t *testing.T, n sandbox.Namespace, want sandbox.Config) string {
	t.Helper()
	c := observe(t, n, "")
	for i := range c.Links {
		c.Links[i].Addrs = slices.SortedFunc(slices.Values(c.Links[i].Addrs), func(a, b netip.Prefix) int {
			return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
		})
	}
	slices.SortFunc(c.Links, func(a, b sandbox.Link) int { return cmp.Compare(a.Name, b.Name) })
	steps := sandbox.Diff(sandbox.Config{Links: c.Links}, sandbox.Config{})
	text := lines(steps)
	for _, l := range c.Links {
		text += fmt.Sprintf("  %s mtu %d %s master %q %s silent %v %v\n", l.Name, l.MTU, l.MAC, l.Master, l.Port, l.Silent, l.Addrs)
	}
	for _, line := range slices.Concat(sorted(c.Routes, sandbox.Route.String), sorted(c.Rules, func(r sandbox.Rule) string { return fmt.Sprint(r) })) {
		text += "  " + line + "\n"
	}
	for _, s := range sandbox.Diff(c, seen(want, n.Key() == "")) {
		text += "  missing: " + s.String() + "\n"
	}
	return text
}

// randomConfig is bridges, veths whose both ends are here, addresses, routes and rules: what depends on what, in all combinations. One MTU
// for all, because a bridge follows its ports.
func randomConfig(r *rand.Rand) sandbox.Config {
	var c sandbox.Config
	chance := func() bool { return r.IntN(2) == 0 }
	g := generator{r: r, mtu: 1400 + 100*r.IntN(2)}
	bridges := []string{""}
	for i := range 2 {
		if chance() {
			l := g.link(i, "br")
			l.Bridge = &sandbox.Bridge{NoSnooping: chance()}
			c.Links = append(c.Links, l)
			bridges = append(bridges, l.Name)
		}
	}
	for i := 2; i < 5; i++ {
		if !chance() {
			continue
		}
		near, far := g.link(i, "v"), g.link(i+3, "w")
		far.Name = strings.Replace(near.Name, "v", "w", 1)
		if near.Master = bridges[r.IntN(len(bridges))]; near.Master != "" {
			near.Port, near.Addrs = sandbox.Port{Isolated: chance(), Hairpin: chance()}, nil
		}
		near.Veth = &sandbox.Veth{Peer: far.Name, MAC: far.MAC}
		c.Links = append(c.Links, near, far)
	}
	c.Routes = g.routes(c.Links)
	for i := range 2 {
		if chance() {
			c.Rules = append(c.Rules, sandbox.Rule{Source: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 24), Table: 100 + r.IntN(2)})
		}
	}
	return c
}

type generator struct {
	r   *rand.Rand
	mtu int
}

// link i has its own subnets, of which it has up to two addresses a family.
func (g generator) link(i int, kind string) sandbox.Link {
	n := byte(i)
	l := sandbox.Link{Name: fmt.Sprintf("%s%d", kind, i), MTU: g.mtu, MAC: net.HardwareAddr{2, 0, 0, 0, n, byte(g.r.IntN(2))}, Silent: true}
	for host := byte(1); host <= 2; host++ {
		if g.r.IntN(2) == 0 {
			l.Addrs = append(l.Addrs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, n, 0, host}), 24))
		}
		if g.r.IntN(2) == 0 {
			l.Addrs = append(l.Addrs, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 7: n, 15: host}), 64))
		}
	}
	g.r.Shuffle(len(l.Addrs), func(a, b int) { l.Addrs[a], l.Addrs[b] = l.Addrs[b], l.Addrs[a] })
	return l
}

// routes lead through neighbours of the links, at most one to a destination.
func (g generator) routes(links []sandbox.Link) []sandbox.Route {
	all := make(map[netip.Prefix]sandbox.Route)
	for _, l := range links {
		for _, a := range l.Addrs {
			via := a.Masked().Addr().As16()
			via[15] = 99
			r := sandbox.Route{Link: l.Name, Metric: []int{0, 7, 9}[g.r.IntN(3)], Table: []int{0, 100}[g.r.IntN(2)]}
			if a.Addr().Is4() {
				r.Dst = netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16 + byte(g.r.IntN(3)), 0, 0}), 16)
			} else {
				r.Dst = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0xff, 2: byte(g.r.IntN(3))}), 64)
			}
			if g.r.IntN(2) == 0 {
				r.Via = netip.AddrFrom16(via).Unmap()
			}
			all[r.Dst] = r
		}
	}
	if g.r.IntN(2) == 0 {
		dst := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, 0, 0}), 16)
		all[dst] = sandbox.Route{Dst: dst, Type: []string{"blackhole", "unreachable", "prohibit"}[g.r.IntN(3)]}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b sandbox.Route) int { return a.Dst.Addr().Compare(b.Dst.Addr()) })
}
