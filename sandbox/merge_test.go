package sandbox_test

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sealane/sealane/sandbox"
)

// brings is short for a map of attachments: "key name=… prefix=… gw4=…", one endpoint a line.
func brings(t testing.TB, text string) map[string]sandbox.Attachment {
	t.Helper()
	all := make(map[string]sandbox.Attachment)
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		var a sandbox.Attachment
		for _, w := range words[1:] {
			k, v, _ := strings.Cut(w, "=")
			switch k {
			case "name":
				a.Link.Name = v
			case "prefix":
				a.Prefix = v
			case "addr":
				a.Link.Addrs = append(a.Link.Addrs, netip.MustParsePrefix(v))
			case "gw4":
				a.Gateway4 = netip.MustParseAddr(v)
			case "gw6":
				a.Gateway6 = netip.MustParseAddr(v)
			case "onlink4":
				a.OnLink4 = true
			case "onlink6":
				a.OnLink6 = true
			case "internal":
				a.Internal = true
			case "order":
				a.Order = v
			case "priority":
				fmt.Sscan(v, &a.Priority)
			case "route": // dst,via,type,metric
				f := strings.Split(v+",,,", ",")
				r := sandbox.Route{Dst: netip.MustParsePrefix(f[0]), Type: f[2]}
				if f[1] != "" {
					r.Via = netip.MustParseAddr(f[1])
				}
				fmt.Sscan(f[3], &r.Metric)
				a.Routes = append(a.Routes, r)
			case "sysctl":
				f := strings.Split(v, ":")
				a.Sysctls = append(a.Sysctls, sandbox.Sysctl{Key: f[0], Value: f[1]})
			default:
				t.Fatalf("unknown word %q", w)
			}
		}
		all[words[0]] = a
	}
	return all
}

func text(m sandbox.Merged) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(m.Names)) {
		fmt.Fprintf(&b, "%s is %s\n", key, m.Names[key])
	}
	for _, l := range m.Config.Links {
		fmt.Fprintf(&b, "link %s %v\n", l.Name, l.Addrs)
	}
	for _, r := range m.Config.Routes {
		fmt.Fprintf(&b, "route %s", strings.TrimSpace(fmt.Sprint(r.Type, " ", r.Dst)))
		if r.Via.IsValid() {
			fmt.Fprintf(&b, " via %s", r.Via)
		}
		if r.Link != "" {
			fmt.Fprintf(&b, " dev %s", r.Link)
		}
		if r.Metric != 0 {
			fmt.Fprintf(&b, " metric %d", r.Metric)
		}
		b.WriteByte('\n')
	}
	for _, s := range m.Config.Sysctls {
		fmt.Fprintf(&b, "sysctl %s=%s of %s\n", s.Key, s.Value, s.Link)
	}
	fmt.Fprintf(&b, "gateways %q %q\n", m.Gateway4, m.Gateway6)
	return b.String()
}

func TestMerge(t *testing.T) {
	for _, c := range []struct{ name, brought, want string }{
		{"nothing", ``, `
			gateways "" ""`},
		{"one of both families", `
			a addr=10.1.0.2/24 gw4=10.1.0.1 addr=fd00::2/64 gw6=fd00::1`, `
			a is eth0
			link eth0 [10.1.0.2/24 fd00::2/64]
			route 0.0.0.0/0 via 10.1.0.1 dev eth0
			route ::/0 via fd00::1 dev eth0
			gateways "a" "a"`},
		{"names: given ones are kept, the lowest free number goes in order of key", `
			c name=eth1
			b
			a
			d prefix=net
			e prefix=net name=net7
			f prefix=net`, `
			a is eth0
			b is eth2
			c is eth1
			d is net0
			e is net7
			f is net1
			link eth0 []
			link eth1 []
			link eth2 []
			link net0 []
			link net1 []
			link net7 []
			gateways "" ""`},
		{"gateway: priority before name, internal never, families apart", `
			a order=aaa gw4=10.1.0.1 gw6=fd01::1
			b order=bbb gw4=10.2.0.1 priority=5
			c order=ccc gw4=10.3.0.1 priority=9 internal
			d order=ddd gw6=fd04::1 priority=-1`, `
			a is eth0
			b is eth1
			c is eth2
			d is eth3
			link eth0 []
			link eth1 []
			link eth2 []
			link eth3 []
			route 0.0.0.0/0 via 10.2.0.1 dev eth1
			route ::/0 via fd01::1 dev eth0
			gateways "b" "a"`},
		{"gateway: ties go by network name, then by key", `
			a order=zulu gw4=10.1.0.1
			b order=alfa gw4=10.2.0.1 gw6=fd02::1
			c order=alfa gw4=10.3.0.1`, `
			a is eth0
			b is eth1
			c is eth2
			link eth0 []
			link eth1 []
			link eth2 []
			route 0.0.0.0/0 via 10.2.0.1 dev eth1
			route ::/0 via fd02::1 dev eth1
			gateways "b" "b"`},
		{"a negative priority loses and is better than nothing", `
			a priority=-3 gw4=10.1.0.1`, `
			a is eth0
			link eth0 []
			route 0.0.0.0/0 via 10.1.0.1 dev eth0
			gateways "a" ""`},
		{"the link itself leads out", `
			a onlink4 onlink6`, `
			a is eth0
			link eth0 []
			route 0.0.0.0/0 dev eth0
			route ::/0 dev eth0
			gateways "a" "a"`},
		{"static routes: theirs is the link, but for those that lead nowhere", `
			a route=10.9.0.0/16,10.1.0.1 route=10.8.0.0/16
			b route=10.7.0.0/16,,blackhole route=10.9.0.0/16,10.2.0.1,,50`, `
			a is eth0
			b is eth1
			link eth0 []
			link eth1 []
			route blackhole 10.7.0.0/16
			route 10.8.0.0/16 dev eth0
			route 10.9.0.0/16 via 10.1.0.1 dev eth0
			route 10.9.0.0/16 via 10.2.0.1 dev eth1 metric 50
			gateways "" ""`},
		{"sysctls get the name", `
			a name=in.1 sysctl=ipv4/conf/IFNAME/log_martians:1
			b sysctl=ipv4/conf/IFNAME/log_martians:0 sysctl=ipv6/conf/IFNAME/accept_ra:0`, `
			a is in.1
			b is eth0
			link eth0 []
			link in.1 []
			sysctl ipv4/conf/eth0/log_martians=0 of eth0
			sysctl ipv4/conf/in.1/log_martians=1 of in.1
			sysctl ipv6/conf/eth0/accept_ra=0 of eth0
			gateways "" ""`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := sandbox.Merge(brings(t, c.brought))
			if err != nil {
				t.Fatal(err)
			}
			want := strings.TrimPrefix(strings.ReplaceAll(c.want, "\n\t\t\t", "\n"), "\n") + "\n"
			if diff := cmp.Diff(want, text(m)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMergeRefuses(t *testing.T) {
	for _, c := range []struct {
		name, brought string
		kind          func(error) bool
		says          string
	}{
		{"one name twice", "a name=eth5\nb name=eth5", errdefs.IsAlreadyExists, "eth5, wanted by b, belongs to a"},
		{"the loopback's name", "a name=lo", errdefs.IsAlreadyExists, "interface name lo"},
		{"one route twice", "a route=10.9.0.0/16,10.1.0.1\nb route=10.9.0.0/16,10.2.0.1", errdefs.IsFailedPrecondition, "10.9.0.0/16 (table 254, metric 0) is given by a and by b"},
		{"a static default beside the gateway's", "a gw4=10.1.0.1\nb route=0.0.0.0/0,10.2.0.1", errdefs.IsFailedPrecondition, "0.0.0.0/0"},
		{"the kernel's IPv6 metric and none", "a route=fd09::/64\nb route=fd09::/64,,,1024", errdefs.IsFailedPrecondition, "metric 1024"},
		{"one sysctl, two values", "a sysctl=core/somaxconn:1\nb sysctl=core/somaxconn:2", errdefs.IsFailedPrecondition, `net/core/somaxconn is wanted as "1" and as "2"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := sandbox.Merge(brings(t, c.brought))
			if !c.kind(err) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func genAttachment(t *rapid.T) sandbox.Attachment {
	a := sandbox.Attachment{
		Prefix:   rapid.SampledFrom([]string{"", "eth", "net", "e"}).Draw(t, "prefix"),
		Priority: rapid.IntRange(-2, 2).Draw(t, "priority"),
		Order:    rapid.SampledFrom([]string{"red", "green", "blue"}).Draw(t, "order"),
		Internal: rapid.Bool().Draw(t, "internal"),
		OnLink6:  rapid.Bool().Draw(t, "onlink6"),
	}
	a.Link.Name = rapid.SampledFrom([]string{"", "", "", "eth0", "eth3", "x"}).Draw(t, "name")
	if rapid.Bool().Draw(t, "gw4") {
		a.Gateway4 = netip.MustParseAddr("10.0.0.1")
	}
	return a
}

// Whatever is brought: names are unique, each family has at most one default route and it leads by the best endpoint that offers one.
func TestMergeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		brought := rapid.MapOfN(rapid.StringMatching(`[a-f]{2}`), rapid.Custom(genAttachment), 0, 8).Draw(t, "brought")
		m, err := sandbox.Merge(brought)
		given := make(map[string]int)
		for _, a := range brought {
			given[a.Link.Name]++
		}
		delete(given, "")
		twice := slices.ContainsFunc(slices.Collect(maps.Values(given)), func(n int) bool { return n > 1 })
		if twice != errdefs.IsAlreadyExists(err) || !twice && err != nil {
			t.Fatalf("names given twice: %v, error %v", twice, err)
		}
		if err != nil {
			return
		}
		again, _ := sandbox.Merge(maps.Clone(brought))
		if !reflect.DeepEqual(m, again) {
			t.Fatalf("two merges differ:\n%s", cmp.Diff(m, again))
		}
		seen := make(map[string]bool)
		for key, name := range m.Names {
			if seen[name] || brought[key].Link.Name != "" && brought[key].Link.Name != name {
				t.Fatalf("name %s of %s: %v", name, key, m.Names)
			}
			seen[name] = true
		}
		best4 := m.Gateway4
		for key, a := range brought {
			if a.Internal || !a.Gateway4.IsValid() {
				continue
			}
			if best4 == "" || brought[best4].Priority < a.Priority {
				t.Fatalf("%s is a better gateway than %q", key, best4)
			}
		}
		if n := len(m.Config.Routes); (m.Gateway4 != "") != slices.ContainsFunc(m.Config.Routes, func(r sandbox.Route) bool { return r.Dst.Addr().Is4() }) || n > 2 {
			t.Fatalf("routes %v of gateways %q %q", m.Config.Routes, m.Gateway4, m.Gateway6)
		}
		// What is kept has its name given next time: the result must not move.
		for key, name := range m.Names {
			a := brought[key]
			a.Link.Name = name
			brought[key] = a
		}
		if kept, err := sandbox.Merge(brought); err != nil || !reflect.DeepEqual(m, kept) {
			t.Fatalf("merging with the names kept: %v\n%s", err, cmp.Diff(m, kept))
		}
	})
}

func TestWithin(t *testing.T) {
	link := func(name string) sandbox.Link { return sandbox.Link{Name: name} }
	route := func(dst, dev string, metric int) sandbox.Route {
		return sandbox.Route{Dst: netip.MustParsePrefix(dst), Link: dev, Metric: metric}
	}
	mine := sandbox.Rule{Source: netip.MustParsePrefix("10.1.0.0/24"), Table: 7}
	observed := sandbox.Config{
		Links:  []sandbox.Link{link("eth0"), link("other")},
		Routes: []sandbox.Route{route("0.0.0.0/0", "eth0", 0), route("::/0", "eth0", 1024), route("10.9.0.0/16", "other", 0)},
		Rules:  []sandbox.Rule{mine, {Source: mine.Source, Table: 8}},
	}
	known := sandbox.Config{
		Links:   []sandbox.Link{link("eth0"), link("gone")},
		Routes:  []sandbox.Route{route("0.0.0.0/0", "eth0", 0), route("::/0", "eth0", 0), route("10.9.0.0/16", "other", 5)},
		Rules:   []sandbox.Rule{mine},
		Sysctls: []sandbox.Sysctl{{Key: "ipv4/ip_forward", Value: "1"}},
	}
	want := sandbox.Config{Links: observed.Links[:1], Routes: observed.Routes[:2], Rules: observed.Rules[:1]}
	if diff := cmp.Diff(want, observed.Within(known), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if got := observed.Within(sandbox.Config{}); !reflect.DeepEqual(got, sandbox.Config{}) {
		t.Errorf("within nothing: %v", got)
	}
}
