package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// packet is a frame from the wire, or why there is none.
type packet struct {
	frame []byte
	err   error
}

// Where things are in a frame: Ethernet, IPv4 without options, UDP, VXLAN (RFC 7348), and Ethernet and IPv4 again.
const (
	ethernet, ipv4, udp, vxlan = 14, 20, 8, 8
	outer                      = ethernet + ipv4 + udp + vxlan
	tunnelPort                 = 4789
)

var errNoPacket = errors.New("no packet of a tunnel was seen on the wire")

// isTunnel says whether it is one of VXLAN: UDP to port 4789.
func (p packet) isTunnel() bool {
	f := p.frame
	return len(f) >= outer+ethernet+ipv4 && binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_IP && f[ethernet+9] == unix.IPPROTO_UDP &&
		binary.BigEndian.Uint16(f[ethernet+ipv4+2:]) == tunnelPort && binary.BigEndian.Uint16(f[outer+12:]) == unix.ETH_P_IP
}

// describe says what is in it.
func (p packet) describe() (string, error) {
	if p.err != nil {
		return "", p.err
	}
	f := p.frame
	address := func(at int) netip.Addr { return netip.AddrFrom4([4]byte(f[at : at+4])) }
	vni := binary.BigEndian.Uint32(f[outer-4:]) >> 8
	return fmt.Sprintf("%v > %v UDP %d, VNI %d: %v > %v, %d bytes", address(ethernet+12), address(ethernet+16),
		binary.BigEndian.Uint16(f[ethernet+ipv4+2:]), vni, address(outer+ethernet+12), address(outer+ethernet+16), len(f)), nil
}
