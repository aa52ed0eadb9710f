package endpoint_test

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/sealane/sealane/endpoint"
)

func TestDecoded(t *testing.T) {
	given := endpoint.Spec{Sysctls: map[string]string{"net.ipv4.conf.IFNAME.forwarding": "1"}, Options: map[string]string{
		"com.docker.network.endpoint.ifname":  "lan0",
		"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1, net/ipv6/conf/IFNAME/accept_ra = 2",
		"com.example.speed":                   "fast",
	}}
	before := given.Clone()
	want := endpoint.Spec{Interface: "lan0", Options: map[string]string{"com.example.speed": "fast"}, Sysctls: map[string]string{
		"net.ipv4.conf.IFNAME.forwarding": "1", "net.ipv4.conf.IFNAME.log_martians": "1", "net/ipv6/conf/IFNAME/accept_ra": "2"}}
	got, err := given.Decoded()
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if d := cmp.Diff(before, given); d != "" {
		t.Errorf("the spec was changed:\n%s", d)
	}
	if again, err := got.Decoded(); err != nil || cmp.Diff(got, again) != "" {
		t.Errorf("decoded twice: %+v, %v", again, err)
	}
}

func TestDecodedRefuses(t *testing.T) {
	for name, s := range map[string]endpoint.Spec{
		"unknown":       {Options: map[string]string{"com.docker.network.endpoint.x": ""}},
		"two names":     {Interface: "eth5", Options: map[string]string{"com.docker.network.endpoint.ifname": "eth6"}},
		"no value":      {Options: map[string]string{"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.forwarding"}},
		"empty":         {Options: map[string]string{"com.docker.network.endpoint.sysctls": ""}},
		"two settings":  {Options: map[string]string{"com.docker.network.endpoint.sysctls": "a=1,a=2"}},
		"other setting": {Sysctls: map[string]string{"a": "1"}, Options: map[string]string{"com.docker.network.endpoint.sysctls": "a=2"}},
	} {
		if _, err := s.Decoded(); !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
