package pool

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/ipam"
)

// anyOfSize says whether a prefix asks for any subnet of its size: 0.0.0.0/n or ::/n.
func anyOfSize(p netip.Prefix) bool { return p.IsValid() && p.Addr().IsUnspecified() }

func poolName(r ipam.PoolRequest) string {
	switch {
	case r.Subnet != netip.Prefix{}:
		return r.Subnet.String()
	case r.IPv6:
		return "IPv6"
	}
	return "IPv4"
}

func checkPool(r ipam.PoolRequest) error {
	for _, e := range r.Exclude {
		if !e.IsValid() {
			return fmt.Errorf("%w: exclude %s: not a prefix", errdefs.ErrInvalidArgument, e)
		}
	}
	named := r.Subnet != netip.Prefix{}
	if named && !anyOfSize(r.Subnet) {
		if err := checkSubnet(r.Subnet); err != nil {
			return err
		}
	}
	if r.Range == (netip.Prefix{}) {
		return nil
	}
	if !named || anyOfSize(r.Subnet) {
		return fmt.Errorf("%w: range %s: name the subnet too", errdefs.ErrInvalidArgument, r.Range)
	}
	return checkRange(r.Range, r.Subnet)
}

// checkSubnet refuses what is no subnet for hosts, with InvalidArgument.
func checkSubnet(p netip.Prefix) error {
	if err := checkPrefix(p); err != nil {
		return err
	}
	for _, other := range []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8), netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4),
		netip.PrefixFrom(netip.IPv6Loopback(), 128), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8),
	} {
		if p.Overlaps(other) {
			return fmt.Errorf("%w: overlaps %s, which is loopback or multicast", errdefs.ErrInvalidArgument, other)
		}
	}
	return nil
}

func checkPrefix(p netip.Prefix) error {
	switch {
	case !p.IsValid():
		return fmt.Errorf("%w: %s is not a prefix", errdefs.ErrInvalidArgument, p)
	case p.Addr().Is4In6():
		return fmt.Errorf("%w: %s is IPv4 written as IPv6: write %s", errdefs.ErrInvalidArgument, p, p.Addr().Unmap())
	case p != p.Masked():
		return fmt.Errorf("%w: %s has host bits set: write %s", errdefs.ErrInvalidArgument, p, p.Masked())
	}
	return nil
}

// checkRange refuses what is no part of the subnet, with InvalidArgument.
func checkRange(r, subnet netip.Prefix) error {
	if err := checkPrefix(r); err != nil {
		return fmt.Errorf("range: %w", err)
	}
	if !subnet.Contains(r.Addr()) || r.Bits() < subnet.Bits() {
		return fmt.Errorf("range %s: %w: not a part of %s", r, errdefs.ErrInvalidArgument, subnet)
	}
	return nil
}

// serialOrder reads the options of a request; order is what holds without them. A key without a dot is ours, any other is somebody
// else's business.
func serialOrder(options map[string]string, order bool) (serial bool, err error) {
	for key, value := range options {
		switch {
		case key == "serial" || key == "com.docker.network.ipam.serial":
			if order, err = strconv.ParseBool(value); err != nil {
				return false, fmt.Errorf("option %s=%s: %w: true or false", key, value, errdefs.ErrInvalidArgument)
			}
		case !strings.Contains(key, "."):
			return false, fmt.Errorf("option %s: %w: there is only serial", key, errdefs.ErrInvalidArgument)
		}
	}
	return order, nil
}
