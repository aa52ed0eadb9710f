package resolver_test

import (
	"fmt"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/resolver"
)

func TestParseUpstreams(t *testing.T) {
	for in, want := range map[string]string{
		"":                       "[]",
		"192.0.2.1":              "[{192.0.2.1:0 []}]",
		"192.0.2.1:5353":         "[{192.0.2.1:5353 []}]",
		"2001:db8::1, 192.0.2.1": "[{[2001:db8::1]:0 []} {192.0.2.1:0 []}]",
		"[2001:db8::1]:5353":     "[{[2001:db8::1]:5353 []}]",
		"corp.example=192.0.2.1,lab.example=192.0.2.1,192.0.2.1": "[{192.0.2.1:0 [corp.example lab.example]} {192.0.2.1:0 []}]",
	} {
		got, err := resolver.ParseUpstreams(in)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{",", "x", "192.0.2.1,", "192.0.2.1:x", "a b=192.0.2.1", "=192.0.2.1", "corp=", "0.0.0.0", "224.0.0.1", "fe80::1%a\nb", "[2001:db8::1]"} {
		if got, err := resolver.ParseUpstreams(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
}
