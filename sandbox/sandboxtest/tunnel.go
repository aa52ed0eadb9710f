package sandboxtest

import (
	"net"
	"net/netip"

	"github.com/sealane/sealane/sandbox"
)

// Tunnel is what an overlay has in a namespace of its own, with so many peers, 60,000 at most: a bridge and a VXLAN device from 192.0.2.1.
func Tunnel(peers int) sandbox.Config {
	tunnel := sandbox.Link{Name: "sx0", Master: "br0", MTU: 1450, VXLAN: &sandbox.VXLAN{VNI: 256, Port: 4789, Local: netip.MustParseAddr("192.0.2.1")},
		Port: sandbox.Port{NoFlood: true, NoLearning: true, ProxyARP: true}}
	bridge := sandbox.Link{Name: "br0", MTU: 1450, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Bridge: &sandbox.Bridge{NoSnooping: true},
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/16"), netip.MustParsePrefix("fd00:1::1/64")}}
	for i := range peers {
		high, low := byte((i+16)>>8), byte(i+16)
		mac := net.HardwareAddr{2, 0, 0, 1, high, low}
		tunnel.Entries = append(tunnel.Entries, sandbox.Entry{MAC: mac, Via: netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + i%200)})})
		bridge.Entries = append(bridge.Entries, sandbox.Entry{MAC: mac, Addr: netip.AddrFrom4([4]byte{10, 1, high, low})},
			sandbox.Entry{MAC: mac, Addr: netip.AddrFrom16([16]byte{0xfd, 0, 0, 1, 14: high, 15: low})})
	}
	return sandbox.Config{Links: []sandbox.Link{bridge, tunnel}}
}
