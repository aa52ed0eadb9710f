package null_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/null"
)

func TestPools(t *testing.T) {
	ctx := context.Background()
	d := null.New()
	c, err := d.Capability(ctx)
	if err != nil || c.LocalSpace == "" || c.Replay || c.RequiresMAC {
		t.Errorf("Capability: got %+v, %v", c, err)
	}
	for _, r := range []struct {
		request ipam.PoolRequest
		want    string
	}{
		{ipam.PoolRequest{Owner: "net/a"}, "0.0.0.0/0"},
		{ipam.PoolRequest{Owner: "net/b"}, "0.0.0.0/0"}, // all have it
		{ipam.PoolRequest{IPv6: true, Owner: "net/a"}, "::/0"},
		{ipam.PoolRequest{Subnet: netip.MustParsePrefix("0.0.0.0/0"), Space: c.LocalSpace}, "0.0.0.0/0"}, // as a replay asks
		{ipam.PoolRequest{Subnet: netip.MustParsePrefix("::/0"), Space: c.GlobalSpace}, "::/0"},
		{ipam.PoolRequest{Exclude: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, "0.0.0.0/0"},
	} {
		p, err := d.RequestPool(ctx, r.request)
		if err != nil || p.Subnet.String() != r.want || p.ID == "" || p.Range.IsValid() || p.Gateway.IsValid() {
			t.Errorf("%+v: got %+v, %v, want %s", r.request, p, err, r.want)
			continue
		}
		for _, gateway := range []bool{false, true} {
			a, err := d.RequestAddress(ctx, ipam.AddressRequest{Pool: p.ID, Gateway: gateway, Owner: "ep/1"})
			if err != nil || a.Prefix.IsValid() {
				t.Errorf("an address of %s: got %v, %v, want none", p.ID, a, err)
			}
		}
		if err := d.ReleaseAddress(ctx, p.ID, netip.Addr{}); err != nil {
			t.Error(err)
		}
		if err := d.ReleasePool(ctx, p.ID); err != nil {
			t.Error(err)
		}
	}
}

func TestRefuses(t *testing.T) {
	ctx := context.Background()
	d := null.New()
	for _, r := range []ipam.PoolRequest{
		{Subnet: netip.MustParsePrefix("10.1.0.0/16")},
		{Subnet: netip.MustParsePrefix("0.0.0.0/24")},
		{Subnet: netip.MustParsePrefix("fd00::/64")},
		{Subnet: netip.PrefixFrom(netip.IPv4Unspecified(), 33)},
		{Range: netip.MustParsePrefix("10.1.0.0/16")},
		{Space: "local"},
		{Options: map[string]string{"serial": "true"}},
	} {
		if p, err := d.RequestPool(ctx, r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: got %+v, %v, want InvalidArgument", r, p, err)
		}
	}
	p, err := d.RequestPool(ctx, ipam.PoolRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := d.RequestAddress(ctx, ipam.AddressRequest{Pool: p.ID, Address: netip.MustParseAddr("10.1.0.1")}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a named address: got %v, %v, want InvalidArgument", a, err)
	}
	if a, err := d.RequestAddress(ctx, ipam.AddressRequest{Pool: "never"}); !errdefs.IsNotFound(err) {
		t.Errorf("an unknown pool: got %v, %v, want NotFound", a, err)
	}
}
