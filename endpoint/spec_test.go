package endpoint_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
)

func TestMAC(t *testing.T) {
	for in, want := range map[string]string{
		"10.1.0.2":        "02:42:0a:01:00:02",
		"::ffff:10.1.0.2": "02:42:0a:01:00:02",
		"fd00::2":         "02:42:ab:c6:0c:b7",
		"fd00::3":         "02:42:db:61:36:8e",
	} {
		got := endpoint.MAC(netip.MustParseAddr(in))
		if got.String() != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
		if err := endpoint.CheckMAC(got); err != nil {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestCheckMAC(t *testing.T) {
	if err := endpoint.CheckMAC(nil); err != nil {
		t.Errorf("none: %v", err)
	}
	for _, bad := range []net.HardwareAddr{{}, {2, 0, 0, 0, 0}, {1, 0, 0, 0, 0, 1}, {0, 0, 0, 0, 0, 0}, {255, 255, 255, 255, 255, 255}, make([]byte, 8)} {
		if err := endpoint.CheckMAC(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestInterfaceSysctls(t *testing.T) {
	s := endpoint.Spec{Sysctls: map[string]string{
		"net.ipv6.conf.IFNAME.accept_ra":    "2",
		"net/ipv4/conf/IFNAME/log_martians": "1",
		"net.mpls.conf.IFNAME.input":        "1",
	}}
	got, err := s.InterfaceSysctls()
	if want := "[{ipv4/conf/IFNAME/log_martians 1 } {ipv6/conf/IFNAME/accept_ra 2 } {mpls/conf/IFNAME/input 1 }]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("got %v, %v\nwant %s", got, err, want)
	}
	if got, err := (endpoint.Spec{}).InterfaceSysctls(); got != nil || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}
	for key, value := range map[string]string{
		"net.ipv4.ip_forward":                     "1", // not of the interface
		"net.core.somaxconn":                      "1",
		"net.ipv4.conf.eth0.forwarding":           "1",
		"kernel.shmmax":                           "1",
		"net/ipv4/../../kernel/IFNAME":            "1",
		"net/ipv4/conf/IFNAME/../all":             "1",
		"net/ipv4/conf//IFNAME":                   "1",
		"net.ipv4.conf.IFNAME.x\n":                "1",
		"net.ipv4.conf.IFNAME.log_martians":       "",
		"net.ipv4.conf.IFNAME.forwarding":         "1\n2",
		"":                                        "1",
		"IFNAME":                                  "1",
		"ipv4.conf.IFNAME.log_martians":           "1",
		"net.ipv4.conf.IFNAMES.log_martians":      "1",
		"net.netfilter.conf.IFNAME.whatever.else": "1",
	} {
		got, err := endpoint.Spec{Sysctls: map[string]string{key: value}}.InterfaceSysctls()
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q=%q: %v, %v", key, value, got, err)
		}
	}
}
