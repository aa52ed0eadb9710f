package firewalltest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sealane/sealane/firewall"
)

// Run shows that a room is a firewall.Firewall. open gives a firewall of a namespace with nothing in it, closed at the test's cleanup.
func Run(t *testing.T, open func(t testing.TB) firewall.Firewall) {
	for name, fact := range map[string]func(*testing.T, table){
		"round trip":         roundTrip,
		"optional terms":     optionalTerms,
		"nothing at first":   nothingAtFirst,
		"replace":            replace,
		"owners are apart":   ownersApart,
		"move a port":        movePort,
		"all or nothing":     allOrNothing,
		"taken":              taken,
		"bad terms":          badTerms,
		"again":              again,
		"stale have":         staleHave,
		"ranges are one":     rangesAreOne,
		"flush":              flush,
		"cancelled":          cancelled,
		"watch ends":         watchEnds,
		"many at once":       manyAtOnce,
		"a thousand in one":  thousand,
		"the last one turns": lastTurns,
		"random walk":        walk,
		"redirects":          redirects,
	} {
		t.Run(name, func(t *testing.T) { fact(t, table{t, open(t)}) })
	}
}

// table is a firewall under test, with the checks that facts repeat.
type table struct {
	t testing.TB
	firewall.Firewall
}

func (f table) apply(changes ...firewall.Change) {
	f.t.Helper()
	if err := f.Apply(context.Background(), changes); err != nil {
		f.t.Fatalf("apply: %v", err)
	}
}

// refuses checks the kind of an error and that it changed nothing.
func (f table) refuses(kind error, changes ...firewall.Change) error {
	f.t.Helper()
	before := f.observe()
	err := f.Apply(context.Background(), changes)
	if !isKind(err, kind) {
		f.t.Errorf("apply: got %v, want %v", err, kind)
	}
	if diff := compare(before, f.observe()); diff != "" {
		f.t.Errorf("a refused change had effects (-before +after):\n%s", diff)
	}
	return err
}

func isKind(err, kind error) bool {
	return errdefs.Resolve(err) == kind
}

func (f table) observe() map[string]firewall.Terms {
	f.t.Helper()
	got, err := f.Observe(context.Background())
	if err != nil {
		f.t.Fatalf("observe: %v", err)
	}
	return got
}

// has checks that exactly these terms are there.
func (f table) has(want map[string]firewall.Terms) {
	f.t.Helper()
	normal := map[string]firewall.Terms{}
	for owner, t := range want {
		normal[owner] = t.Normal()
	}
	if diff := compare(normal, f.observe()); diff != "" {
		f.t.Errorf("observed (-want +got):\n%s", diff)
	}
}

func compare(a, b map[string]firewall.Terms) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }))
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(s ...string) (p []netip.Prefix) {
	for _, one := range s {
		p = append(p, netip.MustParsePrefix(one))
	}
	return p
}

func network(device string) firewall.Network {
	return firewall.Network{Interface: device, Subnets: prefixes("10.1.0.0/24", "fd00:1::/64"), Mode4: firewall.NAT, Mode6: firewall.NAT}
}

func networks(n ...firewall.Network) firewall.Terms { return firewall.Terms{Networks: n} }

func port(proto firewall.Proto, host string, first, last uint16, target string, to uint16) firewall.Port {
	return firewall.Port{Interface: "br1", Proto: proto, Host: addr(host), HostPorts: firewall.Range{First: first, Last: last},
		Target: addr(target), Ports: firewall.Range{First: to, Last: to + last - first}}
}

func ports(p ...firewall.Port) firewall.Terms { return firewall.Terms{Ports: p} }

func web(host uint16) firewall.Terms {
	return ports(port(firewall.TCP, "0.0.0.0", host, host, "10.1.0.2", 80))
}

// required are terms that every room renders.
func required() map[string]firewall.Terms {
	with := func(change func(*firewall.Network)) firewall.Terms {
		n := network("br1")
		change(&n)
		return networks(n)
	}
	unnamed := port(firewall.TCP, "0.0.0.0", 8080, 8081, "10.7.0.2", 80)
	unnamed.Interface = ""
	return map[string]firewall.Terms{
		"nat":        networks(network("br1")),
		"one family": with(func(n *firewall.Network) { n.Mode6, n.Subnets = firewall.Off, prefixes("10.1.0.0/24") }),
		"several subnets": with(func(n *firewall.Network) {
			n.Subnets = prefixes("10.1.0.0/24", "10.9.0.0/16", "fd00::/8", "192.0.2.7/32")
		}),
		"internal":      with(func(n *firewall.Network) { n.Internal = true }),
		"no masquerade": with(func(n *firewall.Network) { n.NoMasq = true }),
		"two networks":  networks(network("br1"), firewall.Network{Interface: "a-name-of-15-by", Mode4: firewall.NAT, Subnets: prefixes("10.2.0.0/24")}),
		"ports": ports(port(firewall.TCP, "0.0.0.0", 8080, 8080, "10.1.0.2", 80), port(firewall.UDP, "0.0.0.0", 8080, 8080, "10.1.0.2", 80),
			port(firewall.TCP, "192.0.2.1", 8080, 8080, "10.1.0.2", 80), port(firewall.SCTP, "127.0.0.1", 9, 9, "10.1.0.2", 80),
			port(firewall.TCP, "::", 8080, 8080, "fd00:1::2", 80), port(firewall.UDP, "2001:db8::1", 8080, 8080, "fd00:1::2", 80)),
		"range":            ports(port(firewall.TCP, "0.0.0.0", 8000, 8009, "10.1.0.2", 9000), port(firewall.UDP, "::", 65530, 65535, "fd00:1::2", 1)),
		"no network":       ports(unnamed),
		"networks, ports":  {Networks: networks(network("br1")).Networks, Ports: web(8080).Ports},
		"nothing, in full": {Networks: []firewall.Network{}, Ports: []firewall.Port{}},
	}
}

// roundTrip: what is applied is what is observed.
func roundTrip(t *testing.T, f table) {
	for name, want := range required() {
		t.Run(name, func(t *testing.T) {
			f := table{t, f.Firewall}
			f.apply(firewall.Change{Owner: "net/1", Want: want})
			owners := map[string]firewall.Terms{}
			if !want.IsZero() {
				owners["net/1"] = want
			}
			f.has(owners)
			f.apply(firewall.Change{Owner: "net/1", Have: want})
			f.has(nil)
		})
	}
}

// optionalTerms: a room renders a term or refuses it as NotImplemented; it never says yes and does nothing.
func optionalTerms(t *testing.T, f table) {
	with := func(change func(*firewall.Network)) firewall.Terms {
		n := network("br1")
		change(&n)
		return networks(n)
	}
	routed := with(func(n *firewall.Network) { n.Mode4, n.Mode6 = firewall.Routed, firewall.Routed })
	routed.Ports = []firewall.Port{port(firewall.TCP, "0.0.0.0", 80, 89, "10.1.0.2", 80), port(firewall.TCP, "::", 443, 443, "fd00:1::2", 443)}
	respects := web(8080)
	respects.Ports[0].RespectHost = true
	for name, want := range map[string]firewall.Terms{
		"nat-unprotected": with(func(n *firewall.Network) { n.Mode4, n.Mode6 = firewall.NATUnprotected, firewall.NATUnprotected }),
		"routed":          routed,
		"isolated":        with(func(n *firewall.Network) { n.Mode4, n.Mode6 = firewall.Isolated, firewall.Isolated }),
		"mixed modes":     with(func(n *firewall.Network) { n.Mode4, n.Mode6 = firewall.NAT, firewall.Routed }),
		"no icc":          with(func(n *firewall.Network) { n.NoICC = true }),
		"source":          with(func(n *firewall.Network) { n.SNAT4, n.SNAT6 = addr("192.0.2.1"), addr("2001:db8::1") }),
		"one source":      with(func(n *firewall.Network) { n.SNAT6 = addr("2001:db8::1") }),
		"trusted":         with(func(n *firewall.Network) { n.Trusted = []string{"eth0", "wg0"} }),
		"mark":            with(func(n *firewall.Network) { n.AcceptMark = 0xdeadbeef }),
		"reach":           with(func(n *firewall.Network) { n.Reach = []string{"br2"} }),
		"respect":         respects,
		"pinholes":        {Pinholes: []firewall.Pinhole{{Interface: "br1", From: addr("10.1.0.2"), To: addr("10.1.0.3"), Proto: firewall.TCP, Ports: firewall.Range{First: 80, Last: 80}}}},
		"policies":        {Policies: []firewall.Policy{{Source: prefixes("10.1.0.2/32")[0], Deny: true}}},
		"redirects":       {Redirects: []firewall.Redirect{{To: netip.MustParseAddrPort("127.0.0.11:53"), Port: 40000}}},
		"tunnels":         {Tunnels: []firewall.Tunnel{{Port: 4789, VNI: 256, Peers: []netip.Addr{addr("192.0.2.1")}}}},
	} {
		t.Run(name, func(t *testing.T) {
			f := table{t, f.Firewall}
			change := firewall.Change{Owner: "net/1", Want: want}
			err := f.Apply(context.Background(), []firewall.Change{change})
			if errdefs.IsNotImplemented(err) {
				f.has(nil)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			f.has(map[string]firewall.Terms{"net/1": want})
			f.apply(firewall.Change{Owner: "net/1", Have: want})
			f.has(nil)
		})
	}
}

func nothingAtFirst(t *testing.T, f table) {
	f.has(nil)
	f.apply()
	f.apply(firewall.Change{Owner: "net/1"})
	f.has(nil)
}

// replace: a change replaces all terms of its owner.
func replace(t *testing.T, f table) {
	terms := required()
	var have firewall.Terms
	for _, name := range []string{"nat", "internal", "ports", "range", "networks, ports", "several subnets", "nat"} {
		f.apply(firewall.Change{Owner: "net/1", Have: have, Want: terms[name]})
		have = terms[name]
		f.has(map[string]firewall.Terms{"net/1": have})
	}
}

func ownersApart(t *testing.T, f table) {
	net, one, two := networks(network("br1")), web(8080), web(8081)
	f.apply(firewall.Change{Owner: "net/1", Want: net}, firewall.Change{Owner: "ep/1", Want: one}, firewall.Change{Owner: "ep/2", Want: two})
	f.has(map[string]firewall.Terms{"net/1": net, "ep/1": one, "ep/2": two})
	f.apply(firewall.Change{Owner: "ep/1", Have: one})
	f.has(map[string]firewall.Terms{"net/1": net, "ep/2": two})
}

// movePort: what one owner lets go another may take in the same transaction, whatever the order.
func movePort(t *testing.T, f table) {
	there := ports(port(firewall.TCP, "0.0.0.0", 8080, 8080, "10.1.0.3", 80))
	f.apply(firewall.Change{Owner: "ep/1", Want: web(8080)})
	f.apply(firewall.Change{Owner: "ep/2", Want: there}, firewall.Change{Owner: "ep/1", Have: web(8080)})
	f.has(map[string]firewall.Terms{"ep/2": there})
	f.apply(firewall.Change{Owner: "ep/2", Have: there}, firewall.Change{Owner: "ep/1", Want: web(8080)})
	f.has(map[string]firewall.Terms{"ep/1": web(8080)})
	f.apply(firewall.Change{Owner: "ep/1", Have: web(8080), Want: web(8081)}, firewall.Change{Owner: "ep/2", Want: web(8080)})
	f.has(map[string]firewall.Terms{"ep/1": web(8081), "ep/2": web(8080)})
}

// allOrNothing: one bad change of many and none is made.
func allOrNothing(t *testing.T, f table) {
	f.apply(firewall.Change{Owner: "ep/1", Want: web(8080)})
	f.refuses(errdefs.ErrAlreadyExists,
		firewall.Change{Owner: "net/1", Want: networks(network("br1"))},
		firewall.Change{Owner: "ep/2", Want: web(8081)},
		firewall.Change{Owner: "ep/3", Want: web(8080)},
		firewall.Change{Owner: "ep/4", Want: web(8083)})
	f.refuses(errdefs.ErrInvalidArgument,
		firewall.Change{Owner: "ep/2", Want: web(8081)}, firewall.Change{Owner: "ep/3", Want: ports(firewall.Port{})})
}

// taken: the error names what is taken and who has it.
func taken(t *testing.T, f table) {
	f.apply(firewall.Change{Owner: "ep/first", Want: web(8080)}, firewall.Change{Owner: "net/first", Want: networks(network("br1"))})
	err := f.refuses(errdefs.ErrAlreadyExists, firewall.Change{Owner: "ep/2", Want: web(8080)})
	if err == nil || !strings.Contains(err.Error(), "8080") || !strings.Contains(err.Error(), "ep/first") {
		t.Errorf("%v names not the port and its owner", err)
	}
	other := ports(port(firewall.TCP, "0.0.0.0", 8080, 8080, "10.1.0.9", 99))
	f.refuses(errdefs.ErrAlreadyExists, firewall.Change{Owner: "ep/2", Want: other})
	err = f.refuses(errdefs.ErrAlreadyExists, firewall.Change{Owner: "net/2", Want: networks(network("br1"))})
	if err == nil || !strings.Contains(err.Error(), "net/first") {
		t.Errorf("%v names not the owner of the interface", err)
	}
	twice := ports(port(firewall.TCP, "0.0.0.0", 1, 1, "10.1.0.2", 1), port(firewall.TCP, "0.0.0.0", 1, 1, "10.1.0.2", 2))
	f.refuses(errdefs.ErrAlreadyExists, firewall.Change{Owner: "ep/2", Want: twice})
}

func badTerms(t *testing.T, f table) {
	long := network("sixteen-bytes-xx")
	mode := network("br1")
	mode.Mode4 = "bridge"
	overlap := network("br1")
	overlap.Subnets = prefixes("10.0.0.0/8", "10.1.0.0/16")
	source := network("br1")
	source.SNAT4 = addr("2001:db8::1")
	for name, bad := range map[string]firewall.Terms{
		"long interface": networks(long), "no interface": networks(firewall.Network{Mode4: firewall.NAT}), "mode": networks(mode),
		"overlap in one network": networks(overlap), "source of the other family": networks(source),
		"no protocol": ports(port(0, "0.0.0.0", 1, 1, "10.1.0.2", 1)), "families": ports(port(firewall.TCP, "::", 1, 1, "10.1.0.2", 1)),
		"port 0": ports(port(firewall.TCP, "0.0.0.0", 0, 0, "10.1.0.2", 1)), "no target": ports(port(firewall.TCP, "0.0.0.0", 1, 1, "0.0.0.0", 1)),
		"lengths": ports(firewall.Port{Interface: "br1", Proto: firewall.TCP, Host: addr("0.0.0.0"), Target: addr("10.1.0.2"),
			HostPorts: firewall.Range{First: 1, Last: 2}, Ports: firewall.Range{First: 1, Last: 1}}),
		"zero host": ports(firewall.Port{Interface: "br1", Proto: firewall.TCP, Target: addr("10.1.0.2"),
			HostPorts: firewall.Range{First: 1, Last: 1}, Ports: firewall.Range{First: 1, Last: 1}}),
	} {
		t.Run(name, func(t *testing.T) {
			table{t, f.Firewall}.refuses(errdefs.ErrInvalidArgument, firewall.Change{Owner: "net/1", Want: bad})
		})
	}
	f.refuses(errdefs.ErrInvalidArgument, firewall.Change{Want: web(8080)})
}

// again: applying what is there succeeds, whether Have says so or not. That is how a restart begins.
func again(t *testing.T, f table) {
	all := []firewall.Change{{Owner: "net/1", Want: networks(network("br1"))}, {Owner: "ep/1", Want: web(8080)}}
	want := map[string]firewall.Terms{"net/1": all[0].Want, "ep/1": all[1].Want}
	f.apply(all...)
	f.apply(all...)
	f.has(want)
	observed := f.observe()
	for i, c := range all {
		all[i].Have = observed[c.Owner]
	}
	f.apply(all...)
	f.has(want)
	// Half of it is there, and Have knows nothing.
	f.apply(firewall.Change{Owner: "ep/1", Want: firewall.Terms{Ports: slices.Concat(web(8080).Ports, web(8081).Ports)}})
	f.apply(firewall.Change{Owner: "ep/1", Want: web(8081)})
	want["ep/1"] = web(8081)
	f.has(want)
}

// staleHave: what Have tells and is not there does not have to be.
func staleHave(t *testing.T, f table) {
	f.apply(firewall.Change{Owner: "net/1", Want: networks(network("br1"))})
	f.apply(firewall.Change{Owner: "ep/1", Have: web(8080), Want: web(8081)})
	f.has(map[string]firewall.Terms{"net/1": networks(network("br1")), "ep/1": web(8081)})
	f.apply(firewall.Change{Owner: "ep/1", Have: required()["range"]})
	f.apply(firewall.Change{Owner: "ep/none", Have: required()["range"]})
	f.apply(firewall.Change{Owner: "ep/1", Have: web(8081)}, firewall.Change{Owner: "net/1", Have: networks(network("br1"))})
	f.has(nil)
	f.apply(firewall.Change{Owner: "ep/1", Have: web(8081)})
	f.has(nil)
}

// rangesAreOne: a range and its ports one by one are the same.
func rangesAreOne(t *testing.T, f table) {
	whole := ports(port(firewall.TCP, "0.0.0.0", 8000, 8004, "10.1.0.2", 80))
	var single firewall.Terms
	for i := range uint16(5) {
		p := port(firewall.TCP, "0.0.0.0", 8004-i, 8004-i, "10.1.0.2", 84-i)
		single.Ports = append(single.Ports, p)
	}
	f.apply(firewall.Change{Owner: "ep/1", Want: single})
	f.has(map[string]firewall.Terms{"ep/1": whole})
	f.apply(firewall.Change{Owner: "ep/1", Have: whole, Want: single})
	f.has(map[string]firewall.Terms{"ep/1": single})
	f.apply(firewall.Change{Owner: "ep/1", Have: single, Want: ports(single.Ports[1:4]...)})
	f.has(map[string]firewall.Terms{"ep/1": ports(port(firewall.TCP, "0.0.0.0", 8001, 8003, "10.1.0.2", 81))})
}

func flush(t *testing.T, f table) {
	all := firewall.Change{Owner: "net/1", Want: required()["networks, ports"]}
	for range 2 {
		f.apply(all)
		if err := f.Flush(context.Background()); err != nil {
			t.Fatal(err)
		}
		f.has(nil)
		if err := f.Flush(context.Background()); err != nil {
			t.Fatalf("flush of nothing: %v", err)
		}
	}
}

func cancelled(t *testing.T, f table) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Apply(ctx, []firewall.Change{{Owner: "ep/1", Want: web(8080)}}); err == nil {
		t.Error("apply: no error")
	}
	if _, err := f.Observe(ctx); err == nil {
		t.Error("observe: no error")
	}
	if err := f.Flush(ctx); err == nil {
		t.Error("flush: no error")
	}
	f.has(nil)
}

// watchEnds: with its context, and it is not woken by what the handle itself does.
func watchEnds(t *testing.T, f table) {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	done := make(chan string)
	go func() {
		defer close(done)
		for name, err := range f.Watch(ctx) {
			done <- fmt.Sprintf("%s %v", name, err)
		}
	}()
	f.apply(firewall.Change{Owner: "net/1", Want: networks(network("br1"))})
	f.apply(firewall.Change{Owner: "net/1", Have: networks(network("br1"))})
	for told := range done {
		t.Errorf("told of its own change: %s", told)
	}
}

func manyAtOnce(t *testing.T, f table) {
	f.apply(firewall.Change{Owner: "net/1", Want: networks(network("br1"))})
	var wg sync.WaitGroup
	want := map[string]firewall.Terms{"net/1": networks(network("br1"))}
	for i := range 32 {
		owner, terms := fmt.Sprintf("ep/%d", i), web(uint16(9000+i))
		if i%2 == 0 {
			want[owner] = terms
		}
		wg.Go(func() {
			err := f.Apply(context.Background(), []firewall.Change{{Owner: owner, Want: terms}})
			if err == nil && i%2 == 1 {
				err = f.Apply(context.Background(), []firewall.Change{{Owner: owner, Have: terms}})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f.has(want)
}

func thousand(t *testing.T, f table) {
	all := ports(port(firewall.TCP, "0.0.0.0", 10000, 10999, "10.1.0.2", 1), port(firewall.UDP, "::", 10000, 10999, "fd00:1::2", 1))
	f.apply(firewall.Change{Owner: "ep/1", Want: all})
	f.has(map[string]firewall.Terms{"ep/1": all})
	f.apply(firewall.Change{Owner: "ep/1", Have: all})
	f.has(nil)
}

// lastTurns: after the last term is gone the next is as the first.
func lastTurns(t *testing.T, f table) {
	for range 3 {
		f.apply(firewall.Change{Owner: "net/1", Want: networks(network("br1"))})
		f.has(map[string]firewall.Terms{"net/1": networks(network("br1"))})
		f.apply(firewall.Change{Owner: "net/1", Have: networks(network("br1"))})
		f.has(nil)
	}
}

// redirects: ports of an address are handed over, owner by owner, and what nobody can mean is refused. A room may have none.
func redirects(t *testing.T, f table) {
	to := func(to string, port uint16) firewall.Redirect {
		return firewall.Redirect{To: netip.MustParseAddrPort(to), Port: port}
	}
	one := firewall.Terms{Redirects: []firewall.Redirect{to("127.0.0.11:53", 40000)}}
	moved := firewall.Terms{Redirects: []firewall.Redirect{to("127.0.0.11:53", 40001)}}
	two := firewall.Terms{Redirects: []firewall.Redirect{to("127.0.0.12:53", 40000), to("127.0.0.12:5353", 40002)}}
	if err := f.Apply(context.Background(), []firewall.Change{{Owner: "sb/1", Want: one}}); errdefs.IsNotImplemented(err) {
		f.has(nil)
		return
	} else if err != nil {
		t.Fatal(err)
	}
	f.has(map[string]firewall.Terms{"sb/1": one})
	f.apply(firewall.Change{Owner: "sb/2", Want: two})
	f.has(map[string]firewall.Terms{"sb/1": one, "sb/2": two})
	f.apply(firewall.Change{Owner: "sb/1", Want: moved}) // have is stale
	f.has(map[string]firewall.Terms{"sb/1": moved, "sb/2": two})
	f.refuses(errdefs.ErrAlreadyExists, firewall.Change{Owner: "sb/3", Want: one})
	f.refuses(errdefs.ErrInvalidArgument, firewall.Change{Owner: "sb/3", Want: firewall.Terms{Redirects: []firewall.Redirect{to("127.0.0.13:53", 0)}}})
	f.apply(firewall.Change{Owner: "sb/2", Have: two})
	f.has(map[string]firewall.Terms{"sb/1": moved})
	f.apply(firewall.Change{Owner: "net/1", Want: networks(network("br1"))})
	f.has(map[string]firewall.Terms{"sb/1": moved, "net/1": networks(network("br1"))})
	if err := f.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.has(nil)
}
