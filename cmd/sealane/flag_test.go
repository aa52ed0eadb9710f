package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealane/sealane/api"
)

var netips = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func TestParseJoin(t *testing.T) {
	full := api.NetworkJoin{Network: "blue", EndpointConfig: api.EndpointConfig{
		IPAMConfig: api.EndpointIPAM{IPv4Address: netip.MustParseAddr("10.1.0.9"), IPv6Address: netip.MustParseAddr("fd00::9"),
			LinkLocalIPs: []netip.Addr{netip.MustParseAddr("169.254.1.2"), netip.MustParseAddr("fe80::2")}},
		Aliases: []string{"www", "w"}, Links: []string{"db:store", "cache"}, MacAddress: "02:42:0a:01:00:09", IfName: "net0", GwPriority: -3, DriverOpts: map[string]string{"a": "b=c", "d": "1,2"},
	}}
	settings := `ip=10.1.0.9,ip6=fd00::9,link-local-ip=169.254.1.2,link-local-ip=fe80::2,alias=www,alias=w,link=db:store,link=cache,mac-address=02:42:0a:01:00:09,` +
		`ifname=net0,gw-priority=-3,driver-opt=a=b=c,"driver-opt=d=1,2"`
	for text, want := range map[string]api.NetworkJoin{
		"blue":                  {Network: "blue"},
		"blue:":                 {Network: "blue"},
		"name=blue":             {Network: "blue"},
		"blue:alias=www":        {Network: "blue", EndpointConfig: api.EndpointConfig{Aliases: []string{"www"}}},
		"blue:" + settings:      full,
		"name=blue," + settings: full,
		settings + ",name=blue": full,
	} {
		got, err := parseJoin(text)
		if diff := cmp.Diff(want, got, netips); err != nil || diff != "" {
			t.Errorf("%s: %v %s", text, err, diff)
		}
	}
	for _, bad := range []string{"", ":ip=10.0.0.1", "blue:ip", "blue:ip=x", "blue:ip6=", "blue:colour=red", "ip=10.0.0.1", "blue:gw-priority=high", `blue:"ip=1`, "blue:driver-opt==x"} {
		if n, err := parseJoin(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, n)
		}
	}
}

func TestNetworkConfig(t *testing.T) {
	f := networkFlags{
		subnets:  prefixes{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00::/64"), netip.MustParsePrefix("10.2.0.0/24")},
		gateways: addresses{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.1.0.254")},
		ranges:   prefixes{netip.MustParsePrefix("10.2.0.128/25")},
		aux:      pairs{"a": "10.1.0.9", "b": "10.1.0.8"},
	}
	got, err := f.config()
	want := []api.Subnet{
		{Subnet: f.subnets[0], Gateway: f.gateways[1],
			AuxiliaryAddresses: map[string]netip.Addr{"a": netip.MustParseAddr("10.1.0.9"), "b": netip.MustParseAddr("10.1.0.8")}},
		{Subnet: f.subnets[1], Gateway: f.gateways[0]},
		{Subnet: f.subnets[2], IPRange: f.ranges[0]},
	}
	if diff := cmp.Diff(want, got, netips); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	f.gateways = append(f.gateways, netip.MustParseAddr("10.1.0.253"))
	if _, err := f.config(); err == nil || !strings.Contains(err.Error(), "has one already") {
		t.Errorf("two gateways: %v", err)
	}
}

func TestPortLines(t *testing.T) {
	got := portLines(map[string][]api.HostPort{
		"80/tcp":   {{HostIP: "0.0.0.0", HostPort: "8080"}, {HostIP: "::", HostPort: "8080"}},
		"9/udp":    {{HostIP: "127.0.0.1", HostPort: "9"}},
		"80/sctp":  {{HostIP: "0.0.0.0", HostPort: "80"}},
		"1000/tcp": {{HostIP: "fd00::1", HostPort: "1"}},
	})
	want := []string{"9/udp -> 127.0.0.1:9", "80/sctp -> 0.0.0.0:80", "80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080", "1000/tcp -> [fd00::1]:1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// A file sets flags that the command line leaves alone, lists and booleans too.
func TestConfigFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte("root = \"/r\"\nfirewall = \"none\"\nlabel = [\"a=b\", \"c=d,e\"]\ninternal = true\ngw-priority = -2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &cli{}
	cmd := c.serveCommand()
	var labels pairs
	var internal bool
	var priority int
	cmd.Flags().Var(&labels, "label", "")
	cmd.Flags().BoolVar(&internal, "internal", false, "")
	cmd.Flags().IntVar(&priority, "gw-priority", 0, "")
	if err := cmd.ParseFlags([]string{"--firewall", "nftables"}); err != nil {
		t.Fatal(err)
	}
	if err := readConfig(cmd, path); err != nil {
		t.Fatal(err)
	}
	got := []any{cmd.Flag("root").Value.String(), cmd.Flag("firewall").Value.String(), labels.String(), internal, priority}
	if diff := cmp.Diff([]any{"/r", "nftables", "a=b,c=d,e", true, -2}, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseJoin(f *testing.F) {
	for _, s := range []string{"blue", "blue:ip=10.0.0.1", "name=blue,alias=a", `blue:"driver-opt=a=1,2"`, ":", "="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseJoin(s)
		if err == nil && n.Network == "" {
			t.Errorf("%q names no network", s)
		}
	})
}
