package netns_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sealane/sealane/sandbox"
)

func TestSurvey(t *testing.T) {
	r := newRoom(t, 0)
	r.uplink("up0")
	r.uplink("up1")
	r.apply(r.host, "net/1", bridge())
	for _, args := range [][]string{
		{"link", "set", "up0", "mtu", "1400"}, {"addr", "add", "192.0.2.2/24", "dev", "up0"}, {"addr", "add", "2001:db8::2/64", "dev", "up0", "nodad"},
		{"route", "add", "default", "via", "192.0.2.1", "metric", "50"}, {"route", "add", "198.51.100.0/24", "via", "192.0.2.1"},
		{"addr", "add", "203.0.113.1/24", "dev", "up1"}, {"route", "add", "default", "via", "203.0.113.9", "metric", "60"},
	} {
		r.h.Run("ip", args...)
	}
	r.h.Sysctl("ipv4/ip_forward", "1")
	r.h.BridgeNetfilter(true)
	got := must(r.p.Survey(context.Background(), []string{"up0", "none", bridgeName}))(t)
	boot := strings.TrimSpace(string(must(os.ReadFile("/proc/sys/kernel/random/boot_id"))(t)))
	want := sandbox.Survey{
		Boot: fmt.Sprintf("%s/%d", boot, r.host.Cookie()), MTU: 1400,
		Links:    map[string]sandbox.HostLink{"up0": {Kind: "bridge", MTU: 1400, Addrs: prefixes("192.0.2.2/24", "2001:db8::2/64")}},
		MTUs:     map[netip.Addr]int{netip.MustParseAddr("192.0.2.2"): 1400, netip.MustParseAddr("2001:db8::2"): 1400, netip.MustParseAddr("203.0.113.1"): 1500},
		Features: map[string]bool{"ipv6": true, "br_netfilter": true, "bridge-nf-call": true, "bridge-nf-call6": true, "forwarding4": true, "forwarding6": false},
		Routes:   prefixes("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/64"),
	}
	got.Resolvers = nil // the machine's; TestResolvers has their facts
	got.Links["up0"] = sandbox.HostLink{Kind: got.Links["up0"].Kind, MTU: got.Links["up0"].MTU,
		Addrs: slices.DeleteFunc(got.Links["up0"].Addrs, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.SortSlices(func(a, b netip.Prefix) bool { return a.String() < b.String() })); diff != "" {
		t.Errorf("survey (-want +got):\n%s", diff)
	}
}

func TestSurveyOfALonelyHost(t *testing.T) {
	r := newRoom(t, 0)
	got := must(r.p.Survey(context.Background(), nil))(t)
	if got.MTU != 1500 || len(got.Routes) != 0 || len(got.Links) != 0 {
		t.Errorf("%+v", got)
	}
}
