package firewalltest

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
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
	wire
	what   string
	src    netip.Addr // as the frame claims
	to     netip.AddrPort
	victim *server
	words  string // by which the victim would know it
}

// wire is what joins a host and the Host: the link of an address.
type wire struct {
	from *nstest.Host
	addr netip.Addr
}

// victims are the servers that no attack may reach.
type victims struct {
	loopback map[bool]*server // on the host's loopback; true: IPv4
	host     *server
	web, own *server // of Self, at the published port and at the next
}

// attack sends frames with loopback addresses and forged sources to the host, and checks that no victim hears them while it hears an
// honest one by the same way sent after. It returns how many attacks there were.
func (top Topology) attack(t testing.TB, web *server) int {
	v := victims{loopback: map[bool]*server{}, host: serve(t, top.Host, hostPort), web: web, own: serve(t, top.Self, top.Port+1)}
	n := 0
	for _, a := range top.Addrs {
		v.loopback[a.Host.Is4()] = serveAt(t, top.Host, netip.AddrPortFrom(a.loopback(), hostLoopbackPort).String())
		wires := []wire{{top.Outside, a.Outside}, {top.Neighbour, a.Neighbour}, {top.Self, a.Self}, {top.Other, a.Other}}
		frames := slices.Concat(top.loopbackFrames(a, wires, v), top.forgedFrames(a, v))
		for i, f := range frames {
			f.words = fmt.Sprintf("%d %s reaches %s at %s, claiming to be %s", i, f.from.Name, f.what, f.to, f.src)
			top.send(t, f)
			frames[i] = f
		}
		for _, w := range wires {
			honest := frame{wire: w, src: w.addr, to: netip.AddrPortFrom(a.Host, hostPort), words: "honest " + w.addr.String()}
			top.send(t, honest)
			nstest.Eventually(t, honest.words, func() bool { return v.host.has(honest.words) })
		}
		// What was forwarded needs one hop more than what went to the host: ask the container from there.
		for _, port := range []uint16{top.Port, top.Port + 1} {
			if _, err := ask(top.Host, firewall.UDP, netip.AddrPortFrom(a.Self, port), patience); err != nil {
				t.Errorf("the victim does not answer the host: %v", err)
			}
		}
		for _, f := range frames {
			if f.victim.has(f.words) {
				t.Error(f.words)
			}
		}
		n += len(frames)
	}
	return n
}

// loopbackFrames aim at loopback addresses or claim to come from one, by every wire.
func (top Topology) loopbackFrames(a Addrs, wires []wire, v victims) (frames []frame) {
	lo := a.loopback()
	claims := []netip.Addr{lo}
	if lo.Is4() {
		claims = append(claims, netip.AddrFrom4([4]byte{127, 0, 0, 2})) // the kernel itself refuses 127.0.0.1 only
	}
	for _, w := range wires {
		frames = append(frames,
			frame{wire: w, what: "a service on the host's loopback", src: w.addr, to: netip.AddrPortFrom(lo, hostLoopbackPort), victim: v.loopback[lo.Is4()]},
			frame{wire: w, what: "a port published on loopback", src: w.addr, to: netip.AddrPortFrom(lo, top.Loopback), victim: v.web})
		for _, claim := range claims {
			frames = append(frames,
				frame{wire: w, what: "the host", src: claim, to: netip.AddrPortFrom(a.Host, hostPort), victim: v.host},
				frame{wire: w, what: "a published port", src: claim, to: netip.AddrPortFrom(a.Host, top.Any), victim: v.web})
		}
	}
	return frames
}

// forgedFrames go to the container's own address and claim to come from where that is allowed.
func (top Topology) forgedFrames(a Addrs, v victims) []frame {
	outside, other, to := wire{top.Outside, a.Outside}, wire{top.Other, a.Other}, netip.AddrPortFrom(a.Self, top.Port+1)
	return []frame{
		{wire: outside, what: "the container", src: a.Neighbour, to: to, victim: v.own},
		{wire: outside, what: "the container", src: a.Gateway, to: to, victim: v.own},
		{wire: other, what: "the container", src: a.Neighbour, to: to, victim: v.own},
		{wire: other, what: "the container", src: a.Outside, to: to, victim: v.own},
	}
}

// send puts a frame on the wire between a host and the Host.
func (top Topology) send(t testing.TB, f frame) {
	t.Helper()
	out, in := toward(t, f.from, top.hostAddr(f.addr)), toward(t, top.Host, f.addr)
	packet := slices.Concat(in.HardwareAddr, out.HardwareAddr, ipPacket(f.src, f.to, []byte(f.words)))
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

// ipPacket is an ethernet type and an IP packet with a UDP datagram from port 4444.
func ipPacket(src netip.Addr, to netip.AddrPort, payload []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, 4444)
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	pseudo := slices.Concat(src.AsSlice(), to.Addr().AsSlice(), []byte{0, unix.IPPROTO_UDP, byte(len(udp) >> 8), byte(len(udp))}, udp)
	binary.BigEndian.PutUint16(udp[6:], checksum(pseudo))
	if src.Is4() {
		head := []byte{0x45, 0, byte((20 + len(udp)) >> 8), byte(20 + len(udp)), 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		head = slices.Concat(head, src.AsSlice(), to.Addr().AsSlice())
		binary.BigEndian.PutUint16(head[10:], checksum(head))
		return slices.Concat([]byte{0x08, 0x00}, head, udp)
	}
	head := []byte{0x60, 0, 0, 0, byte(len(udp) >> 8), byte(len(udp)), unix.IPPROTO_UDP, 64}
	return slices.Concat([]byte{0x86, 0xdd}, head, src.AsSlice(), to.Addr().AsSlice(), udp)
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
