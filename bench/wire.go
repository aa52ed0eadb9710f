package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The floor has an encoder of its own, so that it does not get better or worse with the one it judges.

// message is netlink messages under construction, one after the other.
type message struct {
	buf   []byte
	start int // of the last message
}

// begin opens a message that has the fixed part fixed. NLM_F_REQUEST is added.
func (m *message) begin(typ, flags uint16, fixed ...byte) {
	m.start = len(m.buf)
	m.buf = append(m.buf, make([]byte, unix.SizeofNlMsghdr)...)
	h := m.buf[m.start:]
	binary.NativeEndian.PutUint16(h[4:], typ)
	binary.NativeEndian.PutUint16(h[6:], flags|unix.NLM_F_REQUEST)
	m.buf = append(m.buf, fixed...)
	m.end()
}

// ack has the last message ask for an acknowledgement.
func (m *message) ack() {
	h := m.buf[m.start:]
	binary.NativeEndian.PutUint16(h[6:], binary.NativeEndian.Uint16(h[6:])|unix.NLM_F_ACK)
}

// end makes the last message as long as it has become.
func (m *message) end() {
	binary.NativeEndian.PutUint32(m.buf[m.start:], uint32(len(m.buf)-m.start))
}

func (m *message) attr(typ uint16, value ...byte) {
	m.nest(typ, func() { m.buf = append(m.buf, value...) })
}

func (m *message) text(typ uint16, s string) { m.attr(typ, append([]byte(s), 0)...) }

func (m *message) uint32(typ uint16, v uint32) {
	m.attr(typ, binary.NativeEndian.AppendUint32(nil, v)...)
}

// nest writes an attribute whose value fill writes.
func (m *message) nest(typ uint16, fill func()) {
	at := len(m.buf)
	m.buf = append(m.buf, make([]byte, unix.SizeofRtAttr)...)
	fill()
	binary.NativeEndian.PutUint16(m.buf[at:], uint16(len(m.buf)-at))
	binary.NativeEndian.PutUint16(m.buf[at+2:], typ)
	for len(m.buf)%4 != 0 {
		m.buf = append(m.buf, 0)
	}
	m.end()
}

// ifinfo is a struct ifinfomsg that brings a link up, or not.
func ifinfo(index int, up bool) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	if up {
		binary.NativeEndian.PutUint32(b[8:], unix.IFF_UP)
		binary.NativeEndian.PutUint32(b[12:], unix.IFF_UP)
	}
	return b
}

// pair is a veth whose far end is born in another namespace. The kernel takes the index of the far end only with one for the near end.
type pair struct {
	name             string
	index            int
	mtu, group       uint32
	master           int // index of the bridge
	peer             string
	peerIndex, space int // space is a descriptor of the namespace; 0: the near end's
	mac              net.HardwareAddr
}

func (m *message) veth(p pair) {
	const infoPeer = 1 // VETH_INFO_PEER
	m.begin(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, ifinfo(p.index, true)...)
	m.text(unix.IFLA_IFNAME, p.name)
	m.uint32(unix.IFLA_MTU, p.mtu)
	m.uint32(unix.IFLA_GROUP, p.group)
	m.uint32(unix.IFLA_MASTER, uint32(p.master))
	m.nest(unix.IFLA_LINKINFO, func() {
		m.text(unix.IFLA_INFO_KIND, "veth")
		m.nest(unix.IFLA_INFO_DATA, func() {
			m.nest(infoPeer, func() {
				m.buf = append(m.buf, ifinfo(p.peerIndex, false)...)
				m.text(unix.IFLA_IFNAME, p.peer)
				m.attr(unix.IFLA_ADDRESS, p.mac...)
				m.uint32(unix.IFLA_MTU, p.mtu)
				if p.space != 0 {
					m.uint32(unix.IFLA_NET_NS_FD, uint32(p.space))
				}
			})
		})
	})
	m.ack()
}

// up brings a link up.
func (m *message) up(index int) {
	m.begin(unix.RTM_NEWLINK, 0, ifinfo(index, true)...)
}

// retire takes a link down, off its bridge and into a group.
func (m *message) retire(index int, group uint32) {
	b := ifinfo(index, true)
	binary.NativeEndian.PutUint32(b[8:], 0) // not up
	m.begin(unix.RTM_NEWLINK, 0, b...)
	m.uint32(unix.IFLA_MASTER, 0)
	m.uint32(unix.IFLA_GROUP, group)
	m.ack()
}

// drop deletes the links of a group.
func (m *message) drop(group uint32) {
	m.begin(unix.RTM_DELLINK, 0, ifinfo(0, false)...)
	m.uint32(unix.IFLA_GROUP, group)
	m.ack()
}

// noAutomaticLinkLocal keeps the kernel from giving the link an fe80 address of its own when it comes up.
func (m *message) noAutomaticLinkLocal(index int) {
	const addrGenMode, none = 8, 1 // IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE
	m.begin(unix.RTM_NEWLINK, 0, ifinfo(index, false)...)
	m.nest(unix.IFLA_AF_SPEC, func() {
		m.nest(unix.AF_INET6, func() { m.attr(addrGenMode, none) })
	})
}

// address gives a link an address, IPv6 ones without duplicate address detection.
func (m *message) address(index int, p netip.Prefix) {
	family, flags := byte(unix.AF_INET), byte(0)
	if p.Addr().Is6() {
		family, flags = unix.AF_INET6, unix.IFA_F_NODAD
	}
	fixed := binary.NativeEndian.AppendUint32([]byte{family, byte(p.Bits()), flags, unix.RT_SCOPE_UNIVERSE}, uint32(index))
	m.begin(unix.RTM_NEWADDR, unix.NLM_F_CREATE, fixed...)
	m.attr(unix.IFA_LOCAL, p.Addr().AsSlice()...)
	m.attr(unix.IFA_ADDRESS, p.Addr().AsSlice()...)
}

// defaultRoute sends everything of a family to a gateway.
func (m *message) defaultRoute(via netip.Addr) {
	fixed := make([]byte, unix.SizeofRtMsg)
	fixed[0] = unix.AF_INET
	if via.Is6() {
		fixed[0] = unix.AF_INET6
	}
	fixed[4], fixed[5], fixed[6], fixed[7] = unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST
	m.begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, fixed...)
	m.attr(unix.RTA_GATEWAY, via.AsSlice()...)
}

// wire is a netlink socket of the namespace that the calling thread was in when it was opened.
type wire int

func openWire(protocol int) (wire, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	return wire(fd), err
}

// do sends all messages at once and reads one answer: the acknowledgement of the one that asked for it, or the first refusal.
func (w wire) do(m *message) error {
	if _, err := unix.Write(int(w), m.buf); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, err := unix.Read(int(w), answer)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("netlink: unexpected answer of %d bytes", n)
	}
	if errno := -int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

func (w wire) close() { unix.Close(int(w)) }
