package firewalltest

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Ports of services on the host that attacks aim at.
const hostLoopbackPort, hostPort = 5555, 5556

// frame is a datagram that no socket would send, put on the wire as a frame to the host.
type frame struct {
	name     string
	from     *nstest.Host
	real     netip.Addr // of from: its link and the host's towards it are the wire
	src      netip.Addr // as the frame claims
	to       netip.AddrPort
	victim   *server
	expected string
}

// attack sends frames with loopback addresses and forged sources to the host, and checks that no victim hears them while it hears an
// honest frame by the same way sent after. It returns how many attacks there were.
func (top Topology) attack(t testing.TB) int {
	loopback := map[bool]*server{}
	for _, a := range top.Addrs {
		loopback[a.Host.Is4()] = serveAt(t, top.Host, netip.AddrPortFrom(a.loopback(), hostLoopbackPort).String())
	}
	host, self := serve(t, top.Host, hostPort), serve(t, top.Self, top.Port+1)
	n := 0
	for _, a := range top.Addrs {
		lo := a.loopback()
		near := lo
		if lo.Is4() {
			near = netip.AddrFrom4([4]byte{127, 0, 0, 2})
		}
		wires := []struct {
			from *nstest.Host
			real netip.Addr
		}{{top.Outside, a.Outside}, {top.Neighbour, a.Neighbour}, {top.Self, a.Self}, {top.Other, a.Other}}
		var frames []frame
		for _, w := range wires {
			frames = append(frames,
				frame{name: "a service on the host's loopback", from: w.from, real: w.real, src: w.real, to: netip.AddrPortFrom(lo, hostLoopbackPort), victim: loopback[lo.Is4()]},
				frame{name: "a port published on loopback", from: w.from, real: w.real, src: w.real, to: netip.AddrPortFrom(lo, top.Loopback), victim: self},
				frame{name: "the host, from 127.0.0.1", from: w.from, real: w.real, src: lo, to: netip.AddrPortFrom(a.Host, hostPort), victim: host},
				frame{name: "the host, from another loopback address", from: w.from, real: w.real, src: near, to: netip.AddrPortFrom(a.Host, hostPort), victim: host},
				frame{name: "a published port, from another loopback address", from: w.from, real: w.real, src: near, to: netip.AddrPortFrom(a.Host, top.Any), victim: self},
			)
		}
		for _, w := range wires[:1] {
			frames = append(frames,
				frame{name: "the container, from its neighbour's address", from: w.from, real: w.real, src: a.Neighbour, to: netip.AddrPortFrom(a.Self, top.Port+1), victim: self},
				frame{name: "the container, from its gateway's address", from: w.from, real: w.real, src: a.Gateway, to: netip.AddrPortFrom(a.Self, top.Port+1), victim: self})
		}
		frames = append(frames,
			frame{name: "the container, from its neighbour's address", from: top.Other, real: a.Other, src: a.Neighbour, to: netip.AddrPortFrom(a.Self, top.Port+1), victim: self},
			frame{name: "the container, from outside", from: top.Other, real: a.Other, src: a.Outside, to: netip.AddrPortFrom(a.Self, top.Port+1), victim: self})
		n += len(frames)
		for i, f := range frames {
			f.expected = fmt.Sprintf("%d %s: %s reaches %s, claiming to be %s", i, f.from.Name, f.name, f.to, f.src)
			top.send(t, f)
			frames[i] = f
		}
		for _, w := range wires {
			honest := frame{from: w.from, real: w.real, src: w.real, to: netip.AddrPortFrom(a.Host, hostPort), expected: "honest " + w.real.String()}
			top.send(t, honest)
			nstest.Eventually(t, honest.expected, func() bool { return host.has(honest.expected) })
		}
		// What was forwarded needs one hop more than what went to the host: ask the container the long way round.
		if _, err := ask(top.Host, firewall.UDP, netip.AddrPortFrom(a.Self, top.Port+1)); err != nil {
			t.Errorf("the victim does not answer the host: %v", err)
		}
		for _, f := range frames {
			if f.victim.has(f.expected) {
				t.Error(f.expected)
			}
		}
	}
	return n
}

// send puts a frame on the wire between a host and the Host.
func (top Topology) send(t testing.TB, f frame) {
	t.Helper()
	out, in := toward(t, f.from, top.hostAddr(f.real)), toward(t, top.Host, f.real)
	packet := joinBytes(in.HardwareAddr, out.HardwareAddr, ipPacket(f.src, f.to, []byte(f.expected)))
	f.from.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, packet, 0, &unix.SockaddrLinklayer{Ifindex: out.Index})
	})
}

// hostAddr is the host's address of the same family as a.
func (top Topology) hostAddr(a netip.Addr) netip.Addr {
	for _, f := range top.Addrs {
		if f.Host.Is4() == a.Is4() {
			return f.Host
		}
	}
	return netip.Addr{}
}

// toward is the link by which a host sends to an address.
func toward(t testing.TB, h *nstest.Host, a netip.Addr) *netlink.LinkAttrs {
	t.Helper()
	routes, err := h.Netlink().RouteGet(net.IP(a.AsSlice()))
	if err != nil || len(routes) == 0 {
		t.Fatalf("host %s: route to %s: %v", h.Name, a, err)
	}
	l, err := h.Netlink().LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		t.Fatalf("host %s: link to %s: %v", h.Name, a, err)
	}
	return l.Attrs()
}

func joinBytes(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// ipPacket is an ethernet type and an IP packet with a UDP datagram from port 4444.
func ipPacket(src netip.Addr, to netip.AddrPort, payload []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, 4444)
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	pseudo := joinBytes(src.AsSlice(), to.Addr().AsSlice(), []byte{0, unix.IPPROTO_UDP, byte(len(udp) >> 8), byte(len(udp))}, udp)
	binary.BigEndian.PutUint16(udp[6:], checksum(pseudo))
	if src.Is4() {
		head := []byte{0x45, 0, byte((20 + len(udp)) >> 8), byte(20 + len(udp)), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		head = joinBytes(head, src.AsSlice(), to.Addr().AsSlice())
		binary.BigEndian.PutUint16(head[10:], checksum(head))
		return joinBytes([]byte{0x08, 0x00}, head, udp)
	}
	head := []byte{0x60, 0, 0, 0, byte(len(udp) >> 8), byte(len(udp)), unix.IPPROTO_UDP, 64}
	return joinBytes([]byte{0x86, 0xdd}, head, src.AsSlice(), to.Addr().AsSlice(), udp)
}

// checksum is the internet checksum.
func checksum(p []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(p); i += 2 {
		sum += uint32(p[i])<<8 | uint32(p[i+1])
	}
	if len(p)%2 == 1 {
		sum += uint32(p[len(p)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
