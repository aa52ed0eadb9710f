package resolver_test

import (
	"flag"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/internal/golden"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

var update = flag.Bool("update", false, "write testdata")

// hostConfs are resolv.conf files of hosts.
func hostConfs() map[string]string {
	return map[string]string{
		"plain":    "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch corp.example example.org\noptions timeout:2\n",
		"loopback": "nameserver 127.0.0.1\nnameserver ::1\nsearch corp.example\n",
		"stub":     "# systemd-resolved\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n",
		"ndots":    "nameserver 192.0.2.1\noptions ndots:2 ndots:x rotate\n",
		"ipv6":     "nameserver fe80::1%eth0\nnameserver 2001:db8::1\n",
		"odd":      "; old\ndomain a.example\nsearch b.example c.example # last\nnameserver\nnameserver bogus\nnameserver 192.0.2.9 x\nsortlist 192.0.2.0/24\n\x00nul\n",
		"empty":    "",
	}
}

// TestGoldenResolvConf has each host's file as sandboxes get it: with the resolver, without and with IPv6 or not, with settings of their own.
func TestGoldenResolvConf(t *testing.T) {
	own := sandbox.Names{DNS: []netip.Addr{netip.MustParseAddr("192.0.2.77")}, Search: []string{"."}, Options: []string{"ndots:1"}}
	var b strings.Builder
	for _, name := range slices.Sorted(keys(hostConfs())) {
		host := resolver.ParseResolvConf([]byte(hostConfs()[name]))
		for _, as := range []struct {
			what string
			conf resolver.ResolvConf
		}{
			{"host's", host.With(sandbox.Names{})},
			{"embedded", host.With(sandbox.Names{}).Embedded()},
			{"embedded, own settings", host.With(own).Embedded()},
			{"direct, IPv4", host.With(sandbox.Names{}).Direct(false)},
			{"direct, IPv4 and IPv6", host.With(sandbox.Names{}).Direct(true)},
		} {
			fmt.Fprintf(&b, "--- %s, %s\n%s", name, as.what, as.conf.Text())
		}
	}
	golden.Check(t, *update, "resolv.conf", b.String())
}

func keys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// Behaviour 70: given 127.0.0.11 mode, an ndots that is invalid is dropped, one that is absent is 0, one that is there is kept.
func TestBehaviour70Ndots(t *testing.T) {
	for options, want := range map[string]string{
		"":                       "ndots:0",
		"ndots:":                 "ndots:0",
		"ndots:-1":               "ndots:0",
		"ndots:x timeout:1":      "timeout:1 ndots:0",
		"ndots:3":                "ndots:3",
		"rotate ndots:5 ndots:y": "rotate ndots:5",
	} {
		conf := resolver.ParseResolvConf([]byte("options " + options + "\n")).Embedded()
		if got := strings.Join(conf.Options, " "); got != want {
			t.Errorf("options %q: %q, want %q", options, got, want)
		}
		if !slices.Equal(conf.Servers, []netip.Addr{netip.MustParseAddr("127.0.0.11")}) {
			t.Errorf("servers %v", conf.Servers)
		}
	}
}

func TestStub(t *testing.T) {
	for text, want := range map[string]bool{
		"nameserver 127.0.0.53\n": true, "nameserver 127.0.0.54\noptions edns0\n": true, "": false, "nameserver 127.0.0.1\n": false,
		"nameserver 127.0.0.53\nnameserver 192.0.2.1\n": false,
	} {
		if got := resolver.ParseResolvConf([]byte(text)).Stub(); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// What is read is written so that it is read the same, with one line a word list and none that was not there.
func FuzzResolvConf(f *testing.F) {
	for _, text := range hostConfs() {
		f.Add([]byte(text))
	}
	f.Add([]byte("nameserver 1.2.3.4\rnameserver 5.6.7.8\nsearch a\x0bb\noptions \x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		conf := resolver.ParseResolvConf(text)
		written := conf.Text("a comment")
		again := resolver.ParseResolvConf([]byte(written))
		if fmt.Sprint(conf) != fmt.Sprint(again) {
			t.Fatalf("%q is %v, which is written %q, which is %v", text, conf, written, again)
		}
		embedded := conf.Embedded()
		if twice := embedded.Embedded(); !reflect.DeepEqual(embedded, twice) {
			t.Fatalf("%v, then %v", embedded, twice)
		}
		for _, a := range conf.Direct(false).Servers {
			if a.IsLoopback() || !a.Unmap().Is4() {
				t.Fatalf("%q: server %s cannot be reached", text, a)
			}
		}
		if n := strings.Count(conf.Embedded().Text(), "nameserver"); n < 1 || len(conf.Direct(true).Servers) == 0 {
			t.Fatalf("%q: %d servers", text, n)
		}
	})
}
