package nftables

import (
	"bytes"
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

// nftField is a field of a header as nft numbers both.
type nftField struct{ header, field uint32 }

// The source addresses in nft's numbering.
func nftIPv4Source() nftField { return nftField{12, 11} }
func nftIPv6Source() nftField { return nftField{13, 8} }

// tunnelOrigin tells nft, in the form in which it tells itself, that the key of a set is the UDP port, the VNI and maybe an address:
// "typeof udp dport . @th,96,24 . ip saddr". Without it nft lists the set in a way that it does not read. The kernel does not look at it.
func tunnelOrigin(addrs ...nftField) []byte {
	const keyByteOrder, keyTypeOf, concat, payload = 0, 3, 13, 7
	const udp, destination, transport = 6, 2, 3
	number := func(typ byte, v uint32) []byte { return tlv(typ, native32(v)) }
	part := func(i byte, facts ...[]byte) []byte {
		return tlv(i, number(0, payload), tlv(1, facts...))
	}
	parts := [][]byte{
		part(0, number(0, udp), number(1, destination)),
		part(1, number(0, 0), number(1, 0), number(2, transport), number(3, 96), number(4, 24)),
	}
	for _, a := range addrs {
		parts = append(parts, part(2, number(0, a.header), number(1, a.field)))
	}
	return append(number(keyByteOrder, 0), tlv(keyTypeOf, number(0, concat), tlv(1, parts...))...)
}

// tlv is an attribute of user data: type, length, value.
func tlv(typ byte, parts ...[]byte) []byte {
	value := bytes.Join(parts, nil)
	return append([]byte{typ, byte(len(value))}, value...)
}
