package sealane_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox"
)

var families = []bool{false, true} // is it IPv6?

func TestTwoContainersReachEachOther(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true})
	red := w.network(sealane.NetworkSpec{Name: "red", IPv6: true})
	a, b, other := w.container("a", nil, blue), w.container("b", nil, blue), w.container("other", nil, red)
	for _, six := range families {
		if err := a.pings(b.address(six)); err != nil {
			t.Errorf("a does not reach b: %v", err)
		}
		if reaches(a.as(), other.address(six)) || reaches(other.as(), a.address(six)) {
			t.Error("a container reaches one of another network")
		}
	}
	for _, outside := range []string{"192.0.2.1", "2001:db8::1"} {
		if err := a.pings(addr(outside)); err != nil {
			t.Errorf("a does not reach the outside: %v", err)
		}
	}
}

// The outside sees the host's address, in both families, whichever network the container is on.
func TestWhatLeavesIsMasqueraded(t *testing.T) {
	w := newWorld(t)
	c := w.container("c", nil, w.network(sealane.NetworkSpec{Name: "blue", IPv6: true}))
	firewalltest.Serve(t, w.outside, 80)
	for _, proto := range []firewall.Proto{firewall.TCP, firewall.UDP} {
		firewalltest.Call(t, c.as(), proto, netip.MustParseAddrPort("192.0.2.1:80"), addr("192.0.2.2"))
		firewalltest.Call(t, c.as(), proto, netip.MustParseAddrPort("[2001:db8::1]:80"), addr("2001:db8::2"))
	}
}

// An internal network has no default route, and one set by hand leads nowhere; nor does a route to it from the outside. Its containers
// reach each other and the bridge.
func TestInternalNetworkHasNoWayOut(t *testing.T) {
	w := newWorld(t)
	n := w.network(sealane.NetworkSpec{Name: "cellar", IPv6: true, Internal: true, IPAM: subnets("10.1.0.0/24", "fd00:1::/64")})
	w.network(sealane.NetworkSpec{Name: "blue", IPv6: true}) // turns forwarding on
	a, b := w.container("a", nil, n), w.container("b", nil, n)
	for _, six := range families {
		gateway, outside, host := addr("10.1.0.1"), addr("192.0.2.1"), addr("192.0.2.2")
		everywhere, subnet := prefix("0.0.0.0/0"), prefix("10.1.0.0/24")
		if six {
			gateway, outside, host = addr("fd00:1::1"), addr("2001:db8::1"), addr("2001:db8::2")
			everywhere, subnet = prefix("::/0"), prefix("fd00:1::/64")
		}
		for _, near := range []netip.Addr{b.address(six), gateway} {
			if err := a.pings(near); err != nil {
				t.Error(err)
			}
		}
		if out, err := a.as().Try("ping", "-c1", "-W1", outside.String()); err == nil {
			t.Errorf("%s is reached:\n%s", outside, out)
		}
		a.as().Route(everywhere, gateway)
		w.outside.Route(subnet, host)
		if reaches(a.as(), outside) {
			t.Errorf("%s is reached by a route set by hand", outside)
		}
		if pings(w.outside, a.address(six)) == nil {
			t.Errorf("the outside reaches %s by a route set by hand", a.address(six))
		}
	}
}

// A port that an internal network's container publishes is open to nobody.
func TestInternalNetworkPublishesNothing(t *testing.T) {
	w := newWorld(t)
	n := w.network(sealane.NetworkSpec{Name: "cellar", IPv6: true, Internal: true})
	c := w.container("c", ports(t, "8080:80"), n)
	firewalltest.Serve(t, c.as(), 80)
	for _, to := range []string{"192.0.2.2:8080", "[2001:db8::2]:8080"} {
		firewalltest.Call(t, w.outside, firewall.TCP, netip.MustParseAddrPort(to), netip.Addr{})
	}
}

// The whole table of who reaches a published port, through the whole of sealane.
func TestReach(t *testing.T) {
	for name, bridgeNetfilter := range map[string]bool{"bridge-nf-call 0": false, "bridge-nf-call 1": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.host.BridgeNetfilter(bridgeNetfilter)
			blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true, IPAM: subnets("10.1.0.0/24", "fd00:1::/64")})
			red := w.network(sealane.NetworkSpec{Name: "red", IPv6: true, IPAM: subnets("10.2.0.0/24", "fd00:2::/64")})
			var publish []endpoint.PortBinding
			for _, proto := range []string{"tcp", "udp"} {
				for _, s := range []string{"8080:80", "192.0.2.2:7070:80", "[2001:db8::2]:7070:80", "127.0.0.1:9090:80", "[::1]:9090:80"} {
					publish = append(publish, ports(t, s+"/"+proto)...)
				}
			}
			self := w.container("self", publish, blue)
			neighbour, other := w.container("neighbour", nil, blue), w.container("other", nil, red)
			w.outside.Route(prefix("10.0.0.0/8"), addr("192.0.2.2"))
			w.outside.Route(prefix("fd00::/8"), addr("2001:db8::2"))
			top := firewalltest.Topology{
				Host: w.host, Outside: w.outside, Self: self.as(), Neighbour: neighbour.as(), Other: other.as(),
				Any: 8080, Named: 7070, Loopback: 9090, Port: 80, BridgeNetfilter: bridgeNetfilter,
				Addrs: []firewalltest.Addrs{
					{Outside: addr("192.0.2.1"), Host: addr("192.0.2.2"), Gateway: addr("10.1.0.1")},
					{Outside: addr("2001:db8::1"), Host: addr("2001:db8::2"), Gateway: addr("fd00:1::1")},
				},
			}
			for i, six := range families {
				a := &top.Addrs[i]
				a.Self, a.Neighbour, a.Other = self.address(six), neighbour.address(six), other.address(six)
			}
			firewalltest.Reach(t, top)
		})
	}
}

// A network has the families that it was asked for, and its containers no others.
func TestFamiliesOfANetwork(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		spec       sealane.NetworkSpec
		four, six  bool
		whatIsEth0 string
	}{
		{spec: sealane.NetworkSpec{Name: "four"}, four: true},
		{spec: sealane.NetworkSpec{Name: "six", NoIPv4: true, IPv6: true}, six: true},
		{spec: sealane.NetworkSpec{Name: "both", IPv6: true}, four: true, six: true},
	} {
		t.Run(c.spec.Name, func(t *testing.T) {
			n := w.network(c.spec)
			a, b := w.container(c.spec.Name+"-a", nil, n), w.container(c.spec.Name+"-b", ports(t, "80"), n)
			for _, six := range families {
				flag, outside := "-4", addr("192.0.2.1")
				if six {
					flag, outside = "-6", addr("2001:db8::1")
				}
				has := a.as().Run("ip", flag, "-o", "address", "show", "dev", "eth0", "scope", "global") != ""
				leads := a.as().Run("ip", flag, "route", "show", "default") != ""
				if wants := six && c.six || !six && c.four; has != wants || leads != wants {
					t.Errorf("ip %s: an address %v, a default route %v, want %v", flag, has, leads, wants)
				} else if wants {
					for _, to := range []netip.Addr{b.address(six), outside} {
						if err := a.pings(to); err != nil {
							t.Error(err)
						}
					}
				}
			}
			if !c.six && a.as().Run("ip", "-6", "-o", "address", "show", "dev", "eth0") != "" {
				t.Error("eth0 has an IPv6 address")
			}
			published(t, w, b, c.four, c.six)
		})
	}
}

// published checks in which families the one port of a container is open on the host.
func published(t *testing.T, w *world, c *container, four, six bool) {
	t.Helper()
	firewalltest.Serve(t, c.as(), 80)
	info, err := c.endpoints[0].Info(t.Context())
	if err != nil || len(info.Ports) != 1 {
		t.Fatalf("got ports %v, %v", info.Ports, err)
	}
	for host, seen := range map[string]string{"192.0.2.2": "192.0.2.1", "2001:db8::2": "2001:db8::1"} {
		client := addr(seen)
		if client.Is4() && !four || client.Is6() && !six {
			client = netip.Addr{}
		}
		firewalltest.Call(t, w.outside, firewall.TCP, netip.AddrPortFrom(addr(host), info.Ports[0].HostPorts.First), client)
	}
}

func TestMTUIsTheNetworksOrTheHosts(t *testing.T) {
	w := newWorld(t)
	link, err := w.host.Netlink().LinkByName("outside")
	if err == nil {
		err = w.host.Netlink().LinkSetMTU(link, 1400)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.host.Route(prefix("0.0.0.0/0"), addr("192.0.2.1"))
	for name, c := range map[string]struct {
		options map[string]string
		want    int
	}{
		"host":  {nil, 1400},
		"own":   {map[string]string{"mtu": "1300"}, 1300},
		"jumbo": {map[string]string{"com.docker.network.driver.mtu": "9000"}, 9000},
	} {
		n := w.network(sealane.NetworkSpec{Name: name, Options: c.options})
		b := w.container(name, nil, n)
		device := "sl-" + string(n.ID())[:12]
		for in, device := range map[*nstest.Host]string{b.as(): "eth0", w.host: device} {
			l, err := in.Netlink().LinkByName(device)
			if err != nil || l.Attrs().MTU != c.want {
				t.Errorf("network %s: %s: %+v, %v, want an MTU of %d", name, device, l, err, c.want)
			}
		}
	}
}

func TestSysctlsAreSetInTheSandbox(t *testing.T) {
	w := newWorld(t)
	blue, red := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true}), w.network(sealane.NetworkSpec{Name: "red"})
	c := w.sandbox(sandbox.Spec{Name: "c", Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "net/ipv4/ping_group_range": "5 6"}})
	c.join(blue, endpoint.Spec{Name: "c", Sysctls: map[string]string{"net.ipv4.conf.IFNAME.log_martians": "1", "net.ipv6.conf.IFNAME.hop_limit": "9"}})
	c.join(red, endpoint.Spec{Name: "c"})
	for key, want := range map[string]string{
		"ipv4/ip_unprivileged_port_start": "0\n", "ipv4/ping_group_range": "5\t6\n",
		"ipv4/conf/eth0/log_martians": "1\n", "ipv6/conf/eth0/hop_limit": "9\n", "ipv4/conf/eth1/log_martians": "0\n",
	} {
		if got := c.as().Run("cat", "/proc/sys/net/"+key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if got := w.host.Run("cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"); got != "1024\n" {
		t.Errorf("the host's setting is %q", got)
	}
}

// When Join returns whoever calls the new addresses is answered, not after the kernel's next try a second later: in a sandbox that was
// empty and in one that has another network.
func TestWhatJoinedAnswersAtOnce(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true, IPAM: subnets("10.1.0.0/16", "fd00:1::/64")})
	red := w.network(sealane.NetworkSpec{Name: "red", IPv6: true})
	for i := range 40 {
		c := w.sandbox(sandbox.Spec{Name: fmt.Sprint("c", i)})
		if i%2 == 0 {
			c.join(red, endpoint.Spec{Name: fmt.Sprint("c", i)})
		}
		firewalltest.Serve(t, c.as(), 80)
		info, err := c.join(blue, endpoint.Spec{Name: fmt.Sprint("c", i)}).Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range info.Addresses {
			conn, err := w.host.Dial("tcp", netip.AddrPortFrom(p.Addr(), 80).String())
			if err != nil {
				t.Errorf("%s: %v", p.Addr(), err)
				continue
			}
			if nstest.Repeated(t, conn) {
				t.Errorf("%s answers the second try", p.Addr())
			}
			conn.Close()
		}
	}
}
