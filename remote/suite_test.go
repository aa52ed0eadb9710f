package remote_test

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/ipamtest"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/netdriver/drivertest"
	"github.com/sealane/sealane/remote"
	"github.com/sealane/sealane/sandbox"
)

// serve makes a plugin of drivers, on a socket of its own, and returns drivers made of the plugin.
func serve(t testing.TB, d netdriver.Driver, a ipam.Driver) (netdriver.Driver, ipam.Driver) {
	t.Helper()
	dir := t.TempDir()
	s := remote.NewServer(d, a, nil)
	l, err := remote.Listen(filepath.Join(dir, "p.sock"), 0)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		l.Close()
		<-ended
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return find(t, remote.Options{Sockets: dir}, "p")
}

func find(t testing.TB, o remote.Options, name string) (netdriver.Driver, ipam.Driver) {
	t.Helper()
	plugins := remote.New(o)
	t.Cleanup(func() { plugins.Close() })
	d, a, err := plugins.Find(context.Background(), name)
	if err != nil || d == nil || a == nil {
		t.Fatalf("find %s: %v, %v, %v", name, d, a, err)
	}
	return d, a
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func fixtures() drivertest.Fixtures {
	f := drivertest.Fixtures{
		Input: netdriver.Input{Network: netdriver.Network{ID: "n1", Name: "blue", IPv4: true,
			Subnets: []netdriver.Subnet{{Pool: ipam.Pool{Subnet: prefix("10.1.0.0/24")}, Gateway: prefix("10.1.0.1/24")}}}},
		Bad: []drivertest.Bad{{Options: map[string]string{"bad": "x"}, Names: "bad"}},
	}
	for i := range 2 {
		p := prefix(fmt.Sprintf("10.1.0.%d/24", i+2))
		e := endpoint.Info{ID: endpoint.ID(fmt.Sprintf("e%d", i)), Addresses: []netip.Prefix{p}, MAC: endpoint.MAC(p.Addr()), Key: "/n"}
		f.Endpoints = append(f.Endpoints, e)
		f.Links = append(f.Links, sandbox.Link{Name: "act" + string(e.ID), MAC: e.MAC, Down: true, Tap: &sandbox.Tap{}})
	}
	return f
}

// A driver that acts keeps the contract through HTTP and JSON.
func TestNetworkSuite(t *testing.T) {
	drivertest.Run(t, func(t testing.TB) netdriver.Driver {
		d, _ := serve(t, drivertest.NewActing(), nil)
		return d
	}, fixtures())
}

func pools(t testing.TB) ipam.Driver {
	t.Helper()
	p, err := pool.New(pool.Options{HostID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// So do address drivers: one that forgets at restart, and one that does not, wants MAC addresses and chooses gateways.
func TestIPAMSuite(t *testing.T) {
	for name, make := range map[string]func(testing.TB) ipam.Driver{
		"pool": pools,
		"fake": func(t testing.TB) ipam.Driver { return &ipamtest.Fake{Driver: pools(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			ipamtest.Run(t, func(t testing.TB) ipam.Driver {
				_, a := serve(t, nil, make(t))
				return a
			})
		})
	}
}
