package null_test

import (
	"flag"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/drivers/null"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/netdriver/drivertest"
)

var update = flag.Bool("update", false, "write testdata")

func input(options map[string]string, subnets ...string) netdriver.Input {
	in := netdriver.Input{Network: netdriver.Network{ID: endpoint.NetworkID(strings.Repeat("0", 64)), Name: "null", Driver: "null", Options: options}}
	for _, s := range subnets {
		in.Network.Subnets = append(in.Network.Subnets, netdriver.Subnet{Pool: ipam.Pool{Subnet: netip.MustParsePrefix(s)}})
	}
	return in
}

func web() endpoint.Info {
	return endpoint.Info{ID: "e1", Spec: endpoint.Spec{Name: "web"}, Nonce: "001122334455"}
}

func TestPlanNetwork(t *testing.T) {
	plan, err := null.New().CreateNetwork(t.Context(), input(nil))
	if err != nil {
		t.Fatal(err)
	}
	drivertest.Golden(t, *update, "network", drivertest.Text(plan))
}

func TestPlanEndpoint(t *testing.T) {
	plan, err := null.New().Join(t.Context(), input(nil), web())
	if err != nil {
		t.Fatal(err)
	}
	drivertest.Golden(t, *update, "endpoint", drivertest.Text(plan))
}

func TestPlanRefuses(t *testing.T) {
	if _, err := null.New().CreateNetwork(t.Context(), input(nil, "10.1.0.0/24")); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "10.1.0.0/24") {
		t.Errorf("a subnet: %v", err)
	}
	for name, spec := range map[string]endpoint.Spec{
		"an address":        {Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24")}},
		"a MAC":             {MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
		"a sysctl":          {Sysctls: map[string]string{"net.ipv4.conf.IFNAME.forwarding": "1"}},
		"an interface name": {Interface: "eth5"},
	} {
		e := web()
		e.Spec = spec
		if _, err := null.New().CreateEndpoint(t.Context(), input(nil), e); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDriver(t *testing.T) {
	db := web()
	db.ID, db.Spec.Name, db.Nonce = "e2", "db", "66778899aabb"
	drivertest.Run(t, func(testing.TB) netdriver.Driver { return null.New() }, drivertest.Fixtures{
		Input: input(map[string]string{"com.example.other": "passes"}), Endpoints: []endpoint.Info{web(), db},
		Bad: []drivertest.Bad{{Options: map[string]string{"mtu": "1400"}, Names: `"mtu"`}},
	})
}

func TestCapability(t *testing.T) {
	if c, err := null.New().Capability(t.Context()); err != nil || !c.NoAddresses {
		t.Errorf("%+v, %v", c, err)
	}
}

func FuzzOptions(f *testing.F) {
	f.Add("com.example.other", "x")
	f.Add("mtu", "1400")
	f.Fuzz(func(t *testing.T, key, value string) {
		o, err := null.ParseOptions(map[string]string{key: value})
		if err == nil && strings.Contains(key, ".") {
			if back, err := null.ParseOptions(o.Labels()); err != nil || back != o {
				t.Fatalf("%v became %v, %v", o, back, err)
			}
			return
		}
		if strings.Contains(key, ".") || !errdefs.IsInvalidArgument(err) {
			t.Fatalf("option %q: %v", key, err)
		}
	})
}
