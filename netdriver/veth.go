package netdriver

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/sandbox"
)

// What planners plan alike whose networks tie an endpoint to a bridge by a veth. All of it is arithmetic.

// CheckVeth refuses, as InvalidArgument, what Veth cannot make a link of: a nonce that is neither empty nor 12 hex digits, a MAC address
// that no interface can have.
func CheckVeth(e endpoint.Info) error {
	if _, err := hex.DecodeString(e.Nonce); err != nil || e.Nonce != "" && len(e.Nonce) != 12 {
		return fmt.Errorf("nonce %q: want 12 hex digits: %w", e.Nonce, errdefs.ErrInvalidArgument)
	}
	return endpoint.CheckMAC(e.MAC)
}

// Veth is the near end of an endpoint's veth with these addresses. The planner adds what depends on the network: Master, Owner, MTU. The
// far end is made in the sandbox, or waits beside the near one, under the name Waiting.
func Veth(e endpoint.Info, addrs []netip.Prefix) sandbox.Link {
	l := sandbox.Link{Name: "sv" + e.Nonce, Silent: true, Veth: &sandbox.Veth{Peer: Waiting(e), Space: e.Key, MAC: e.MAC}}
	if e.Announce {
		for _, a := range addrs {
			l.Announce = append(l.Announce, a.Addr())
		}
	}
	return l
}

// Waiting is the name of a far end that somebody else will move; "": it is made inside the sandbox.
func Waiting(e endpoint.Info) string {
	if e.Key != "" {
		return ""
	}
	return "sp" + e.Nonce
}

// InterfaceSysctls are the settings of the endpoint's interface: those that its Spec asks for, and IPv6 off where it is to have none and
// the host knows IPv6. A silent link heeds no router anyway; IPv6 is switched off only where that is asked for, because each setting costs a
// tenth of an attach. InvalidArgument for a setting that is none of an interface.
func InterfaceSysctls(e endpoint.Info, ipv6 bool) ([]sandbox.Sysctl, error) {
	asked, err := e.Spec.InterfaceSysctls()
	off := sandbox.Sysctl{Key: "ipv6/conf/IFNAME/disable_ipv6", Value: "1"}
	if e.Spec.NoIPv6 && ipv6 && !slices.ContainsFunc(asked, func(s sandbox.Sysctl) bool { return s.Key == off.Key }) {
		asked = append(asked, off)
	}
	return asked, err
}

// BoundTo are the host addresses, one a family, that a port is published at which names host, or nothing (the zero Addr): then it is the
// network's binding, or all addresses of both families when that is zero too. six says whether the endpoint has an IPv6
// address: nothing translates IPv6 to IPv4.
func BoundTo(host, binding netip.Addr, six bool) []netip.Addr {
	all4, all6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	switch {
	case host == all6 && !six:
		return []netip.Addr{all4}
	case host.IsValid():
		return []netip.Addr{host}
	case binding.IsValid():
		return []netip.Addr{binding}
	}
	return []netip.Addr{all4, all6}
}
