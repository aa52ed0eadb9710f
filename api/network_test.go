package api

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var netips = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

// What is asked for is what inspect shows.
func TestNetworkRoundTrip(t *testing.T) {
	d, ctx := start(t), t.Context()
	spec := NetworkSpec{
		Name: "blue", Driver: "bridge", EnableIPv6: true, Internal: true,
		IPAM: IPAM{Driver: "default", Config: []Subnet{
			{Subnet: netip.MustParsePrefix("10.1.0.0/24"), IPRange: netip.MustParsePrefix("10.1.0.128/25"), Gateway: netip.MustParseAddr("10.1.0.254"),
				AuxiliaryAddresses: map[string]netip.Addr{"router": netip.MustParseAddr("10.1.0.9")}},
			{Subnet: netip.MustParsePrefix("fd00:1::/64"), Gateway: netip.MustParseAddr("fd00:1::1")},
		}},
		Options: map[string]string{"mtu": "1400"}, Labels: map[string]string{"a": "b"},
	}
	id := d.network(t, spec)
	got := must[Network](t)(d.Network(ctx, id))
	want := Network{
		Name: "blue", ID: id, Scope: "local", Driver: "bridge", EnableIPv4: true, EnableIPv6: true, Internal: true, State: StateReady,
		IPAM:    IPAM{Driver: "default", Options: map[string]string{}, Config: spec.IPAM.Config},
		Options: spec.Options, Labels: spec.Labels, Containers: map[string]Container{}, Peers: []Peer{},
	}
	if diff := cmp.Diff(want, got, netips, cmpopts.IgnoreFields(Network{}, "Created", "Status")); diff != "" {
		t.Error(diff)
	}
	want4 := Usage{IPsInUse: 4, DynamicIPsAvailable: 126} // network, broadcast, gateway, router; all of the range but two
	if got := got.Status.IPAM.Subnets[spec.IPAM.Config[0].Subnet]; got != want4 {
		t.Errorf("usage %+v, want %+v", got, want4)
	}
	if got.Created.IsZero() {
		t.Error("it was created at no time")
	}
	for _, ref := range []string{"blue", id[:12]} {
		if n := must[Network](t)(d.Network(ctx, ref)); n.ID != id {
			t.Errorf("%s is %s, not %s", ref, n.ID, id)
		}
	}
}

func TestNetworkUpdateKeepsWhatItDoesNotName(t *testing.T) {
	d, ctx := start(t), t.Context()
	d.network(t, NetworkSpec{Name: "blue", Labels: map[string]string{"a": "1", "b": "2"}})
	if err := d.UpdateNetwork(ctx, "blue", NetworkChange{Labels: map[string]string{"b": "3", "c": "4"}}); err != nil {
		t.Fatal(err)
	}
	got := must[Network](t)(d.Network(ctx, "blue")).Labels
	if diff := cmp.Diff(map[string]string{"a": "1", "b": "3", "c": "4"}, got); diff != "" {
		t.Error(diff)
	}
}

func names(all []Network) (names []string) {
	for _, n := range all {
		names = append(names, n.Name)
	}
	return names
}

var sorted = cmpopts.SortSlices(func(a, b string) bool { return a < b })

func TestNetworkFilters(t *testing.T) {
	d, ctx := start(t), t.Context()
	d.network(t, NetworkSpec{Name: "blue", Labels: map[string]string{"tier": "web"}})
	d.network(t, NetworkSpec{Name: "green", Driver: "null", IPAM: IPAM{Driver: "null"}, Labels: map[string]string{"tier": "db", "old": ""}})
	d.sandbox(t, SandboxSpec{Name: "web", Networks: []NetworkJoin{{Network: "blue"}}})
	for _, test := range []struct {
		filters Filters
		want    []string
	}{
		{nil, []string{"blue", "bridge", "green", "host", "none"}},
		{Filters{"name": {"bl"}}, []string{"blue"}},
		{Filters{"name": {"blue", "green"}}, []string{"blue", "green"}},
		{Filters{"name": {"blue", "green"}, "driver": {"null"}}, []string{"green"}},
		{Filters{"label": {"tier"}}, []string{"blue", "green"}},
		{Filters{"label": {"tier=db"}}, []string{"green"}},
		{Filters{"label": {"tier=web", "old"}}, []string{"blue", "green"}},
		{Filters{"type": {"builtin"}}, []string{"bridge", "host", "none"}},
		{Filters{"type": {"custom"}, "scope": {"local"}}, []string{"blue", "green"}},
		{Filters{"scope": {"global"}}, nil},
		{Filters{"dangling": {"true"}}, []string{"green"}},
		{Filters{"dangling": {"false"}}, []string{"blue", "bridge", "host", "none"}},
	} {
		got := names(must[[]Network](t)(d.Networks(ctx, test.filters)))
		if diff := cmp.Diff(test.want, got, sorted, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%v: %s", test.filters, diff)
		}
	}
	for _, bad := range []Filters{{"colour": {"blue"}}, {"dangling": {"perhaps"}}, {"type": {"odd"}}} {
		if _, err := d.Networks(ctx, bad); kindOf(err).name != "InvalidArgument" {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestPruneSparesWhatIsUsedPredefinedOrExcluded(t *testing.T) {
	d, ctx := start(t), t.Context()
	for _, name := range []string{"used", "kept", "old", "older"} {
		n := NetworkSpec{Name: name}
		if name == "kept" {
			n.Labels = map[string]string{"keep": "yes"}
		}
		d.network(t, n)
	}
	d.sandbox(t, SandboxSpec{Name: "web", Networks: []NetworkJoin{{Network: "used"}}})
	if got := must[Pruned](t)(d.PruneNetworks(ctx, Filters{"until": {"1h"}})); len(got.NetworksDeleted) > 0 {
		t.Errorf("networks of this minute are pruned as an hour old: %v", got)
	}
	if _, err := d.PruneNetworks(ctx, Filters{"until": {"soon"}}); kindOf(err).name != "InvalidArgument" {
		t.Errorf("until=soon: %v", err)
	}
	if chosen, err := pruneSelector().match(Filters{"label!": nil}, Network{}); err != nil || !chosen {
		t.Errorf("label! of nothing chooses %v, %v: it excludes nothing", chosen, err)
	}
	got := must[Pruned](t)(d.PruneNetworks(ctx, Filters{"label!": {"keep", "also"}}))
	if diff := cmp.Diff([]string{"old", "older"}, got.NetworksDeleted, sorted); diff != "" {
		t.Error(diff)
	}
	left := names(must[[]Network](t)(d.Networks(ctx, nil)))
	if diff := cmp.Diff([]string{"bridge", "host", "kept", "none", "used"}, left, sorted); diff != "" {
		t.Error(diff)
	}
}

func TestPredefinedNetworks(t *testing.T) {
	d, ctx := start(t), t.Context()
	for name, driver := range map[string]string{"none": "null", "host": "host", "bridge": "bridge"} {
		n := must[Network](t)(d.Network(ctx, name))
		if n.Driver != driver {
			t.Errorf("network %s is of driver %s", name, n.Driver)
		}
		if _, err := d.CreateNetwork(ctx, NetworkSpec{Name: name}); kindOf(err).name != "PermissionDenied" {
			t.Errorf("create %s: %v", name, err)
		}
		for _, force := range []bool{false, true} {
			if err := d.RemoveNetwork(ctx, n.ID[:20], force); kindOf(err).name != "PermissionDenied" {
				t.Errorf("remove %s: %v", name, err)
			}
		}
	}
	b := must[Network](t)(d.Network(ctx, "bridge"))
	if b.Options["com.docker.network.bridge.name"] != "sealane0" {
		t.Errorf("options of bridge: %v", b.Options)
	}
	if n := must[Network](t)(d.Network(ctx, "none")); len(n.IPAM.Config) > 0 {
		t.Errorf("none has addresses: %v", n.IPAM)
	}
}

func TestConnectAndDisconnect(t *testing.T) {
	d, ctx := start(t), t.Context()
	d.network(t, NetworkSpec{Name: "blue", IPAM: IPAM{Config: []Subnet{{Subnet: netip.MustParsePrefix("10.1.0.0/24")}}}})
	id := d.sandbox(t, SandboxSpec{Name: "web", Networks: []NetworkJoin{{Network: "none"}}})
	how := Connection{Container: "web", EndpointConfig: EndpointConfig{
		IPAMConfig: EndpointIPAM{IPv4Address: netip.MustParseAddr("10.1.0.7"), LinkLocalIPs: []netip.Addr{netip.MustParseAddr("169.254.3.4")}},
		Aliases:    []string{"www"}, MacAddress: "02:42:00:00:00:07", IfName: "blue0", GwPriority: 5,
	}}
	if err := d.Connect(ctx, "blue", how); err != nil {
		t.Fatal(err)
	}
	n := must[Network](t)(d.Network(ctx, "blue"))
	c := n.Containers[id]
	want := Container{Name: "web", EndpointID: c.EndpointID, MacAddress: "02:42:00:00:00:07", IPv4Address: netip.MustParsePrefix("10.1.0.7/24")}
	if diff := cmp.Diff(want, c, netips); diff != "" || c.EndpointID == "" {
		t.Error(diff)
	}
	sb := must[Sandbox](t)(d.Sandbox(ctx, "web"))
	a := sb.Networks["blue"]
	wantA := Attachment{
		NetworkID: n.ID, EndpointID: c.EndpointID, Gateway: netip.MustParseAddr("10.1.0.1"), IPAddress: netip.MustParseAddr("10.1.0.7"), IPPrefixLen: 24,
		MacAddress: "02:42:00:00:00:07", Aliases: []string{"www"}, Links: []string{}, DNSNames: []string{"web", "www", id[:12]}, IfName: "blue0",
	}
	if diff := cmp.Diff(wantA, a, netips); diff != "" {
		t.Error(diff)
	}
	if err := d.Connect(ctx, "blue", how); kindOf(err).name != "AlreadyExists" {
		t.Errorf("connect again: %v", err)
	}
	if err := d.RemoveNetwork(ctx, "blue", false); kindOf(err).name != "FailedPrecondition" {
		t.Errorf("remove a network in use: %v", err)
	}
	for range 2 {
		if err := d.Disconnect(ctx, "blue", Disconnection{Container: id[:8]}); err != nil {
			if kindOf(err).name != "NotFound" {
				t.Fatal(err)
			}
			break
		}
	}
	if err := d.Disconnect(ctx, "blue", Disconnection{Container: "web"}); kindOf(err).name != "NotFound" {
		t.Errorf("disconnect what is not connected: %v", err)
	}
	if err := d.RemoveNetwork(ctx, "blue", false); err != nil {
		t.Error(err)
	}
}

// Of many who want one name exactly one gets it, and the others are told who that is.
func TestOneNameOnce(t *testing.T) {
	d, ctx := start(t), t.Context()
	const many = 50
	ids, errs := make(chan string, many), make(chan error, many)
	for range many {
		go func() {
			made, err := d.CreateNetwork(ctx, NetworkSpec{Name: "blue"})
			if err != nil {
				errs <- err
				return
			}
			ids <- made.ID
		}()
	}
	id := <-ids
	for range many - 1 {
		if err := <-errs; kindOf(err).name != "AlreadyExists" || !strings.Contains(err.Error(), id) {
			t.Errorf("want AlreadyExists by %s, not %v", id, err)
		}
	}
}
