package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/nsthread"
)

// packet is a frame from the wire, or why there is none.
type packet struct {
	frame []byte
	err   error
}

// watchWire listens on the wire from now on and gives the first packet of a tunnel.
func (l *lab) watchWire(ctx context.Context) (<-chan packet, error) {
	var socket int
	err := nsthread.Do(spaceFile(wire), func() (err error) {
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on the wire: %w", err)
	}
	wait := unix.NsecToTimeval(int64(time.Second))
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return nil, errors.Join(err, unix.Close(socket))
	}
	seen := make(chan packet, 1)
	go func() {
		defer unix.Close(socket)
		seen <- firstOfTunnel(ctx, socket)
	}()
	return seen, nil
}

// firstOfTunnel reads until a VXLAN packet comes: UDP to port 4789.
func firstOfTunnel(ctx context.Context, socket int) packet {
	const patience = 10 * time.Second
	frame := make([]byte, 2048)
	for began := time.Now(); ctx.Err() == nil && time.Since(began) < patience; {
		n, _, err := unix.Recvfrom(socket, frame, 0)
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return packet{err: err}
		}
		if p := (packet{frame: frame[:max(n, 0)]}); p.isTunnel() {
			return p
		}
	}
	return packet{err: errors.New("no packet of a tunnel was seen on the wire")}
}

// Where things are in a frame: Ethernet, IPv4 without options, UDP, VXLAN (RFC 7348), and Ethernet and IPv4 again.
const (
	ethernet, ipv4, udp, vxlan = 14, 20, 8, 8
	outer                      = ethernet + ipv4 + udp + vxlan
	tunnelPort                 = 4789
)

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
