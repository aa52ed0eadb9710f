package netns

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// announcer tells the ports of a bridge where an address is now, through a packet socket. To close one waits for a grace period: the host's
// stays open, and those of other namespaces are closed in the background.
type announcer struct {
	host    string
	closing sync.WaitGroup

	mu sync.Mutex
	fd int // the host's; -1: not open yet
}

func (n *announcer) close() error {
	n.closing.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		return nil
	}
	return unix.Close(n.fd)
}

// send puts frames on bridges of a namespace, from where they reach all ports.
func (n *announcer) send(ns *Namespace, frames []outgoing) error {
	if len(frames) == 0 {
		return nil
	}
	if ns.host {
		return n.sendFromHost(frames)
	}
	fd, err := packetSocket(ns.path())
	if err != nil {
		return err
	}
	defer n.closing.Go(func() { _ = unix.Close(fd) })
	return sendAll(fd, frames)
}

func (n *announcer) sendFromHost(frames []outgoing) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd < 0 {
		fd, err := packetSocket(n.host)
		if err != nil {
			return err
		}
		n.fd = fd
	}
	return sendAll(n.fd, frames)
}

// packetSocket opens one in the namespace whose file is path, that hears nothing: protocol 0.
func packetSocket(path string) (fd int, err error) {
	err = nsthread.Do(path, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("open packet socket: %w", err)
	}
	return fd, nil
}

// sendAll sends each frame whose bridge is up: another has nobody to tell.
func sendAll(fd int, frames []outgoing) error {
	for _, f := range frames {
		err := unix.Sendto(fd, f.frame, 0, &unix.SockaddrLinklayer{Ifindex: int(f.bridge), Halen: 6})
		if err != nil && err != unix.ENETDOWN && err != unix.ENXIO {
			return err
		}
	}
	return nil
}

// announce has the neighbours on l's bridge and the host believe that l's announced addresses are at its far end now: the host by its own
// entry, which no frame of ours would change, the others by a frame each when the batch has been sent.
func (a *apply) announce(master uint32, l sandbox.Link) {
	mac := l.Veth.MAC
	if master == 0 || len(mac) != 6 {
		return
	}
	for _, addr := range l.Announce {
		writeNeigh(&a.batch, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, master, addrFamily(addr), unix.NUD_STALE, 0, addr, mac)
		a.frames = append(a.frames, outgoing{master, announcement(mac, addr)})
	}
}

// announceEntry has the ports of a bridge believe a neighbour that came while the bridge was there. Who asked for it a moment before got no
// answer, and would ask again after a second. Many at once come after a silence, and would be a storm at every port.
func (a *apply) announceEntry(bridge uint32, l sandbox.Link, e sandbox.Entry) {
	const many = 64
	there := slices.ContainsFunc(a.have.Links, func(h sandbox.Link) bool { return h.Name == l.Name })
	if l.Bridge == nil || !there || len(a.steps) > many {
		return
	}
	a.frames = append(a.frames, outgoing{bridge, announcement(e.MAC, e.Addr)})
}

// announcement says that addr is at mac, to whoever hears it.
func announcement(mac net.HardwareAddr, addr netip.Addr) []byte {
	if addr.Is6() {
		return unsolicitedNA(mac, addr)
	}
	return gratuitousARP(mac, addr)
}

// outgoing is a frame for a bridge.
type outgoing struct {
	bridge uint32
	frame  []byte
}

// gratuitousARP is a request that asks for the sender's own address (RFC 5227, section 3).
func gratuitousARP(mac net.HardwareAddr, addr netip.Addr) []byte {
	const hardwareEthernet, request = 1, 1
	f := ethernet(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP)
	f = binary.BigEndian.AppendUint16(f, hardwareEthernet)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IP)
	f = append(f, 6, 4)
	f = binary.BigEndian.AppendUint16(f, request)
	f = append(append(f, mac...), addr.AsSlice()...)
	return append(append(f, make([]byte, 6)...), addr.AsSlice()...)
}

// unsolicitedNA is a neighbour advertisement to all nodes that overrides what they know (RFC 4861, section 7.2.6).
func unsolicitedNA(mac net.HardwareAddr, addr netip.Addr) []byte {
	const advertisement, override, targetLinkLayer = 136, 0x20, 2
	all := netip.MustParseAddr("ff02::1").As16()
	src := addr.As16()
	body := append([]byte{advertisement, 0, 0, 0, override, 0, 0, 0}, src[:]...)
	body = append(append(body, targetLinkLayer, 1), mac...)
	binary.BigEndian.PutUint16(body[2:], checksum6(src, all, unix.IPPROTO_ICMPV6, body))

	f := ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(body)))
	f = append(f, unix.IPPROTO_ICMPV6, 255)
	return append(append(append(f, src[:]...), all[:]...), body...)
}

func ethernet(dst, src net.HardwareAddr, protocol uint16) []byte {
	return binary.BigEndian.AppendUint16(append(append(make([]byte, 0, 96), dst...), src...), protocol)
}

// checksum6 is the internet checksum of an IPv6 payload with its pseudo-header.
func checksum6(src, dst [16]byte, protocol uint8, body []byte) uint16 {
	sum := uint32(len(body)) + uint32(protocol)
	for _, p := range [][]byte{src[:], dst[:], body} {
		for i := 0; i+1 < len(p); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(p[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
