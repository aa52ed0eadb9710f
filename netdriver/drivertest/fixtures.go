package drivertest

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// Subnet is a subnet with a gateway; "": it has none.
func Subnet(prefix, gateway string) netdriver.Subnet {
	s := netdriver.Subnet{Pool: ipam.Pool{Subnet: netip.MustParsePrefix(prefix)}}
	if gateway != "" {
		s.Gateway = netip.MustParsePrefix(gateway)
	}
	return s
}

// Web is an endpoint of the subnets 10.1.0.0/24 and fd00:1::/64, joined.
func Web() endpoint.Info {
	return endpoint.Info{
		ID:        endpoint.ID("e1" + strings.Repeat("a", 62)),
		Spec:      endpoint.Spec{Name: "web"},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24"), netip.MustParsePrefix("fd00:1::2/64")},
		MAC:       net.HardwareAddr{2, 0x42, 10, 1, 0, 2},
		Nonce:     "001122334455",
		Key:       "/run/sealane/netns/web",
	}
}

// DB is another of these subnets.
func DB() endpoint.Info {
	e := Web()
	e.ID, e.Spec.Name, e.Nonce = endpoint.ID("e2"+strings.Repeat("b", 62)), "db", "66778899aabb"
	e.Addresses = []netip.Prefix{netip.MustParsePrefix("10.1.0.3/24"), netip.MustParsePrefix("fd00:1::3/64")}
	e.MAC = endpoint.MAC(e.Addresses[0].Addr())
	return e
}

// Ports reads published ports as a user writes them.
func Ports(t testing.TB, specs ...string) []endpoint.PortBinding {
	t.Helper()
	var all []endpoint.PortBinding
	for _, s := range specs {
		b, err := endpoint.ParsePort(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// RunBinding says that a driver tells what its option host_binding_ipv4 is, and nothing when it is 0.0.0.0, which is all addresses.
func RunBinding(t *testing.T, d netdriver.Driver) {
	for option, want := range map[string]netip.Addr{
		"": {}, "0.0.0.0": {}, "127.0.0.1": netip.AddrFrom4([4]byte{127, 0, 0, 1}),
	} {
		n := netdriver.Network{}
		if option != "" {
			n.Options = map[string]string{"host_binding_ipv4": option}
		}
		if got := d.(netdriver.Binder).Binding(n); got != want {
			t.Errorf("host_binding_ipv4=%s: %v, want %v", option, got, want)
		}
	}
}
