package firewalltest

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nstest"
)

// Topology is a container that publishes ports, and everybody around it. Whoever runs Reach makes it, by hand or through the whole of
// sealane: the answers must be the same.
//
//	Outside ── Host ─┬─ bridge ─┬─ Self (publishes)
//	                 │          └─ Neighbour
//	                 └─ bridge ─── Other
//
// Outside routes the containers' subnets through Host, so that it could reach them if nothing stopped it.
type Topology struct {
	Host, Outside          *nstest.Host
	Self, Neighbour, Other *nstest.Host
	Addrs                  []Addrs // one a family
	// Host ports of Self, each TCP and UDP and both families: published on every address, on Addrs.Host, on 127.0.0.1 and ::1.
	Any, Named, Loopback uint16
	Port                 uint16 // of Self, where they lead; Reach serves there and at the next, and on Host at 5555 and 5556
	// BridgeNetfilter is bridge-nf-call of Host: while it is on nobody reaches ::1.
	BridgeNetfilter bool
}

// Addrs is who has which address of a family; Gateway is the host's on the bridge of Self.
type Addrs struct{ Outside, Host, Gateway, Self, Neighbour, Other netip.Addr }

func (a Addrs) loopback() netip.Addr {
	if a.Host.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// call is one try to reach a server, over one protocol.
type call struct {
	name   string
	from   *nstest.Host
	proto  firewall.Proto
	to     netip.AddrPort
	client netip.Addr // as the server must see it; zero: it must not be reached
}

// Reach shows who reaches the published ports and who does not: the whole table, and the client's true address where the host can keep it.
// It prints how many cases it tried.
func Reach(t *testing.T, top Topology) {
	web := serve(t, top.Self, top.Port)
	serve(t, top.Neighbour, top.Port)
	serve(t, top.Outside, top.Port)
	var all []call
	for _, proto := range []firewall.Proto{firewall.TCP, firewall.UDP} {
		for _, a := range top.Addrs {
			all = append(all, top.allowed(proto, a)...)
			all = append(all, top.forbidden(proto, a)...)
		}
	}
	reached := len(slices.DeleteFunc(slices.Clone(all), func(c call) bool { return !c.client.IsValid() }))
	attacks := top.attack(t, web)
	t.Logf("reachability: %d cases that pass, %d that do not, bridge-nf-call %v", reached, len(all)-reached+attacks, top.BridgeNetfilter)
	var wg sync.WaitGroup
	for _, c := range all {
		wg.Go(func() { c.try(t) })
	}
	wg.Wait()
}

// allowed is who must reach the container, and as whom. From its own network and the host's loopback the bridge's address is unavoidable: the
// answer would not come back otherwise.
func (top Topology) allowed(proto firewall.Proto, a Addrs) []call {
	at := func(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }
	calls := []call{
		{"outside at the host's address", top.Outside, proto, at(a.Host, top.Any), a.Outside},
		{"host at its address", top.Host, proto, at(a.Host, top.Any), a.Host},
		{"host at the bridge's address", top.Host, proto, at(a.Gateway, top.Any), a.Gateway},
		{"the container itself", top.Self, proto, at(a.Host, top.Any), a.Gateway},
		{"the container itself at its gateway", top.Self, proto, at(a.Gateway, top.Any), a.Gateway},
		{"neighbour", top.Neighbour, proto, at(a.Host, top.Any), a.Gateway},
		{"neighbour at its gateway", top.Neighbour, proto, at(a.Gateway, top.Any), a.Gateway},
		{"other network", top.Other, proto, at(a.Host, top.Any), a.Other},
		{"outside at the named address", top.Outside, proto, at(a.Host, top.Named), a.Outside},
		{"host at the named address", top.Host, proto, at(a.Host, top.Named), a.Host},
		{"the container itself at the named address", top.Self, proto, at(a.Host, top.Named), a.Gateway},
		{"neighbour at the named address", top.Neighbour, proto, at(a.Host, top.Named), a.Gateway},
		{"other network at the named address", top.Other, proto, at(a.Host, top.Named), a.Other},
		{"host at the container's address", top.Host, proto, at(a.Self, top.Port), a.Gateway},
		{"neighbour at the container's address", top.Neighbour, proto, at(a.Self, top.Port), a.Neighbour},
		{"the container to the outside", top.Self, proto, at(a.Outside, top.Port), a.Host},
		{"the container to its neighbour", top.Self, proto, at(a.Neighbour, top.Port), a.Self},
	}
	if a.Host.Is4() || !top.BridgeNetfilter {
		calls = append(calls,
			call{"host at its loopback address", top.Host, proto, at(a.loopback(), top.Any), a.Gateway},
			call{"host at the named loopback address", top.Host, proto, at(a.loopback(), top.Loopback), a.Gateway})
	}
	return calls
}

// forbidden is who must not reach it by ordinary means.
func (top Topology) forbidden(proto firewall.Proto, a Addrs) []call {
	at := func(addr netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr, port) }
	return []call{
		{name: "outside at the container's address", from: top.Outside, proto: proto, to: at(a.Self, top.Port)},
		{name: "outside at the container's address and the host's port", from: top.Outside, proto: proto, to: at(a.Self, top.Any)},
		{name: "other network at the container's address", from: top.Other, proto: proto, to: at(a.Self, top.Port)},
		{name: "outside at a port that is published on another address", from: top.Outside, proto: proto, to: at(a.Gateway, top.Named)},
		{name: "outside at a port that is published on loopback", from: top.Outside, proto: proto, to: at(a.Host, top.Loopback)},
		{name: "neighbour at a port that is published on loopback", from: top.Neighbour, proto: proto, to: at(a.Gateway, top.Loopback)},
		{name: "other network at a port that is published on loopback", from: top.Other, proto: proto, to: at(a.Host, top.Loopback)},
	}
}

func (c call) try(t testing.TB) {
	wait := certainty
	if c.client.IsValid() {
		wait = patience
	}
	client, err := ask(c.from, c.proto, c.to, wait)
	switch {
	case !c.client.IsValid() && err == nil:
		t.Errorf("%s: %s to %s/%s was answered, as %s", c.name, c.from.Name, c.to, c.proto, client)
	case c.client.IsValid() && err != nil:
		t.Errorf("%s: %s to %s/%s: %v", c.name, c.from.Name, c.to, c.proto, err)
	case c.client.IsValid() && client != c.client:
		t.Errorf("%s: %s to %s/%s was seen as %s, want %s", c.name, c.from.Name, c.to, c.proto, client, c.client)
	}
}

// Call checks one try: client is who the server must see, or zero if it must not be reached. The server is one of Serve.
func Call(t testing.TB, from *nstest.Host, proto firewall.Proto, to netip.AddrPort, client netip.Addr) {
	t.Helper()
	call{fmt.Sprintf("from %s", from.Name), from, proto, to, client}.try(t)
}

// Serve tells everybody who asks, over TCP and UDP at this port of any address of a host, who they are.
func Serve(t testing.TB, h *nstest.Host, port uint16) { serve(t, h, port) }
