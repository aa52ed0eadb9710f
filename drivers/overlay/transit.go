package overlay

import (
	"fmt"
	"math/big"
	"net/netip"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/sandbox"
)

// transit is a family's pair of addresses between host and namespace; the zero value: there is none.
type transit struct {
	host, inside netip.Addr
	net          netip.Prefix // the /31 or /127
}

func (t transit) used() bool { return t.net.IsValid() }

// transitOf is the pair with the number of a VNI. A pool of one pair is that pair.
func transitOf(pool netip.Prefix, vni uint32, option string) (transit, error) {
	pairs := pool.Addr().BitLen() - 1 - pool.Bits() // bits that number a pair
	if pairs == 0 {
		vni = 0
	}
	if pairs < 32 && uint64(vni) >= 1<<pairs {
		return transit{}, fmt.Errorf("option %s: pool %s has addresses for VNIs below %d: give a larger one, or the pair that network %d is to have: %w",
			option, pool, 1<<pairs, vni, errdefs.ErrInvalidArgument)
	}
	raw := pool.Masked().Addr().AsSlice()
	n := new(big.Int).SetBytes(raw)
	n.Add(n, big.NewInt(2*int64(vni))).FillBytes(raw)
	host, _ := netip.AddrFromSlice(raw)
	return transit{host: host, inside: host.Next(), net: netip.PrefixFrom(host, host.BitLen()-1)}, nil
}

// transits are the pairs in use.
func (n network) transits() []netip.Prefix {
	var all []netip.Prefix
	for _, t := range []transit{n.transit4, n.transit6} {
		if t.used() {
			all = append(all, t.net)
		}
	}
	return all
}

// checkTransit refuses addresses that the host reaches elsewhere.
func (n network) checkTransit() error {
	for _, t := range n.transits() {
		for _, r := range n.host.Routes {
			if r.Overlaps(t) {
				option := "transit_ipv4"
				if t.Addr().Is6() {
					option = "transit_ipv6"
				}
				return fmt.Errorf("the host has a route to %s, which the link to the network would take addresses of (%s): name another pool by option %s: %w",
					r, t, option, errdefs.ErrFailedPrecondition)
			}
		}
	}
	return nil
}

// uplink is the host's end of the link to the namespace.
func (n network) uplink() sandbox.Link {
	l := sandbox.Link{
		Name: n.device(), Owner: n.owner(), MTU: n.mtu, Silent: true,
		Veth: &sandbox.Veth{Peer: uplinkName, Space: n.space()},
	}
	for _, t := range []transit{n.transit4, n.transit6} {
		if t.used() {
			l.Addrs = append(l.Addrs, netip.PrefixFrom(t.host, t.net.Bits()))
			if l.MAC == nil {
				l.MAC, l.Veth.MAC = endpoint.MAC(t.host), endpoint.MAC(t.inside)
			}
		}
	}
	return l
}

// uplinkInside is its other end.
func (n network) uplinkInside() sandbox.Link {
	l := sandbox.Link{Name: uplinkName, MTU: n.mtu, Silent: true}
	for _, t := range []transit{n.transit4, n.transit6} {
		if t.used() {
			l.Addrs = append(l.Addrs, netip.PrefixFrom(t.inside, t.net.Bits()))
			if l.MAC == nil {
				l.MAC = endpoint.MAC(t.inside)
			}
		}
	}
	return l
}

// waysOut are the default routes of the namespace.
func (n network) waysOut() []sandbox.Route {
	var all []sandbox.Route
	for _, t := range []transit{n.transit4, n.transit6} {
		if t.used() {
			everywhere := netip.PrefixFrom(t.host, 0).Masked()
			all = append(all, sandbox.Route{Dst: everywhere, Via: t.host, Link: uplinkName})
		}
	}
	return all
}

// hostRoutes let the answers to ::1 find their way: packets to it that come by our link are otherwise dropped.
func (n network) hostRoutes() []sandbox.Route {
	if !n.v6 {
		return nil
	}
	return []sandbox.Route{{Dst: netip.PrefixFrom(netip.IPv6Loopback(), 128), Link: n.device(), Type: "local"}}
}

// hostSysctls are settings of our own link, and forwarding of the host, which is turned on and not turned back.
func (n network) hostSysctls() []sandbox.Sysctl {
	var all []sandbox.Sysctl
	own := func(key, value string) { all = append(all, sandbox.Sysctl{Key: key, Value: value, Link: n.device()}) }
	if n.v4 {
		own("ipv4/conf/IFNAME/route_localnet", "1") // for ports reached at 127.0.0.1
		all = append(all, sandbox.Sysctl{Key: "ipv4/ip_forward", Value: "1"})
	}
	switch {
	case n.v6:
		own("ipv6/conf/IFNAME/disable_ipv6", "0") // whatever the host's default for new links is
		own("ipv6/conf/IFNAME/accept_ra", "0")
		all = append(all, sandbox.Sysctl{Key: "ipv6/conf/all/forwarding", Value: "1"})
	case n.ipv6:
		own("ipv6/conf/IFNAME/disable_ipv6", "1")
	}
	return all
}
