package drivertest

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// RunBare runs the facts of Run, and those of a driver of that name whose networks give no interface and take no option. Its plans are
// compared with testdata.
func RunBare(t *testing.T, update bool, name string, open func() netdriver.Driver) {
	in := netdriver.Input{Network: netdriver.Network{ID: endpoint.NetworkID(strings.Repeat("0", 64)), Name: name, Driver: name,
		Options: map[string]string{"com.example.other": "passes"}}}
	web := endpoint.Info{ID: "e1", Spec: endpoint.Spec{Name: "web"}, Nonce: "001122334455"}
	db := endpoint.Info{ID: "e2", Spec: endpoint.Spec{Name: "db"}, Nonce: "66778899aabb"}
	Run(t, func(testing.TB) netdriver.Driver { return open() }, Fixtures{
		Input: in, Endpoints: []endpoint.Info{web, db}, Bad: []Bad{{Options: map[string]string{"mtu": "1400"}, Names: `"mtu"`}},
	})
	t.Run("plans are empty", func(t *testing.T) {
		network, _, joined, err := Fixtures{Input: in}.make(t.Context(), open(), web)
		if err != nil {
			t.Fatal(err)
		}
		Golden(t, update, "network", Text(network))
		Golden(t, update, "endpoint", Text(joined))
	})
	t.Run("there are no addresses", func(t *testing.T) {
		if c, err := open().Capability(t.Context()); err != nil || !c.NoAddresses {
			t.Errorf("%+v, %v", c, err)
		}
		const subnet = "10.1.0.0/24"
		with := in
		with.Network.Subnets = []netdriver.Subnet{{Pool: ipam.Pool{Subnet: netip.MustParsePrefix(subnet)}}}
		if _, err := open().CreateNetwork(t.Context(), with); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), subnet) {
			t.Errorf("a subnet: %v", err)
		}
	})
	t.Run("what an interface would have is refused", func(t *testing.T) {
		for what, spec := range map[string]endpoint.Spec{
			"an address":        {Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24")}},
			"a MAC":             {MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
			"a sysctl":          {Sysctls: map[string]string{"net.ipv4.conf.IFNAME.forwarding": "1"}},
			"an interface name": {Interface: "eth5"},
		} {
			if _, err := open().CreateEndpoint(t.Context(), in, endpoint.Info{ID: "e1", Spec: spec}); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}
