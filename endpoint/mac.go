package endpoint

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"

	"github.com/containerd/errdefs"
)

// MAC is the hardware address that goes with an address: 02:42 and the IPv4 address, or 02:42 and a hash of the IPv6 address. The
// same address has the same MAC each time it is given out, so that no neighbour need be told.
func MAC(a netip.Addr) net.HardwareAddr {
	mac := net.HardwareAddr{0x02, 0x42, 0, 0, 0, 0}
	if a = a.Unmap(); a.Is4() {
		copy(mac[2:], a.AsSlice())
		return mac
	}
	hash := sha256.Sum256(a.AsSlice())
	copy(mac[2:], hash[:])
	return mac
}

// CheckMAC refuses, as InvalidArgument, what no interface can have: another length than 6 bytes, zero, a multicast address. Nil, which
// leaves the choice to us, is fine.
func CheckMAC(mac net.HardwareAddr) error {
	why := ""
	switch {
	case mac == nil:
		return nil
	case len(mac) != 6:
		why = "it must have 6 bytes"
	case mac[0]&1 != 0:
		why = "it is a multicast address; the first byte must be even"
	case [6]byte(mac) == [6]byte{}:
		why = "it is zero"
	default:
		return nil
	}
	return fmt.Errorf("MAC address %s: %s: %w", mac, why, errdefs.ErrInvalidArgument)
}
