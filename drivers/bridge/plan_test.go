package bridge_test

import (
	"flag"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sealane/sealane/drivers/bridge"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/netdriver/drivertest"
)

var update = flag.Bool("update", false, "write testdata")

// blue is a network of both families on a host like most.
func blue(options map[string]string) netdriver.Input {
	return netdriver.Input{
		Network: netdriver.Network{
			ID: endpoint.NetworkID("0123456789ab" + strings.Repeat("f", 52)), Name: "blue", Driver: "bridge", Options: options,
			Subnets: []netdriver.Subnet{drivertest.Subnet("10.1.0.0/24", "10.1.0.1/24"), drivertest.Subnet("fd00:1::/64", "fd00:1::1/64")},
		},
		Host: netdriver.Host{MTU: 1500, Features: map[string]bool{"ipv6": true, "bridge-nf-call": false}},
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
		"internal":      func(in *netdriver.Input) { in.Network.Internal = true },
		"no-gateway":    func(in *netdriver.Input) { in.Network.Subnets[0].Gateway = netip.Prefix{} },
		"inhibit-ipv4":  func(in *netdriver.Input) { in.Network.Options = bridge.Options{NoAddress4: true}.Labels() },
		"host-mtu":      func(in *netdriver.Input) { in.Host.MTU = 9000 },
		"host-mtu-tiny": func(in *netdriver.Input) { in.Host.MTU = 576 },
		"isolated": func(in *netdriver.Input) {
			in.Network.Internal = true
			in.Network.Options = bridge.Options{Mode4: firewall.Isolated, Mode6: firewall.Isolated}.Labels()
		},
		"options": func(in *netdriver.Input) {
			in.Network.Options = map[string]string{
				"com.docker.network.bridge.name":                    "dock1",
				"com.docker.network.driver.mtu":                     "1400",
				"com.docker.network.bridge.enable_icc":              "false",
				"com.docker.network.bridge.gateway_mode_ipv6":       "routed",
				"com.docker.network.host_ipv4":                      "192.0.2.9",
				"com.docker.network.bridge.trusted_host_interfaces": "eth1:eth2",
				"com.example.other":                                 "passes",
			}
		},
		"no-masquerade": func(in *netdriver.Input) { in.Network.Options = map[string]string{"masquerade": "false"} },
	} {
		t.Run(name, func(t *testing.T) {
			in := blue(nil)
			change(&in)
			plan, err := bridge.New().CreateNetwork(t.Context(), in)
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
		"hairpin-announce": func(_ *testing.T, in *netdriver.Input, e *endpoint.Info) {
			in.Host.Features["bridge-nf-call"], e.Announce = true, true
		},
		"spec": func(_ *testing.T, in *netdriver.Input, e *endpoint.Info) {
			in.Network.Options = bridge.Options{Prefix: "lan", MTU: 1400}.Labels()
			e.Spec.Priority = -5
			e.Spec.Sysctls = map[string]string{"net.ipv6.conf.IFNAME.accept_ra": "2", "net.ipv4.conf.IFNAME.log_martians": "1"}
		},
		"other-router": func(_ *testing.T, in *netdriver.Input, _ *endpoint.Info) {
			in.Network.Subnets[0].Aux = map[string]netip.Addr{"DefaultGatewayIPv4": netip.MustParseAddr("10.1.0.254")}
		},
		"ports": func(t *testing.T, _ *netdriver.Input, e *endpoint.Info) {
			e.Ports = drivertest.Ports(t, "8080:80", "127.0.0.1:9090:90/udp", "[::1]:9090:90/udp", "[::]:7000-7009:70-79", "192.0.2.2:5000:5000/sctp")
		},
		"ports-ipv4": func(t *testing.T, in *netdriver.Input, e *endpoint.Info) {
			in.Network.Subnets, e.Addresses = in.Network.Subnets[:1], e.Addresses[:1]
			e.Ports = drivertest.Ports(t, "8080:80", "[::]:8081:81", "[::1]:8082:82")
		},
		"ports-default-binding": func(t *testing.T, in *netdriver.Input, e *endpoint.Info) {
			in.Network.Options = map[string]string{"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}
			e.Ports = drivertest.Ports(t, "8080:80", "0.0.0.0:8081:81", "[::]:8082:82")
		},
	} {
		t.Run(name, func(t *testing.T) {
			in, e := blue(nil), drivertest.Web()
			change(t, &in, &e)
			plan, err := bridge.New().Join(t.Context(), in, e)
			if err != nil {
				t.Fatal(err)
			}
			drivertest.Golden(t, *update, "endpoint-"+name, drivertest.Text(plan.Named("eth0")))
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*netdriver.Input, *endpoint.Info)
		kind   func(error) bool
		says   string
	}{
		"no subnet": {func(in *netdriver.Input, _ *endpoint.Info) { in.Network.Subnets = nil }, errdefs.IsInvalidArgument, "needs a subnet"},
		"two of a family": {func(in *netdriver.Input, _ *endpoint.Info) {
			in.Network.Subnets[1] = drivertest.Subnet("10.2.0.0/24", "")
		}, errdefs.IsInvalidArgument, "10.2.0.0/24"},
		"a host without IPv6": {func(in *netdriver.Input, _ *endpoint.Info) { in.Host.Features["ipv6"] = false }, errdefs.IsFailedPrecondition, "no IPv6"},
		"a small MTU": {func(in *netdriver.Input, _ *endpoint.Info) { in.Network.Options = bridge.Options{MTU: 1279}.Labels() },
			errdefs.IsInvalidArgument, "1280"},
		"isolated and not internal": {func(in *netdriver.Input, _ *endpoint.Info) {
			in.Network.Options = bridge.Options{Mode6: firewall.Isolated}.Labels()
		}, errdefs.IsInvalidArgument, "internal"},
		"a source and no translation": {func(in *netdriver.Input, _ *endpoint.Info) {
			in.Network.Options = bridge.Options{NoMasquerade: true, SNAT4: netip.MustParseAddr("192.0.2.1")}.Labels()
		}, errdefs.IsInvalidArgument, "translation is off"},
		"an address outside": {func(_ *netdriver.Input, e *endpoint.Info) { e.Addresses[0] = netip.MustParsePrefix("10.2.0.2/24") }, errdefs.IsInvalidArgument, "10.2.0.2"},
		"two of one family":  {func(_ *netdriver.Input, e *endpoint.Info) { e.Addresses[1] = netip.MustParsePrefix("10.1.0.3/24") }, errdefs.IsInvalidArgument, "10.1.0.3"},
		"IPv6 for none":      {func(_ *netdriver.Input, e *endpoint.Info) { e.Spec.NoIPv6 = true }, errdefs.IsInvalidArgument, "fd00:1::2"},
		"a multicast MAC":    {func(_ *netdriver.Input, e *endpoint.Info) { e.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }, errdefs.IsInvalidArgument, "01:00:00:00:00:01"},
		"a sysctl of others": {func(_ *netdriver.Input, e *endpoint.Info) {
			e.Spec.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
		}, errdefs.IsInvalidArgument, "net.ipv4.ip_forward"},
		"an option": {func(_ *netdriver.Input, e *endpoint.Info) { e.Spec.Options = map[string]string{"speed": "1"} }, errdefs.IsInvalidArgument, "speed"},
		"a port not given": {func(_ *netdriver.Input, e *endpoint.Info) {
			e.Ports = []endpoint.PortBinding{{Proto: 6, Ports: firewall.Range{First: 80, Last: 80}}}
		}, errdefs.IsInvalidArgument, "80"},
		"a nonce too long":    {func(_ *netdriver.Input, e *endpoint.Info) { e.Nonce = "00112233445566" }, errdefs.IsInvalidArgument, "nonce"},
		"a nonce with a path": {func(_ *netdriver.Input, e *endpoint.Info) { e.Nonce = "../../../../" }, errdefs.IsInvalidArgument, "nonce"},
	} {
		t.Run(name, func(t *testing.T) {
			in, e := blue(nil), drivertest.Web()
			c.change(&in, &e)
			_, err := bridge.New().Join(t.Context(), in, e)
			if err == nil {
				_, err = bridge.New().CreateNetwork(t.Context(), in)
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
	drivertest.Run(t, func(testing.TB) netdriver.Driver { return bridge.New() }, drivertest.Fixtures{
		Input: blue(nil), Endpoints: []endpoint.Info{first, db},
		Bad: []drivertest.Bad{
			{Options: map[string]string{"nmae": "x"}, Names: `"nmae"`},
			{Options: map[string]string{"com.docker.network.bridge.enable_ipc": "true"}, Names: "com.docker.network.bridge.enable_ipc"},
			{Options: map[string]string{"mtu": "67"}, Names: "mtu"},
			{Options: map[string]string{"mtu": "65536"}, Names: "68 to 65535"},
			{Options: map[string]string{"com.docker.network.driver.mtu": "-1"}, Names: "com.docker.network.driver.mtu"},
			{Options: map[string]string{"mtu": "1400", "com.docker.network.driver.mtu": "1300"}, Names: "com.docker.network.driver.mtu"},
			{Options: map[string]string{"name": "a/b"}, Names: "name"},
			{Options: map[string]string{"name": "sixteen-bytes-ab"}, Names: "name"},
			{Options: map[string]string{"name": "all"}, Names: "name"},
			{Options: map[string]string{"name": ""}, Names: "name"},
			{Options: map[string]string{"iface_prefix": "twelve-bytes"}, Names: "iface_prefix"},
			{Options: map[string]string{"masquerade": "maybe"}, Names: "true or false"},
			{Options: map[string]string{"gateway_mode_ipv4": "bridge"}, Names: "nat, nat-unprotected, routed or isolated"},
			{Options: map[string]string{"host_binding_ipv4": "::1"}, Names: "host_binding_ipv4"},
			{Options: map[string]string{"host_ipv4": "0.0.0.0"}, Names: "host_ipv4"},
			{Options: map[string]string{"host_ipv6": "192.0.2.1"}, Names: "host_ipv6"},
			{Options: map[string]string{"trusted_host_interfaces": "eth0::eth1"}, Names: "trusted_host_interfaces"},
		},
	})
}

func TestBinding(t *testing.T) { drivertest.RunBinding(t, bridge.New()) }

func TestCheckChange(t *testing.T) {
	driver := bridge.New().(netdriver.Changer)
	for name, c := range map[string]struct {
		change func(*netdriver.Network)
		kind   func(error) bool
	}{
		"labels":      {func(n *netdriver.Network) { n.Labels = map[string]string{"a": "b"} }, nil},
		"mtu":         {func(n *netdriver.Network) { n.Options["mtu"] = "1400" }, nil},
		"icc":         {func(n *netdriver.Network) { n.Options["icc"] = "false" }, nil},
		"name":        {func(n *netdriver.Network) { n.Options["name"] = "br9" }, errdefs.IsFailedPrecondition},
		"internal":    {func(n *netdriver.Network) { n.Internal = true }, errdefs.IsFailedPrecondition},
		"subnet":      {func(n *netdriver.Network) { n.Subnets = n.Subnets[:1] }, errdefs.IsFailedPrecondition},
		"bad":         {func(n *netdriver.Network) { n.Options["mtu"] = "huge" }, errdefs.IsInvalidArgument},
		"bad for all": {func(n *netdriver.Network) { n.Options["mtu"] = "1000" }, errdefs.IsInvalidArgument},
	} {
		from, to := blue(map[string]string{}).Network, blue(map[string]string{}).Network
		c.change(&to)
		err := driver.CheckChange(from, to)
		if c.kind == nil && err != nil || c.kind != nil && !c.kind(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSkipGateway(t *testing.T) {
	driver := bridge.New().(netdriver.GatewayAllocator)
	skip4, skip6, err := driver.SkipGateway(t.Context(), map[string]string{"gateway_mode_ipv6": "isolated"})
	if skip4 || !skip6 || err != nil {
		t.Errorf("skip %v %v, %v", skip4, skip6, err)
	}
	if _, _, err := driver.SkipGateway(t.Context(), map[string]string{"gateway_mode_ipv6": "yes"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a bad option: %v", err)
	}
}

func FuzzOptions(f *testing.F) {
	f.Add("br0", 1400, "net", "127.0.0.1", "192.0.2.1", "2001:db8::1", "eth0:eth1", "routed", uint8(5))
	f.Add("", 0, "", "", "", "", "", "", uint8(0))
	f.Fuzz(func(t *testing.T, name string, mtu int, prefix, binding, snat4, snat6, trusted, mode string, bits uint8) {
		labels := map[string]string{}
		for key, value := range map[string]string{"name": name, "iface_prefix": prefix, "host_binding_ipv4": binding, "host_ipv4": snat4,
			"host_ipv6": snat6, "trusted_host_interfaces": trusted, "gateway_mode_ipv4": mode, "gateway_mode_ipv6": mode} {
			if value != "" {
				labels[key] = value
			}
		}
		o, err := bridge.ParseOptions(labels)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatal(err)
			}
			return
		}
		o.NoMasquerade, o.NoICC, o.NoAddress4 = bits&1 != 0, bits&2 != 0, bits&4 != 0
		if mtu >= 68 && mtu <= 65535 {
			o.MTU = mtu
		}
		back, err := bridge.ParseOptions(o.Labels())
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		if diff := cmp.Diff(o, back, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Fatal(diff)
		}
		if !maps.Equal(o.Labels(), back.Labels()) {
			t.Fatalf("%v became %v", o.Labels(), back.Labels())
		}
	})
}
