package sandbox_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox"
)

func TestCheckDomain(t *testing.T) {
	for _, name := range []string{"web", "web.example.org", "web.example.org.", "_http._tcp.web", "a-b", "1", strings.Repeat("a", 63), "xn--bcher-kva"} {
		if err := sandbox.CheckDomain(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", ".", "a..b", ".a", "-a", "a-", "a.-b", "a b", "a\nb", "a\n", "a#", "é", "a/b", "*", strings.Repeat("a", 64), strings.Repeat("a.", 127)} {
		if err := sandbox.CheckDomain(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// No value makes two entries of one, in any of the files.
func TestNamesCheck(t *testing.T) {
	good := sandbox.Names{Hostname: "web", Domainname: "example.org", DNS: []netip.Addr{netip.MustParseAddr("fe80::1%eth0")},
		Search: []string{".", "example.org"}, Options: []string{"ndots:2"}, Hosts: []sandbox.HostEntry{{Name: "db", Address: netip.MustParseAddr("::1")}, {Name: "host"}}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for what, n := range map[string]sandbox.Names{
		"hostname":          {Hostname: "web\n"},
		"long hostname":     {Hostname: strings.Repeat("a", 32) + "." + strings.Repeat("b", 32)},
		"domain name":       {Domainname: "a b"},
		"server":            {DNS: []netip.Addr{{}}},
		"server on no host": {DNS: []netip.Addr{netip.IPv4Unspecified()}},
		"zone":              {DNS: []netip.Addr{netip.MustParseAddr("fe80::1").WithZone("eth0\nnameserver 192.0.2.66")}},
		"search domain":     {Search: []string{"a\noptions rotate"}},
		"option":            {Options: []string{"ndots:1 rotate"}},
		"comment":           {Options: []string{"#x"}},
		"host":              {Hosts: []sandbox.HostEntry{{Name: "bank\n10.9.9.9 db"}}},
		"zone of a host":    {Hosts: []sandbox.HostEntry{{Name: "db", Address: netip.MustParseAddr("fe80::1%a\nb")}}},
	} {
		if err := n.Check(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestParseHostEntry(t *testing.T) {
	for in, want := range map[string]string{
		"db:192.0.2.1": "db:192.0.2.1", "db=192.0.2.1": "db:192.0.2.1", "db:::1": "db:[::1]", "db:[2001:db8::1]": "db:[2001:db8::1]",
		"db=2001:db8::1": "db:[2001:db8::1]", "host.docker.internal:host-gateway": "host.docker.internal:host-gateway",
	} {
		h, err := sandbox.ParseHostEntry(in)
		if err != nil || h.String() != want {
			t.Errorf("%q: %s, %v, want %s", in, h, err, want)
		}
		if again, err := sandbox.ParseHostEntry(h.String()); err != nil || again != h {
			t.Errorf("%s: %v, %v", h, again, err)
		}
	}
	for _, in := range []string{"", "db", ":192.0.2.1", "db:", "db:x", "a b:192.0.2.1", "db:192.0.2.1\n", "db:fe80::1%eth0", "db:[::1", "db:[192.0.2.1]", "db:Host-Gateway"} {
		if h, err := sandbox.ParseHostEntry(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, %v", in, h, err)
		}
	}
}
