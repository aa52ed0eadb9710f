package sealane_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// deeds writes down what is done to kernel, firewall and resolver from now on.
func (m *machine) deeds() (stop func() []string) {
	var mu sync.Mutex
	var all []string
	watch := func(what string) func(string) error {
		return func(op string) error {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, what+" "+op)
			return nil
		}
	}
	m.kernel.Fault, m.walls.Fault, m.names.Fault = watch("kernel"), watch("firewall"), watch("names")
	return func() []string {
		m.idle()
		m.kernel.Fault, m.walls.Fault, m.names.Fault = m.touch, m.touch, m.touch
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

func (m *machine) made(s sealane.NetworkSpec) sealane.Network {
	m.t.Helper()
	n, err := m.CreateNetwork(m.t.Context(), s)
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// boxed is a sandbox with an endpoint of its name on each network.
func (m *machine) boxed(s sandbox.Spec, e endpoint.Spec, on ...sealane.Network) (sandbox.Sandbox, []endpoint.Endpoint) {
	m.t.Helper()
	box, err := m.CreateSandbox(m.t.Context(), s)
	if err != nil {
		m.t.Fatal(err)
	}
	var all []endpoint.Endpoint
	for _, n := range on {
		e.Name, e.For = s.Name, box.ID()
		ep, err := n.CreateEndpoint(m.t.Context(), e)
		if err == nil {
			err = ep.Join(m.t.Context(), box)
		}
		if err != nil {
			m.t.Fatal(err)
		}
		all = append(all, ep)
	}
	return box, all
}

func (m *machine) view(box sandbox.Sandbox) resolver.View {
	m.t.Helper()
	v, there := m.names.View(box.ID())
	if !there {
		m.t.Fatal("the resolver does not answer in the sandbox")
	}
	return v
}

func (m *machine) texts(box sandbox.Sandbox) resolver.Texts {
	m.t.Helper()
	t, there := m.files.Texts(box.ID())
	if !there {
		m.t.Fatal("the sandbox has no files")
	}
	return t
}

func started(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t)
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// An attach tells the resolver once, last of all; a detach does so first of all. So no name leads to what is not there.
func TestNamesComeLastAndGoFirst(t *testing.T) {
	m, ctx := started(t), t.Context()
	blue := m.made(sealane.NetworkSpec{Name: "blue"})
	for i := range 5 {
		m.boxed(sandbox.Spec{Name: fmt.Sprintf("other%d", i)}, endpoint.Spec{}, blue)
	}
	box, err := m.CreateSandbox(ctx, sandbox.Spec{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	ep, err := blue.CreateEndpoint(ctx, endpoint.Spec{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	stop := m.deeds()
	if err := ep.Join(ctx, box); err != nil {
		t.Fatal(err)
	}
	deeds := stop()
	told := slices.DeleteFunc(slices.Clone(deeds), func(d string) bool { return !strings.HasPrefix(d, "names ") })
	want := []string{"names set sb/" + string(box.ID()), "names zone net/" + string(blue.ID())}
	if !slices.Equal(told, want) || deeds[len(deeds)-1] != want[1] {
		t.Errorf("a join tells the resolver %q, want %q, the last of %q", told, want, deeds)
	}
	stop = m.deeds()
	if err := ep.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	if deeds := stop(); deeds[0] != want[1] {
		t.Errorf("a leave begins with %q", deeds)
	}
}

// Who starts anew tells all zones before the first sandbox is answered, and answers all of them, as they were, before it converges the first:
// questions wait there.
func TestZonesAreToldBeforeSandboxes(t *testing.T) {
	m := started(t)
	blue, red := m.made(sealane.NetworkSpec{Name: "blue"}), m.made(sealane.NetworkSpec{Name: "red"})
	views := map[sandbox.ID]resolver.View{}
	for _, name := range []string{"a", "b", "c"} {
		box, _ := m.boxed(sandbox.Spec{Name: name}, endpoint.Spec{Aliases: []string{"www"}}, blue, red)
		views[box.ID()] = m.view(box)
	}
	before := m.names.Names(blue.ID())
	m.Close()
	m.kernel.Crash()
	m.names.Crash()
	stop := m.deeds()
	sets, watch := 0, m.names.Fault
	m.names.Fault = func(op string) error {
		if strings.HasPrefix(op, "set ") {
			sets++
		}
		if sets == len(views)+1 { // all are answered once
			sets++
			for id, want := range views {
				if got, there := m.names.View(id); !there || !reflect.DeepEqual(got, want) {
					t.Errorf("sandbox %.12s is answered as %+v, want %+v", id, got, want)
				}
			}
		}
		return watch(op)
	}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	var zones, rest []string
	for _, d := range stop() {
		switch op, names := strings.CutPrefix(d, "names "); {
		case names && strings.HasPrefix(op, "set "):
			rest = append(rest, op)
		case names && len(rest) == 0:
			zones = append(zones, op)
		}
	}
	if len(zones) != 2 || len(rest) != 6 || sets <= len(views) {
		t.Errorf("before the first sandbox: %q, then %q", zones, rest)
	}
	if got := m.names.Names(blue.ID()); !slices.Equal(got, before) || len(got) != 7 {
		t.Errorf("names %v, want %v", got, before)
	}
}

func TestView(t *testing.T) {
	m := started(t)
	blue := m.made(sealane.NetworkSpec{Name: "blue"})
	green := m.made(sealane.NetworkSpec{Name: "green", IPv6: true})
	inner := m.made(sealane.NetworkSpec{Name: "inner", Internal: true})
	plain := m.made(sealane.NetworkSpec{Name: "plain", NoNames: true})
	split := m.made(sealane.NetworkSpec{Name: "split", Options: map[string]string{"sealane.dns": "192.0.2.1,corp.example=192.0.2.2:5353"}})
	general, corp := resolver.Upstream{Server: netip.MustParseAddrPort("192.0.2.1:0")}, resolver.Upstream{Server: netip.MustParseAddrPort("192.0.2.2:5353"), Domains: []string{"corp.example"}}
	zones := func(all ...sealane.Network) (ids []endpoint.NetworkID) {
		for _, n := range all {
			ids = append(ids, n.ID())
		}
		return ids
	}
	for name, test := range map[string]struct {
		names sandbox.Names
		spec  endpoint.Spec
		on    []sealane.Network
		want  resolver.View
	}{
		"one":              {on: nets(blue), want: resolver.View{Zones: zones(blue), Forward: true, NoIPv6: true}},
		"in-order":         {on: nets(inner, green, blue), want: resolver.View{Zones: zones(blue, green, inner), Forward: true}},
		"internal":         {on: nets(inner), want: resolver.View{Zones: zones(inner), NoIPv6: true}},
		"beside":           {on: nets(inner, plain), want: resolver.View{Zones: zones(inner), NoIPv6: true, Forward: true}},
		"link":             {spec: endpoint.Spec{Links: map[string]string{"db": "store"}}, on: nets(blue), want: resolver.View{Zones: zones(blue), Private: map[string]string{"db": "store"}, Forward: true, NoIPv6: true}},
		"own-servers":      {names: sandbox.Names{DNS: []netip.Addr{addr("192.0.2.7")}}, on: nets(inner), want: resolver.View{Zones: zones(inner), NoIPv6: true, Upstreams: []resolver.Upstream{{Server: netip.AddrPortFrom(addr("192.0.2.7"), 0)}}}},
		"networks-servers": {on: nets(split), want: resolver.View{Zones: zones(split), NoIPv6: true, Forward: true, Upstreams: []resolver.Upstream{general, corp}}},
		"both": {names: sandbox.Names{DNS: []netip.Addr{addr("192.0.2.7")}}, on: nets(split), want: resolver.View{Zones: zones(split), NoIPv6: true, Forward: true,
			Upstreams: []resolver.Upstream{{Server: netip.AddrPortFrom(addr("192.0.2.7"), 0)}, corp}}},
	} {
		box, _ := m.boxed(sandbox.Spec{Name: name, Names: test.names}, test.spec, test.on...)
		test.want.Sandbox = box.ID()
		if diff := cmp.Diff(test.want, m.view(box), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if !strings.HasPrefix(m.texts(box).ResolvConf, "nameserver 127.0.0.11\n") {
			t.Errorf("%s: %q", name, m.texts(box).ResolvConf)
		}
	}
}

func nets(all ...sealane.Network) []sealane.Network { return all }

// A network without names, Docker's bridge, has the host's servers, and nobody is found on it.
func TestNetworkWithoutNames(t *testing.T) {
	m := started(t)
	m.files.HostConf = resolver.ParseResolvConf([]byte("nameserver 127.0.0.53\nnameserver 192.0.2.1\nsearch example.org\n"))
	plain := m.made(sealane.NetworkSpec{Name: "plain", NoNames: true, IPAM: subnets("10.9.0.0/24")})
	box, all := m.boxed(sandbox.Spec{Name: "web"}, endpoint.Spec{Aliases: []string{"www"}}, plain)
	if v, there := m.names.View(box.ID()); there || len(m.names.Names(plain.ID())) > 0 {
		t.Errorf("it resolves %+v, and %v are found", v, m.names.Names(plain.ID()))
	}
	got := m.texts(box)
	if !strings.HasPrefix(got.ResolvConf, "nameserver 192.0.2.1\nsearch example.org\n") {
		t.Errorf("resolv.conf: %q", got.ResolvConf)
	}
	short := string(box.ID())[:12]
	if line := "10.9.0.2\t" + short; !slices.Contains(got.Hosts, line) || got.Hostname != short {
		t.Errorf("no %q in %q, hostname %q", line, got.Hosts, got.Hostname)
	}
	if err := all[0].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := m.texts(box).Hosts; slices.ContainsFunc(got, func(l string) bool { return strings.Contains(l, short) }) {
		t.Errorf("hosts after it left: %q", got)
	}
}

// What is called how: name, aliases, the first digits of the id, the hostname; also as changed while it runs.
func TestNamesOfAnEndpoint(t *testing.T) {
	m, ctx := started(t), t.Context()
	blue := m.made(sealane.NetworkSpec{Name: "blue", IPAM: subnets("10.9.0.0/24")})
	box, all := m.boxed(sandbox.Spec{Name: "web", Names: sandbox.Names{Hostname: "box"}}, endpoint.Spec{Aliases: []string{"www", "*.apps", "old=web"}}, blue)
	see := func(name, typ, want string) {
		t.Helper()
		got, known, err := m.names.Lookup(box.ID(), name, typ)
		if err != nil || strings.Join(got, " ") != want || known != (want != "") {
			t.Errorf("%s %s: %v, %v, %v, want %q", name, typ, got, known, err, want)
		}
	}
	short := string(box.ID())[:12]
	for _, name := range []string{"web", "web.blue", "www", "x.apps", "old", short, "box", "WEB."} {
		see(name, "A", "10.9.0.2")
	}
	see("10.9.0.2", "PTR", "web.blue.")
	see("nobody", "A", "")
	err := all[0].Update(ctx, func(s *endpoint.Spec) error { s.Aliases = []string{"new"}; return nil })
	if err != nil {
		t.Fatal(err)
	}
	see("new", "A", "10.9.0.2")
	see("www", "A", "")
	if err := box.Refresh(ctx, sandbox.Names{Hostname: "crate", Domainname: "example.org"}); err != nil {
		t.Fatal(err)
	}
	see("crate", "A", "10.9.0.2")
	see("box", "A", "")
	if got := m.texts(box); got.Hostname != "crate" || !slices.Contains(got.Hosts, "10.9.0.2\tcrate.example.org crate") {
		t.Errorf("files: %+v", got)
	}
}

// A sandbox whose namespace comes later has its files from the beginning, and its names when it can be reached.
func TestNamesOfALateSandbox(t *testing.T) {
	m := started(t)
	blue := m.made(sealane.NetworkSpec{Name: "blue", IPAM: subnets("10.9.0.0/24")})
	watcher, _ := m.boxed(sandbox.Spec{Name: "watcher"}, endpoint.Spec{}, blue)
	box, _ := m.boxed(sandbox.Spec{Name: "late", Namespace: sandbox.Origin{Late: true}}, endpoint.Spec{}, blue)
	if got := m.texts(box); !slices.Contains(got.Hosts, "10.9.0.3\t"+string(box.ID())[:12]) || !strings.HasPrefix(got.ResolvConf, "nameserver 127.0.0.11\n") {
		t.Errorf("files: %+v", got)
	}
	if got, known, _ := m.names.Lookup(watcher.ID(), "late", "A"); known {
		t.Errorf("found before it is there: %v", got)
	}
	if err := box.SetNamespace(t.Context(), sandbox.Origin{Path: theirs}); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := m.names.Lookup(watcher.ID(), "late", "A"); !slices.Equal(got, []string{"10.9.0.3"}) {
		t.Errorf("found at %v", got)
	}
	m.view(box)
}

// Names go with a sandbox whose namespace ends without us.
func TestNamesEndWithTheNamespace(t *testing.T) {
	m := started(t)
	blue := m.made(sealane.NetworkSpec{Name: "blue"})
	box, _ := m.boxed(sandbox.Spec{Name: "guest", Namespace: sandbox.Origin{Path: theirs}}, endpoint.Spec{}, blue)
	m.kernel.End(theirs)
	nstest.Eventually(t, "the names go", func() bool { return m.names.Names(blue.ID()) == nil })
	m.idle()
	if _, there := m.names.View(box.ID()); there {
		t.Error("the resolver holds on to the namespace")
	}
	if _, there := m.files.Texts(box.ID()); there {
		t.Error("the files are left")
	}
}

func TestHostsEntries(t *testing.T) {
	m := started(t)
	blue := m.made(sealane.NetworkSpec{Name: "blue", IPv6: true, IPAM: subnets("10.9.0.0/24", "fd00:9::/64")})
	spec := sandbox.Spec{Name: "web", Names: sandbox.Names{Hosts: []sandbox.HostEntry{{Name: "db", Address: addr("192.0.2.7")}, {Name: "outer"}, {Name: "db", Address: addr("::7")}}}}
	box, _ := m.boxed(spec, endpoint.Spec{}, blue)
	short := string(box.ID())[:12]
	want := slices.Concat(resolver.Localhost(true),
		[]string{"192.0.2.7\tdb", "10.9.0.1\touter", "fd00:9::1\touter", "::7\tdb", "10.9.0.2\t" + short, "fd00:9::2\t" + short})
	if diff := cmp.Diff(want, m.texts(box).Hosts); diff != "" {
		t.Error(diff)
	}
	spec = sandbox.Spec{Name: "four", Sysctls: map[string]string{"net.ipv6.conf.all.disable_ipv6": "1"}}
	if box, _ = m.boxed(spec, endpoint.Spec{NoIPv6: true}); slices.ContainsFunc(m.texts(box).Hosts, func(l string) bool { return strings.Contains(l, ":") }) {
		t.Errorf("lines of IPv6 without IPv6: %q", m.texts(box).Hosts)
	}
	host, _ := m.boxed(sandbox.Spec{Name: "h", Namespace: sandbox.Origin{Host: true}, Names: sandbox.Names{Hosts: []sandbox.HostEntry{{Name: "db", Address: addr("192.0.2.7")}}}}, endpoint.Spec{})
	if got := m.texts(host); !slices.Equal(got.Hosts, []string{"127.0.0.1\tlocalhost", "192.0.2.1\thost", "192.0.2.7\tdb"}) || got.Hostname != "host" {
		t.Errorf("in the host's namespace: %+v", got)
	}
}

// Legacy links, on a network without names: lines of hosts and variables, as long as the other is there.
func TestLegacyLinks(t *testing.T) {
	m, ctx := started(t), t.Context()
	plain := m.made(sealane.NetworkSpec{Name: "plain", NoNames: true, IPAM: subnets("10.9.0.0/24")})
	db, _ := m.boxed(sandbox.Spec{Name: "db", Names: sandbox.Names{Hostname: "store"}}, endpoint.Spec{Exposed: ports(t, "5432", "53/udp")}, plain)
	web, _ := m.boxed(sandbox.Spec{Name: "web"}, endpoint.Spec{Links: map[string]string{"my-db": "db", "nobody": "nobody"}}, plain)
	if got := m.texts(web).Hosts; !slices.Contains(got, "10.9.0.2\tmy-db store db") {
		t.Errorf("hosts: %q", got)
	}
	env, err := m.LinkEnvironment(ctx, web.ID())
	want := []string{"MY_DB_NAME=/web/my-db", "MY_DB_PORT=tcp://10.9.0.2:5432", "MY_DB_PORT_5432_TCP=tcp://10.9.0.2:5432", "MY_DB_PORT_5432_TCP_ADDR=10.9.0.2",
		"MY_DB_PORT_5432_TCP_PORT=5432", "MY_DB_PORT_5432_TCP_PROTO=tcp", "MY_DB_PORT_53_UDP=udp://10.9.0.2:53", "MY_DB_PORT_53_UDP_ADDR=10.9.0.2",
		"MY_DB_PORT_53_UDP_PORT=53", "MY_DB_PORT_53_UDP_PROTO=udp"}
	if diff := cmp.Diff(want, env); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	if err := db.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	m.idle()
	if got := m.texts(web).Hosts; slices.ContainsFunc(got, func(l string) bool { return strings.Contains(l, "my-db") }) {
		t.Errorf("hosts after it went: %q", got)
	}
}

// The servers of a network change while sandboxes are on it.
func TestServersOfANetworkChange(t *testing.T) {
	m, ctx := started(t), t.Context()
	blue := m.made(sealane.NetworkSpec{Name: "blue"})
	box, _ := m.boxed(sandbox.Spec{Name: "web"}, endpoint.Spec{}, blue)
	set := func(value string) error {
		return blue.Update(ctx, func(s *sealane.NetworkSpec) error {
			s.Options = map[string]string{"sealane.dns": value}
			return nil
		})
	}
	if err := set("192.0.2.1"); err != nil {
		t.Fatal(err)
	}
	if got := m.view(box).Upstreams; len(got) != 1 || got[0].Server.Addr() != addr("192.0.2.1") {
		t.Errorf("asked are %v", got)
	}
	if err := set("nowhere"); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	_, err := m.CreateNetwork(ctx, sealane.NetworkSpec{Name: "red", Options: map[string]string{"sealane.nds": "192.0.2.1"}})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "sealane.dns") {
		t.Error(err)
	}
}
