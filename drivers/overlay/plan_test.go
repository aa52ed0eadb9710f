package overlay_test

import (
	"flag"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sealane/sealane/drivers/overlay"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/netdriver/drivertest"
	"github.com/sealane/sealane/sandbox"
)

var update = flag.Bool("update", false, "write testdata")

// blue is a network of both families with a peer, on a host like most.
func blue(options map[string]string) netdriver.Input {
	return netdriver.Input{
		Network: netdriver.Network{
			ID: endpoint.NetworkID("0123456789ab" + strings.Repeat("f", 52)), Name: "blue", Driver: "overlay", Options: options, Number: 256,
			Subnets: []netdriver.Subnet{drivertest.Subnet("10.1.0.0/24", "10.1.0.1/24"), drivertest.Subnet("fd00:1::/64", "fd00:1::1/64")},
		},
		Host: netdriver.Host{
			MTU: 1500, Advertise: netip.MustParseAddr("192.0.2.1"), Routes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
			Features: map[string]bool{"ipv6": true, "bridge-nf-call": false, "br_netfilter": true},
		},
		Peers: []netdriver.Peer{peer(9, "192.0.2.2")},
	}
}

// peer is an endpoint on another host.
func peer(n byte, tunnel string) netdriver.Peer {
	four := netip.AddrFrom4([4]byte{10, 1, 0, n})
	return netdriver.Peer{
		Published: endpoint.Published{
			ID: endpoint.ID(fmt.Sprintf("%02x", n) + strings.Repeat("c", 62)), Name: fmt.Sprintf("peer%d", n), MAC: endpoint.MAC(four),
			Addresses: []netip.Prefix{netip.PrefixFrom(four, 24), netip.MustParsePrefix(fmt.Sprintf("fd00:1::%x/64", n))},
		},
		Tunnel: netip.MustParseAddr(tunnel),
	}
}

func TestPlanNetwork(t *testing.T) {
	for name, change := range map[string]func(*netdriver.Input){
		"dual": func(*netdriver.Input) {},
		"ipv4": func(in *netdriver.Input) { in.Network.Subnets = in.Network.Subnets[:1] },
		"ipv6": func(in *netdriver.Input) { in.Network.Subnets = in.Network.Subnets[1:] },
		"ipv4-host-without-ipv6": func(in *netdriver.Input) {
			in.Network.Subnets, in.Host.Features = in.Network.Subnets[:1], map[string]bool{"ipv6": false}
		},
		"over-ipv6": func(in *netdriver.Input) {
			in.Host.Advertise = netip.MustParseAddr("2001:db8::1")
			in.Peers = []netdriver.Peer{peer(9, "2001:db8::2"), peer(10, "192.0.2.2")}
		},
		"internal":   func(in *netdriver.Input) { in.Network.Internal = true },
		"no-peers":   func(in *netdriver.Input) { in.Peers = nil },
		"no-gateway": func(in *netdriver.Input) { in.Network.Subnets[0].Gateway = netip.Prefix{} },
		"subnets": func(in *netdriver.Input) {
			in.Network.Subnets = append(in.Network.Subnets, drivertest.Subnet("10.2.0.0/24", "10.2.0.1/24"), drivertest.Subnet("fd00:2::/64", "fd00:2::1/64"))
		},
		"small-underlay": func(in *netdriver.Input) { in.Host.MTU = 1300 },
		"jumbo-underlay": func(in *netdriver.Input) { in.Host.MTU = 9000 },
		"flood": func(in *netdriver.Input) {
			in.Network.Options = map[string]string{"flood": "1"}
			in.Peers = append(in.Peers, peer(10, "192.0.2.2"), peer(11, "192.0.2.3"))
		},
		"options": func(in *netdriver.Input) {
			in.Network.Options = map[string]string{
				"com.docker.network.driver.overlay.vxlanid_list": "5000000", "port": "5789", "com.docker.network.driver.mtu": "1400",
				"transit_ipv4": "100.64.0.2/31", "transit_ipv6": "fd99::/64", "com.docker.network.host_ipv4": "192.0.2.9", "com.example.other": "passes",
			}
			in.Network.Number = 5000000
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := blue(nil)
			change(&in)
			plan, err := overlay.New().CreateNetwork(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			drivertest.Golden(t, *update, "network-"+name, drivertest.Text(plan))
		})
	}
}

func TestPlanEndpoint(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *netdriver.Input, *endpoint.Info){
		"dual": func(*testing.T, *netdriver.Input, *endpoint.Info) {},
		"ipv4": func(_ *testing.T, in *netdriver.Input, e *endpoint.Info) {
			in.Network.Subnets, e.Addresses = in.Network.Subnets[:1], e.Addresses[:1]
		},
		"ipv6": func(_ *testing.T, in *netdriver.Input, e *endpoint.Info) {
			in.Network.Subnets, e.Addresses = in.Network.Subnets[1:], e.Addresses[1:]
			e.MAC = endpoint.MAC(e.Addresses[0].Addr())
		},
		"no-ipv6": func(_ *testing.T, _ *netdriver.Input, e *endpoint.Info) {
			e.Spec.NoIPv6, e.Addresses = true, e.Addresses[:1]
		},
		"foreign": func(_ *testing.T, _ *netdriver.Input, e *endpoint.Info) { e.Key = "" },
		"internal": func(t *testing.T, in *netdriver.Input, e *endpoint.Info) {
			in.Network.Internal, e.Ports = true, drivertest.Ports(t, "8080:80")
		},
		"subnets": func(_ *testing.T, in *netdriver.Input, e *endpoint.Info) {
			in.Network.Subnets = append(in.Network.Subnets, drivertest.Subnet("10.2.0.0/24", "10.2.0.1/24"), drivertest.Subnet("fd00:2::/64", "fd00:2::1/64"))
			e.Announce = true
		},
		"on-two-subnets": func(_ *testing.T, in *netdriver.Input, e *endpoint.Info) {
			in.Network.Subnets = append(in.Network.Subnets, drivertest.Subnet("10.2.0.0/24", "10.2.0.1/24"))
			e.Addresses = append(e.Addresses, netip.MustParsePrefix("10.2.0.2/24"))
		},
		"ports": func(t *testing.T, _ *netdriver.Input, e *endpoint.Info) {
			e.Ports = drivertest.Ports(t, "8080:80", "127.0.0.1:9090:90/udp", "[::1]:9090:90/udp", "[::]:7000-7009:70-79", "192.0.2.1:5000:5000/sctp")
		},
		"ports-ipv4": func(t *testing.T, in *netdriver.Input, e *endpoint.Info) {
			in.Network.Subnets, e.Addresses = in.Network.Subnets[:1], e.Addresses[:1]
			e.Ports = drivertest.Ports(t, "8080:80", "[::]:8081:81", "[::1]:8082:82")
		},
		"ports-default-binding": func(t *testing.T, in *netdriver.Input, e *endpoint.Info) {
			in.Network.Options = overlay.Options{Binding: netip.MustParseAddr("127.0.0.1"), Prefix: "lan"}.Labels()
			e.Ports = drivertest.Ports(t, "8080:80", "0.0.0.0:8081:81", "[::]:8082:82")
		},
	} {
		t.Run(name, func(t *testing.T) {
			in, e := blue(nil), drivertest.Web()
			change(t, &in, &e)
			plan, err := overlay.New().Join(t.Context(), in, e)
			if err != nil {
				t.Fatal(err)
			}
			drivertest.Golden(t, *update, "endpoint-"+name, drivertest.Text(plan.Named("eth0")))
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	set := func(o overlay.Options) func(*netdriver.Input, *endpoint.Info) {
		return func(in *netdriver.Input, _ *endpoint.Info) { in.Network.Options = o.Labels() }
	}
	for name, c := range map[string]struct {
		change func(*netdriver.Input, *endpoint.Info)
		kind   func(error) bool
		says   string
	}{
		"no subnet":           {func(in *netdriver.Input, _ *endpoint.Info) { in.Network.Subnets = nil }, errdefs.IsInvalidArgument, "needs a subnet"},
		"a host without IPv6": {func(in *netdriver.Input, _ *endpoint.Info) { in.Host.Features["ipv6"] = false }, errdefs.IsFailedPrecondition, "no IPv6"},
		"no tunnel address":   {func(in *netdriver.Input, _ *endpoint.Info) { in.Host.Advertise = netip.Addr{} }, errdefs.IsFailedPrecondition, "--advertise"},
		"no number":           {func(in *netdriver.Input, _ *endpoint.Info) { in.Network.Number = 0 }, errdefs.IsFailedPrecondition, "no VNI"},
		"a small MTU":         {set(overlay.Options{MTU: 1279}), errdefs.IsInvalidArgument, "1280"},
		"a VNI beyond the pool": {func(in *netdriver.Input, _ *endpoint.Info) { in.Network.Number = 8192 }, errdefs.IsInvalidArgument,
			"option transit_ipv4: pool 169.254.64.0/18 has addresses for VNIs below 8192"},
		"a transit pool of the host's": {set(overlay.Options{Transit4: netip.MustParsePrefix("192.0.2.0/31")}), errdefs.IsFailedPrecondition, "192.0.2.0/24"},
		"an address outside":           {func(_ *netdriver.Input, e *endpoint.Info) { e.Addresses[0] = netip.MustParsePrefix("10.2.0.2/24") }, errdefs.IsInvalidArgument, "10.2.0.2"},
		"two of one subnet":            {func(_ *netdriver.Input, e *endpoint.Info) { e.Addresses[1] = netip.MustParsePrefix("10.1.0.3/24") }, errdefs.IsInvalidArgument, "10.1.0.3"},
		"IPv6 for none":                {func(_ *netdriver.Input, e *endpoint.Info) { e.Spec.NoIPv6 = true }, errdefs.IsInvalidArgument, "fd00:1::2"},
		"a multicast MAC":              {func(_ *netdriver.Input, e *endpoint.Info) { e.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }, errdefs.IsInvalidArgument, "01:00:00:00:00:01"},
		"a sysctl of others": {func(_ *netdriver.Input, e *endpoint.Info) {
			e.Spec.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
		}, errdefs.IsInvalidArgument, "net.ipv4.ip_forward"},
		"an option": {func(_ *netdriver.Input, e *endpoint.Info) { e.Spec.Options = map[string]string{"speed": "1"} }, errdefs.IsInvalidArgument, "speed"},
		"one host port to two places": {func(_ *netdriver.Input, e *endpoint.Info) {
			e.Ports = drivertest.Ports(t, "192.0.2.1:8080:80", "127.0.0.1:8080:81")
		}, errdefs.IsInvalidArgument, "8080"},
		"a nonce with a path": {func(_ *netdriver.Input, e *endpoint.Info) { e.Nonce = "../../../../" }, errdefs.IsInvalidArgument, "nonce"},
	} {
		t.Run(name, func(t *testing.T) {
			in, e := blue(nil), drivertest.Web()
			c.change(&in, &e)
			_, err := overlay.New().Join(t.Context(), in, e)
			if err == nil {
				_, err = overlay.New().CreateNetwork(t.Context(), in)
			}
			if !c.kind(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %s", err, c.says)
			}
		})
	}
}

func TestDriver(t *testing.T) {
	first, db := drivertest.Web(), drivertest.DB()
	first.Ports, db.Ports = drivertest.Ports(t, "8080:80", "8443:443/udp"), drivertest.Ports(t, "8081:80")
	drivertest.Run(t, func(testing.TB) netdriver.Driver { return overlay.New() }, drivertest.Fixtures{
		Input: blue(nil), Endpoints: []endpoint.Info{first, db},
		Bad: []drivertest.Bad{
			{Options: map[string]string{"vin": "256"}, Names: `"vin"`},
			{Options: map[string]string{"encrypted": ""}, Names: `"encrypted"`},
			{Options: map[string]string{"com.docker.network.driver.overlay.bind_interface": "eth0"}, Names: "bind_interface"},
			{Options: map[string]string{"vni": "0"}, Names: "vni"},
			{Options: map[string]string{"vni": "16777216"}, Names: "1 to 16777215"},
			{Options: map[string]string{"vni": "300-299"}, Names: "vni"},
			{Options: map[string]string{"vni": "300", "com.docker.network.driver.overlay.vxlanid_list": "301"}, Names: "vxlanid_list"},
			{Options: map[string]string{"port": "0"}, Names: "port"},
			{Options: map[string]string{"port": "65536"}, Names: "1 to 65535"},
			{Options: map[string]string{"mtu": "67"}, Names: "mtu"},
			{Options: map[string]string{"iface_prefix": "twelve-bytes"}, Names: "iface_prefix"},
			{Options: map[string]string{"host_binding_ipv4": "::1"}, Names: "host_binding_ipv4"},
			{Options: map[string]string{"host_ipv4": "0.0.0.0"}, Names: "host_ipv4"},
			{Options: map[string]string{"host_ipv6": "192.0.2.1"}, Names: "host_ipv6"},
			{Options: map[string]string{"transit_ipv4": "10.0.0.0/32"}, Names: "transit_ipv4"},
			{Options: map[string]string{"transit_ipv4": "fd00::/64"}, Names: "transit_ipv4"},
			{Options: map[string]string{"transit_ipv6": "fe80::/64"}, Names: "transit_ipv6"},
		},
	})
}

func TestBinding(t *testing.T) { drivertest.RunBinding(t, overlay.New()) }

func TestCheckChange(t *testing.T) {
	driver := overlay.New().(netdriver.Changer)
	for name, c := range map[string]struct {
		change func(*netdriver.Network)
		kind   func(error) bool
	}{
		"labels": {func(n *netdriver.Network) { n.Labels = map[string]string{"a": "b"} }, nil},
		"mtu":    {func(n *netdriver.Network) { n.Options["mtu"] = "1400" }, nil},
		"one subnet more": {func(n *netdriver.Network) {
			n.Subnets = append(n.Subnets, drivertest.Subnet("10.2.0.0/24", "10.2.0.1/24"))
		}, nil},
		"vni":           {func(n *netdriver.Network) { n.Options["vni"] = "9" }, errdefs.IsFailedPrecondition},
		"port":          {func(n *netdriver.Network) { n.Options["port"] = "9" }, errdefs.IsFailedPrecondition},
		"internal":      {func(n *netdriver.Network) { n.Internal = true }, errdefs.IsFailedPrecondition},
		"a subnet less": {func(n *netdriver.Network) { n.Subnets = n.Subnets[:1] }, errdefs.IsFailedPrecondition},
		"bad":           {func(n *netdriver.Network) { n.Options["mtu"] = "huge" }, errdefs.IsInvalidArgument},
	} {
		from, to := blue(map[string]string{}).Network, blue(map[string]string{}).Network
		c.change(&to)
		err := driver.CheckChange(from, to)
		if c.kind == nil && err != nil || c.kind != nil && !c.kind(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]overlay.Range{"": {First: 256, Last: 1000}, "7": {First: 7, Last: 7}, "256-2000": {First: 256, Last: 2000}} {
		n := netdriver.Network{}
		if text != "" {
			n.Options = map[string]string{"vni": text}
		}
		first, last, option, err := overlay.New().(netdriver.Numbered).Numbers(n)
		if (overlay.Range{First: first, Last: last}) != want || option != "vni" || err != nil {
			t.Errorf("%q: %d-%d by %q, %v", text, first, last, option, err)
		}
	}
	if _, _, _, err := overlay.New().(netdriver.Numbered).Numbers(netdriver.Network{Options: map[string]string{"vni": "x"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a bad range: %v", err)
	}
}

// Whatever other hosts say, a network sends to known hosts only, keeps its gateway to itself, and has one entry for an address and for a
// MAC; and what it has does not depend on what came before.
func TestPeers(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		in := blue(nil)
		in.Peers = rapid.SliceOfN(rapid.Custom(somePeer), 0, 12).Draw(r, "peers")
		plan, err := overlay.New().CreateNetwork(t.Context(), in)
		if err != nil {
			r.Fatal(err)
		}
		links := plan.Shares[1].Config.Links
		tunnels := plan.Shares[0].Terms.Tunnels[0].Peers
		if !slices.IsSortedFunc(tunnels, netip.Addr.Compare) || slices.Contains(tunnels, in.Host.Advertise) {
			r.Fatalf("tunnels %v", tunnels)
		}
		addrs, macs := map[netip.Addr]bool{in.Network.Subnets[0].Gateway.Addr(): true, in.Network.Subnets[1].Gateway.Addr(): true}, map[string]bool{links[0].MAC.String(): true}
		for _, e := range links[0].Entries {
			if addrs[e.Addr] || e.Via.IsValid() || !slices.ContainsFunc(in.Network.Subnets, func(s netdriver.Subnet) bool { return s.Pool.Subnet.Contains(e.Addr) }) {
				r.Fatalf("neighbour %v", e)
			}
			addrs[e.Addr] = true
			if !slices.ContainsFunc(links[1].Entries, func(f sandbox.Entry) bool { return f.MAC.String() == e.MAC.String() }) {
				r.Fatalf("nobody knows where %s is", e.MAC)
			}
		}
		for _, e := range links[1].Entries {
			if macs[e.MAC.String()] || e.Addr.IsValid() || !slices.Contains(tunnels, e.Via) {
				r.Fatalf("forwarding entry %v", e)
			}
			macs[e.MAC.String()] = true
		}
	})
}

func somePeer(r *rapid.T) netdriver.Peer {
	p := peer(rapid.ByteRange(0, 4).Draw(r, "address"), rapid.SampledFrom([]string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::2"}).Draw(r, "tunnel"))
	switch rapid.IntRange(0, 6).Draw(r, "odd") {
	case 0:
		p.MAC = nil
	case 1:
		p.MAC = net.HardwareAddr{1, 2, 3}
	case 2:
		p.Addresses = append(p.Addresses, netip.MustParsePrefix("10.9.0.1/24"))
	case 3:
		p.Tunnel = netip.Addr{}
	case 4:
		p.MAC = endpoint.MAC(netip.MustParseAddr("10.1.0.1"))
	}
	return p
}

func FuzzOptions(f *testing.F) {
	f.Add("256-1000", "4789", 1400, "net", "127.0.0.1", "192.0.2.1", "2001:db8::1", "10.0.0.0/8", "fd00::/64")
	f.Add("", "", 0, "", "", "", "", "", "")
	f.Fuzz(func(t *testing.T, vni, port string, mtu int, prefix, binding, snat4, snat6, transit4, transit6 string) {
		labels := map[string]string{}
		for key, value := range map[string]string{"vni": vni, "port": port, "iface_prefix": prefix, "host_binding_ipv4": binding, "host_ipv4": snat4,
			"host_ipv6": snat6, "transit_ipv4": transit4, "transit_ipv6": transit6} {
			if value != "" {
				labels[key] = value
			}
		}
		o, err := overlay.ParseOptions(labels)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatal(err)
			}
			return
		}
		if mtu >= 68 && mtu <= 65535 {
			o.MTU = mtu
		}
		back, err := overlay.ParseOptions(o.Labels())
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		if diff := cmp.Diff(o, back, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Fatal(diff)
		}
		if !maps.Equal(o.Labels(), back.Labels()) {
			t.Fatalf("%v became %v", o.Labels(), back.Labels())
		}
	})
}
