package sealane_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox"
)

// gateways are the interfaces by which a container sends to the outside, by family; "" none.
func (c *container) gateways() (four, six string) {
	c.world.t.Helper()
	device := func(to string) string {
		out, _ := c.as().Try("ip", "-o", "route", "get", to) // fails when there is no route
		_, after, found := strings.Cut(out, " dev ")
		if !found {
			return ""
		}
		name, _, _ := strings.Cut(after, " ")
		return name
	}
	return device("192.0.2.1"), device("2001:db8::1")
}

// The gateway of each family is the endpoint of the highest priority that has one, then the first network by name; it moves when endpoints
// come and go, and published ports with it.
func TestGatewayGoesByPriorityThenNameInEachFamily(t *testing.T) {
	w := newWorld(t)
	networks := map[string]sealane.Network{}
	for _, s := range []sealane.NetworkSpec{
		{Name: "a-four"}, {Name: "b-six", NoIPv4: true, IPv6: true}, {Name: "c-both", IPv6: true}, {Name: "d-both", IPv6: true},
		{Name: "e-inside", IPv6: true, Internal: true},
	} {
		networks[s.Name] = w.network(s)
	}
	c := w.sandbox(sandbox.Spec{Name: "c"})
	firewalltest.Serve(t, c.as(), 80)
	in := map[string]endpoint.Endpoint{}
	for _, step := range []struct {
		join, leave string
		priority    int
		four, six   string // networks that are the gateway then
	}{
		{join: "e-inside", priority: 9},
		{join: "d-both", four: "d-both", six: "d-both"},
		{join: "c-both", four: "c-both", six: "c-both"},
		{join: "b-six", four: "c-both", six: "b-six"},
		{join: "a-four", four: "a-four", six: "b-six"},
		{leave: "c-both", four: "a-four", six: "b-six"},
		{join: "c-both", priority: 5, four: "c-both", six: "c-both"},
		{leave: "a-four", four: "c-both", six: "c-both"},
		{join: "a-four", priority: 6, four: "a-four", six: "c-both"},
		{leave: "c-both", four: "a-four", six: "b-six"},
		{leave: "a-four", four: "d-both", six: "b-six"},
		{leave: "b-six", four: "d-both", six: "d-both"},
		{join: "a-four", priority: -1, four: "d-both", six: "d-both"},
		{leave: "d-both", four: "a-four", six: ""},
		{leave: "a-four"},
	} {
		name := fmt.Sprintf("after %s joined and %s left", step.join, step.leave)
		if step.join != "" {
			in[step.join] = c.join(networks[step.join], endpoint.Spec{Name: "c", Priority: step.priority, Publish: ports(t, "8080:80")})
		} else {
			e := in[step.leave]
			if err := e.Leave(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := e.Delete(t.Context()); err != nil {
				t.Fatal(err)
			}
			delete(in, step.leave)
		}
		interfaces := map[string]string{"": ""}
		for n, e := range in {
			info, err := e.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			interfaces[n] = info.Interface
		}
		if four, six := c.gateways(); four != interfaces[step.four] || six != interfaces[step.six] {
			t.Errorf("%s: default routes by %q and %q, want %q and %q", name, four, six, interfaces[step.four], interfaces[step.six])
		}
		for to, seen := range map[string]string{"192.0.2.2": "192.0.2.1", "2001:db8::2": "2001:db8::1"} {
			client, carries := addr(seen), step.four
			if client.Is6() {
				carries = step.six
			}
			if carries == "" {
				client = netip.Addr{}
			}
			firewalltest.Call(t, w.outside, firewall.TCP, netip.AddrPortFrom(addr(to), 8080), client)
		}
		if t.Failed() {
			t.Fatalf("%s: stopped", name)
		}
	}
}

// A published port answers while its sandbox's gateway moves from network to network. A connection that meets a gap is answered only when
// its first packet is sent again, after a second.
func TestPublishedPortAnswersWhileTheGatewayMoves(t *testing.T) {
	w := newWorld(t)
	first, second := w.network(sealane.NetworkSpec{Name: "b", IPv6: true}), w.network(sealane.NetworkSpec{Name: "a", IPv6: true})
	c := w.container("c", ports(t, "8080:80"), first)
	firewalltest.Serve(t, c.as(), 80)
	moving, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var answered [2]atomic.Int64 // by family
	var slow atomic.Int64
	for i, to := range []string{"192.0.2.2:8080", "[2001:db8::2]:8080"} {
		wg.Go(func() {
			for moving.Err() == nil {
				conn, err := w.outside.Dial("tcp", to)
				if err != nil {
					t.Error(err)
					return
				}
				if nstest.Repeated(t, conn) {
					slow.Add(1)
				} else {
					answered[i].Add(1)
				}
				conn.Close()
			}
		})
	}
	gaps := 0
	// step does one move, and waits until both families are answered again.
	step := func(move func() error) {
		slowly := slow.Load()
		if err := move(); err != nil {
			t.Error(err)
		}
		four, six := answered[0].Load(), answered[1].Load()
		nstest.Eventually(t, "both families are answered", func() bool { return answered[0].Load() > four+1 && answered[1].Load() > six+1 })
		if slow.Load() > slowly {
			gaps++
		}
	}
	const moves = 10
	step(func() error { return nil })
	for range moves {
		var e endpoint.Endpoint
		step(func() error {
			e = c.join(second, endpoint.Spec{Name: "c", Publish: ports(t, "8080:80")})
			return nil
		})
		if four, six := c.gateways(); four != "eth1" || six != "eth1" {
			t.Errorf("the gateway did not move: %q, %q", four, six)
		}
		step(func() error { return e.Leave(t.Context()) })
		if err := e.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	}
	stop()
	wg.Wait()
	t.Logf("%d and %d connections while the gateway moved %d times, %d moves lost a packet", answered[0].Load(), answered[1].Load(), 2*moves, gaps)
	if gaps > 0 {
		t.Errorf("%d of %d moves had a gap", gaps, 2*moves)
	}
}

func TestInterfaceNames(t *testing.T) {
	w := newWorld(t)
	var n []sealane.Network
	for i := range 5 {
		s := sealane.NetworkSpec{Name: fmt.Sprint("n", i)}
		if i == 4 {
			s.Options = map[string]string{"com.docker.network.container_iface_prefix": "lan"}
		}
		n = append(n, w.network(s))
	}
	c := w.sandbox(sandbox.Spec{Name: "c"})
	name := func(e endpoint.Endpoint) string {
		t.Helper()
		info, err := e.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if l, err := c.as().Netlink().LinkByName(info.Interface); err != nil || l.Attrs().HardwareAddr.String() != info.MAC.String() {
			t.Errorf("%s is not the endpoint's interface: %v, %v", info.Interface, l, err)
		}
		return info.Interface
	}
	zero := c.join(n[0], endpoint.Spec{Name: "c"})
	own := c.join(n[1], endpoint.Spec{Name: "c", Interface: "eth1"})
	two := c.join(n[2], endpoint.Spec{Name: "c"})
	lan := c.join(n[4], endpoint.Spec{Name: "c"})
	if got := []string{name(zero), name(own), name(two), name(lan)}; fmt.Sprint(got) != "[eth0 eth1 eth2 lan0]" {
		t.Errorf("got %v", got)
	}
	taken, err := n[3].CreateEndpoint(t.Context(), endpoint.Spec{Name: "c", Interface: "eth1"})
	if err != nil {
		t.Fatal(err)
	}
	refuses(t, w, "AlreadyExists", func() error { return taken.Join(t.Context(), c) })
	if err := taken.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if err := zero.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if three := c.join(n[3], endpoint.Spec{Name: "d"}); name(three) != "eth0" {
		t.Errorf("the lowest free name is eth0, not %s", name(three))
	}
	if err := zero.Join(t.Context(), c); err != nil || name(zero) != "eth3" {
		t.Errorf("got %v, %s, want eth3", err, name(zero))
	}
	w.restart()
	var kept []string
	for e, err := range w.Endpoints(t.Context(), c.ID()) {
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, e.Interface)
	}
	if len(kept) != 5 || strings.Contains(strings.Join(kept, " "), "eth4") {
		t.Errorf("after a restart: %v", kept)
	}
}

// A caller that has chosen two gateways without saying for which families means by one with a single family that family, whichever came
// first: so does Docker 29. Their ports are the same, and neither has to give them up first.
func TestChosenGatewaysShareTheFamilies(t *testing.T) {
	w := newWorld(t)
	both, four := w.network(sealane.NetworkSpec{Name: "both", IPv6: true}), w.network(sealane.NetworkSpec{Name: "four"})
	for what, order := range map[string][]sealane.Network{"both families first": {both, four}, "one family first": {four, both}} {
		c := w.sandbox(sandbox.Spec{Name: "c"})
		firewalltest.Serve(t, c.as(), 80)
		answers := func(when string, four, six bool) {
			t.Helper()
			for to, want := range map[string]bool{"192.0.2.2": four, "2001:db8::2": six} {
				client := netip.Addr{}
				if want {
					client = map[string]netip.Addr{"192.0.2.2": addr("192.0.2.1"), "2001:db8::2": addr("2001:db8::1")}[to]
				}
				firewalltest.Call(t, w.outside, firewall.TCP, netip.AddrPortFrom(addr(to), 8080), client)
			}
			if t.Failed() {
				t.Fatalf("%s, %s", what, when)
			}
		}
		for _, n := range order {
			c.join(n, endpoint.Spec{Name: "c", Gateway: endpoint.On, Publish: ports(t, "8080:80")})
		}
		answers("on two networks", true, true)
		if err := c.endpoints[0].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		answers("on the second", true, order[1] == both)
		if err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
