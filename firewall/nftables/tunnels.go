package nftables

import (
	"encoding/binary"
	"net/netip"

	"github.com/sealane/sealane/firewall"
)

// renderTunnel appends the elements of a tunnel: it, and each host that may send.
func renderTunnel(to []element, owner string, t firewall.Tunnel) []element {
	port, id := port16(t.Port), binary.BigEndian.AppendUint32(nil, t.VNI<<8)
	to = append(to, keyed(setTunnels, owner, port, id))
	for _, peer := range t.Peers {
		set := setPeers4
		if peer.Is6() {
			set = setPeers6
		}
		to = append(to, keyed(set, owner, port, id, peer.AsSlice()))
	}
	return to
}

func (e *element) tunnelPort() uint16 { return binary.BigEndian.Uint16(e.key[:]) }

func (e *element) vni() uint32 { return binary.BigEndian.Uint32(e.key[4:]) >> 8 }

// tunnel adds what an element says to the tunnels read so far. Those of peers come after the tunnel itself.
func (e *element) tunnel(all []firewall.Tunnel) []firewall.Tunnel {
	port, id, length := e.tunnelPort(), e.vni(), 4
	switch e.set {
	case setTunnels:
		return append(all, firewall.Tunnel{Port: port, VNI: id})
	case setPeers6:
		length = 16
	}
	for i, t := range all {
		if peer, ok := netip.AddrFromSlice(e.key[8:][:length]); ok && t.Port == port && t.VNI == id {
			all[i].Peers = append(t.Peers, peer)
		}
	}
	return all
}
