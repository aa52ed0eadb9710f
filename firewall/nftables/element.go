package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/sealane/sealane/firewall"
	"golang.org/x/sys/unix"
)

// element is an element of one of the sets, as comparable bytes. Those that are equal say the same for the same owner.
type element struct {
	place
	data [20]byte
	note string // the comment that nft shows: the owner and, where the key has none, the interface
}

// place is what no two elements share.
type place struct {
	set      setID
	key, end [32]byte // end: the last key of an interval, zero in sets without
}

// owner is whose element it is, as its comment says; "" where it says nothing.
func (e *element) owner() string {
	owner, _, _ := strings.Cut(e.note, " ")
	return owner
}

// device is the interface in the comment.
func (e *element) device() string {
	_, device, _ := strings.Cut(e.note, " ")
	return device
}

// keyed begins an element whose key has these parts, one after the other, each padded.
func keyed(set setID, note string, parts ...[]byte) element {
	e := element{place: place{set: set}, note: note}
	at := e.key[:0]
	for _, p := range parts {
		at = append(at, p...)
		at = at[:padded(len(at))]
	}
	return e
}

func named(name string) []byte {
	var b [unix.IFNAMSIZ]byte
	copy(b[:], name)
	return b[:]
}

func text(b []byte) string { return unix.ByteSliceToString(b) }

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func nativeUint32(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }

func port16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }

// span makes an element of an interval set of interface and prefix.
func span(set setID, note, device string, p netip.Prefix) element {
	e := keyed(set, note, named(device), p.Addr().AsSlice())
	e.end = e.key
	addr := e.end[unix.IFNAMSIZ:]
	for bit := p.Bits(); bit < p.Addr().BitLen(); bit++ {
		addr[bit/8] |= 0x80 >> (bit % 8)
	}
	return e
}

// prefix is what span was given.
func (e *element) prefix(addrLen int) netip.Prefix {
	first, last := e.key[unix.IFNAMSIZ:][:addrLen], e.end[unix.IFNAMSIZ:][:addrLen]
	bits := 0
	for bits < addrLen*8 && (first[bits/8]^last[bits/8])>>(7-bits%8)&1 == 0 {
		bits++
	}
	addr, _ := netip.AddrFromSlice(first)
	return netip.PrefixFrom(addr, bits)
}

// String says what the element is to someone who wrote terms and knows nothing of sets.
func (e *element) String() string {
	switch e.set {
	case setOpen4, setOpen6, setPub4, setPub6, setPub4Any, setPub6Any:
		p := e.port()
		return fmt.Sprintf("port %d/%s of %s", p.HostPorts.First, p.Proto, p.Host)
	case setSub4:
		return fmt.Sprintf("subnet %s of %s", e.prefix(4), text(e.key[:unix.IFNAMSIZ]))
	case setSub6:
		return fmt.Sprintf("subnet %s of %s", e.prefix(16), text(e.key[:unix.IFNAMSIZ]))
	case setIsolated, setMode, setMasq:
		return "network on " + text(e.key[4:][:unix.IFNAMSIZ])
	case setTunnels, setPeers4, setPeers6:
		return fmt.Sprintf("tunnel with VNI %d on port %d", e.vni(), e.tunnelPort())
	}
	return "network on " + text(e.key[:unix.IFNAMSIZ])
}

// port is the one port that an element of a map of published ports, or of a set of open ones, stands for.
func (e *element) port() firewall.Port {
	n, any := 0, netip.IPv4Unspecified()
	switch e.set {
	case setPub4, setOpen4:
		n = 4
	case setPub6, setOpen6:
		n, any = 16, netip.IPv6Unspecified()
	case setPub6Any:
		any = netip.IPv6Unspecified()
	}
	addr, _ := netip.AddrFromSlice(e.key[:n])
	number := binary.BigEndian.Uint16(e.key[n+4:])
	p := firewall.Port{Interface: e.device(), Proto: firewall.Proto(e.key[n]), Host: addr, HostPorts: firewall.Range{First: number, Last: number}}
	if e.set == setOpen4 || e.set == setOpen6 {
		p.Host, p.Target, p.Ports = any, addr, p.HostPorts
		return p
	}
	if n == 0 {
		p.Host = any
	}
	size := any.BitLen() / 8
	p.Target, _ = netip.AddrFromSlice(e.data[:size])
	number = binary.BigEndian.Uint16(e.data[size:])
	p.Ports = firewall.Range{First: number, Last: number}
	return p
}
