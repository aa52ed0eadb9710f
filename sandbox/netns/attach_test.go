package netns_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"

	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
)

func provider(t testing.TB, h *nstest.Host, ready int) *netns.Provider {
	t.Helper()
	p, err := netns.New(netns.Options{Host: h.Path(), Run: t.TempDir(), Instance: "test", Ready: ready})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func id() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func bridge() sandbox.Config {
	return sandbox.Config{Links: []sandbox.Link{{
		Name: "sl-0123456789ab", Owner: "net/1", MTU: 1500, MAC: net.HardwareAddr{2, 0x42, 10, 0, 0, 1}, Silent: true,
		Bridge: &sandbox.Bridge{NoSnooping: true},
		Addrs:  []netip.Prefix{netip.MustParsePrefix("10.0.0.1/16"), netip.MustParsePrefix("fd00:1::1/64")},
	}}}
}

func endpoint(n int, space string) (host, inside sandbox.Config) {
	mac := net.HardwareAddr{2, 0x42, 10, 0, byte(n >> 8), byte(n)}
	host = sandbox.Config{Links: []sandbox.Link{{
		Name: "sv" + hex.EncodeToString([]byte{0, 0, 0, 0, byte(n >> 8), byte(n)}), Master: "sl-0123456789ab", Owner: "ep/" + hex.EncodeToString([]byte{byte(n >> 8), byte(n)}),
		MTU: 1500, Silent: true, Veth: &sandbox.Veth{Peer: "eth0", Space: space, MAC: mac},
	}}}
	a4 := netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)})
	a6 := netip.MustParseAddr("fd00:1::").As16()
	a6[14], a6[15] = byte(n>>8), byte(n)
	inside = sandbox.Config{
		Links: []sandbox.Link{{Name: "eth0", MAC: mac, MTU: 1500, Silent: true, Addrs: []netip.Prefix{netip.PrefixFrom(a4, 16), netip.PrefixFrom(netip.AddrFrom16(a6), 64)}}},
		Routes: []sandbox.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.1"), Link: "eth0"},
			{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00:1::1"), Link: "eth0"},
		},
	}
	return host, inside
}

func TestAttachAndDetach(t *testing.T) {
	ctx := context.Background()
	h := nstest.New(t, "h")
	nstest.MustNotLeak(t)
	h.MustReturn()
	p := provider(t, h, 0)
	host := must[sandbox.Namespace](t)(p.Open(ctx, sandbox.Origin{Host: true}))
	net := must[sandbox.Config](t)(host.Apply(ctx, "net/1", sandbox.Config{}, bridge()))
	key := id()
	sb := must[sandbox.Namespace](t)(p.Create(ctx, key))
	outer, inner := endpoint(2, sb.Key())
	must[sandbox.Config](t)(host.Apply(ctx, "ep/0002", sandbox.Config{}, outer))
	must[sandbox.Config](t)(sb.Apply(ctx, "sb/1", sandbox.Config{}, inner))
	for _, a := range []string{"10.0.0.2", "fd00:1::2"} {
		h.Run("ping", "-c1", "-W2", a)
	}
	t.Log(h.Run("ip", "-d", "link", "show", "sv000000000002"))
	t.Log(h.Run("nsenter", "--net="+sb.Key(), "ip", "-d", "addr"))
	must[sandbox.Config](t)(host.Apply(ctx, "ep/0002", outer, sandbox.Config{}))
	if err := p.Remove(ctx, key); err != nil {
		t.Error(err)
	}
	must[sandbox.Config](t)(host.Apply(ctx, "net/1", net, sandbox.Config{}))
}
