package netns_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox"
)

// A host that learnt its default route from a router keeps listening to that router when it begins to forward; other links are left alone.
func TestForwardingKeepsAdvertisedRoutes(t *testing.T) {
	r := newRoom(t, 0)
	router, other := nstest.New(t, "router"), nstest.New(t, "other")
	nstest.Connect(r.h, router, []netip.Prefix{netip.MustParsePrefix("2001:db8::2/64")}, []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")})
	nstest.Connect(r.h, other, nil, nil)
	r.h.Run("ip", "-6", "route", "add", "default", "via", "2001:db8::1", "dev", "router", "proto", "ra")
	r.apply(r.host, "net/1", sandbox.Config{Sysctls: []sandbox.Sysctl{{Key: "ipv6/conf/all/forwarding", Value: "1"}}})
	for link, want := range map[string]string{"router": "2", "other": "1"} {
		if got := strings.TrimSpace(r.h.Run("cat", "/proc/sys/net/ipv6/conf/"+link+"/accept_ra")); got != want {
			t.Errorf("accept_ra of %s is %s, want %s", link, got, want)
		}
	}
}
