package endpoint_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/sandbox"
)

func TestDNSNames(t *testing.T) {
	e := endpoint.Info{Spec: endpoint.Spec{Name: "web", Aliases: []string{"www", "web", "*.apps"}}}
	if got := e.DNSNames(sandbox.Info{}); !slices.Equal(got, []string{"web", "www", "*.apps"}) {
		t.Errorf("without a sandbox: %q", got)
	}
	s := sandbox.Info{ID: sandbox.ID(strings.Repeat("0123456789abcdef", 4)), Spec: sandbox.Spec{Names: sandbox.Names{Hostname: "www"}}}
	if got := e.DNSNames(s); !slices.Equal(got, []string{"web", "www", "*.apps", "0123456789ab"}) {
		t.Errorf("%q", got)
	}
}

func TestCalled(t *testing.T) {
	for want, p := range map[string]endpoint.Published{
		"web":  {ID: "0123", Name: "web", Aliases: []string{"www"}},
		"www":  {ID: "0123", Name: "012", Aliases: []string{"*.apps", "old=www", "www", "w3"}},
		"0123": {ID: "0123456", Name: "0123", Aliases: []string{"*.apps"}},
		"w3":   {ID: "0123", Aliases: []string{"w3"}},
	} {
		if got := p.Called(); got != want {
			t.Errorf("%+v is called %q, want %q", p, got, want)
		}
	}
}

func TestCheckAlias(t *testing.T) {
	for _, alias := range []string{"web", "web.example.org", "_tcp", "*.apps", "*.apps.example.org", "old=web", "*.old=web.example.org."} {
		if err := endpoint.CheckAlias(alias); err != nil {
			t.Error(err)
		}
	}
	for _, alias := range []string{"", "*", "*.", "a.*", "*a", "a b", "a\n", "a=", "=b", "a=b=c", "a=b c", "a,b", strings.Repeat("a", 64)} {
		if err := endpoint.CheckAlias(alias); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", alias, err)
		}
	}
	if err := endpoint.CheckLink("db", "store.blue"); err != nil {
		t.Error(err)
	}
	for _, l := range [][2]string{{"", "db"}, {"db", ""}, {"a b", "db"}, {"db", "a\nb"}, {"*.x", "db"}} {
		if err := endpoint.CheckLink(l[0], l[1]); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", l, err)
		}
	}
}
