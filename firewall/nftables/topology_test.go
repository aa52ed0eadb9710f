package nftables_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/vishvananda/netlink"
)

// build makes the hosts, links and settings of a topology by hand: what the bridge driver plans.
func build(t testing.TB, bridgeNetfilter bool) firewalltest.Topology {
	t.Helper()
	top := firewalltest.Topology{
		Host: nstest.New(t, "host"), Outside: nstest.New(t, "outside"),
		Self: nstest.New(t, "self"), Neighbour: nstest.New(t, "neighbour"), Other: nstest.New(t, "other"),
		Any: 8080, Named: 7070, Loopback: 9090, Port: 80, BridgeNetfilter: bridgeNetfilter,
		Addrs: []firewalltest.Addrs{
			{Outside: addr("192.0.2.1"), Host: addr("192.0.2.2"), Gateway: addr("10.1.0.1"), Self: addr("10.1.0.2"), Neighbour: addr("10.1.0.3"), Other: addr("10.2.0.2")},
			{Outside: addr("2001:db8::1"), Host: addr("2001:db8::2"), Gateway: addr("fd00:1::1"), Self: addr("fd00:1::2"), Neighbour: addr("fd00:1::3"), Other: addr("fd00:2::2")},
		},
	}
	nstest.Connect(top.Outside, top.Host, prefixes("192.0.2.1/24", "2001:db8::1/64"), prefixes("192.0.2.2/24", "2001:db8::2/64"))
	linkLocal(top.Host, "outside")
	top.Host.Sysctl("ipv4.ip_forward", "1")
	top.Host.Sysctl("ipv6.conf.all.forwarding", "1")
	top.Host.BridgeNetfilter(bridgeNetfilter)
	bridge(top.Host, "sl-1", "10.1.0.1/24", "fd00:1::1/64")
	bridge(top.Host, "sl-2", "10.2.0.1/24", "fd00:2::1/64")
	plug(top, top.Self, "sl-1", "10.1.0.2/24", "fd00:1::2/64")
	plug(top, top.Neighbour, "sl-1", "10.1.0.3/24", "fd00:1::3/64")
	plug(top, top.Other, "sl-2", "10.2.0.2/24", "fd00:2::2/64")
	for _, subnet := range prefixes("10.0.0.0/8") {
		top.Outside.Route(subnet, addr("192.0.2.2"))
	}
	top.Outside.Route(prefixes("fd00::/8")[0], addr("2001:db8::2"))
	up(t, top.Outside, "host")
	up(t, top.Host, "outside", "sl-1", "sl-2", "self", "neighbour", "other")
	for _, c := range []*nstest.Host{top.Self, top.Neighbour, top.Other} {
		up(t, c, "host")
	}
	return top
}

// up waits until links pass packets: the kernel works through changes of carrier in its own time, and meanwhile drops without a word.
func up(t testing.TB, h *nstest.Host, links ...string) {
	t.Helper()
	for _, name := range links {
		nstest.Eventually(t, name+" of "+h.Name+" up", func() bool {
			l, err := h.Netlink().LinkByName(name)
			return err == nil && l.Attrs().OperState == netlink.OperUp
		})
	}
}

// bridge makes a bridge as the bridge driver would, with its gateway addresses first in their subnets.
func bridge(h *nstest.Host, name string, addrs ...string) {
	h.Run("ip", "link", "add", name, "address", "02:42:00:00:00:"+name[len(name)-1:]+"0", "type", "bridge")
	h.Run("ip", "link", "set", name, "up")
	for _, a := range addrs {
		h.Run("ip", "address", "add", a, "dev", name, "nodad")
	}
	linkLocal(h, name)
	h.Sysctl("ipv4/conf/"+name+"/route_localnet", "1")
	h.Run("ip", "-6", "route", "append", "local", "::1/128", "dev", name, "table", "local", "metric", "1024")
}

// linkLocal gives a link of the host the address from which it asks for the neighbours that it forwards packets to: without, it does not ask.
func linkLocal(h *nstest.Host, link string) {
	h.Run("ip", "address", "add", "fe80::1/64", "dev", link, "nodad")
}

// plug joins a container to a bridge of the host.
func plug(top firewalltest.Topology, c *nstest.Host, bridge, v4, v6 string) {
	nstest.Connect(top.Host, c, nil, prefixes(v4, v6))
	top.Host.Run("ip", "link", "set", c.Name, "master", bridge)
	if top.BridgeNetfilter {
		top.Host.Run("bridge", "link", "set", "dev", c.Name, "hairpin", "on")
	}
	for _, p := range prefixes(v4, v6) {
		gateway := p.Masked().Addr().Next()
		everything := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if gateway.Is6() {
			everything = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		c.Route(everything, gateway)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(s ...string) (p []netip.Prefix) {
	for _, one := range s {
		p = append(p, netip.MustParsePrefix(one))
	}
	return p
}

// net1 and net2 are the two networks of a topology.
func net1() firewall.Network {
	return firewall.Network{Interface: "sl-1", Subnets: prefixes("10.1.0.0/24", "fd00:1::/64"), Mode4: firewall.NAT, Mode6: firewall.NAT}
}

func net2() firewall.Network {
	return firewall.Network{Interface: "sl-2", Subnets: prefixes("10.2.0.0/24", "fd00:2::/64"), Mode4: firewall.NAT, Mode6: firewall.NAT}
}

// published is the ports of a topology as one endpoint's terms.
func published(top firewalltest.Topology) firewall.Terms {
	var t firewall.Terms
	publish := func(proto firewall.Proto, host netip.Addr, port uint16, target netip.Addr, to uint16) {
		t.Ports = append(t.Ports, firewall.Port{Interface: "sl-1", Proto: proto, Host: host, HostPorts: firewall.Range{First: port, Last: port},
			Target: target, Ports: firewall.Range{First: to, Last: to}})
	}
	for _, proto := range []firewall.Proto{firewall.TCP, firewall.UDP} {
		for _, a := range top.Addrs {
			everywhere, loopback := addr("0.0.0.0"), addr("127.0.0.1")
			if a.Host.Is6() {
				everywhere, loopback = addr("::"), addr("::1")
			}
			publish(proto, everywhere, top.Any, a.Self, top.Port)
			publish(proto, a.Host, top.Named, a.Self, top.Port)
			publish(proto, loopback, top.Loopback, a.Self, top.Port)
		}
	}
	return t
}

// apply is Apply that must succeed.
func apply(t testing.TB, f firewall.Firewall, changes ...firewall.Change) {
	t.Helper()
	if err := f.Apply(context.Background(), changes); err != nil {
		t.Fatal(err)
	}
}
