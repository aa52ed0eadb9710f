package main

import (
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/firewall"
)

// floor is the least work in the kernel that gives a namespace a working link on a bridge: no records, no names, no ports, no
// firewall, nothing that a crash would be mended from. Nobody can be faster by the same means.
type floor struct {
	mode    Mode
	host    int // descriptor of the host's namespace
	bridge  int // index
	next    atomic.Uint32
	mu      sync.Mutex
	wires   []wire  // free sockets of the host
	ready   []space // the pool
	publish *elements
}

// space is a namespace with a netlink socket in it; closing fd ends it.
type space struct {
	fd   int
	wire wire
}

const (
	floorBridge   = "floor0"
	floorLink     = 100 // index of the container's end, chosen by us: the batch that follows need not ask
	floorMTU      = 1500
	floorGroup    = 4242
	floorIndex    = 1000 // and of the host's ends from here on
	floorLoopback = 1
)

var (
	gateway4 = netip.MustParsePrefix("10.210.0.1/16")
	gateway6 = netip.MustParsePrefix("fd00:210::1/64")
)

func newFloor(mode Mode) (*floor, error) {
	steps := [][]string{
		{"link", "add", floorBridge, "address", "02:42:0a:d2:00:01", "type", "bridge", "mcast_snooping", "0"},
		{"link", "set", floorBridge, "up"},
		{"address", "add", gateway4.String(), "dev", floorBridge},
		{"address", "add", gateway6.String(), "dev", floorBridge, "nodad"},
	}
	for _, s := range steps {
		if err := command("ip", s...); err != nil {
			return nil, err
		}
	}
	if mode.IPv6 || mode.Silent {
		// The host's ends need no IPv6: the bridge has the address.
		if err := sysctl("ipv6/conf/default/disable_ipv6", "1"); err != nil {
			return nil, err
		}
	}
	host, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the host's namespace: %w", err)
	}
	bridge, err := net.InterfaceByName(floorBridge)
	if err != nil {
		return nil, err
	}
	published, err := newElements()
	if err != nil {
		return nil, err
	}
	return &floor{mode: mode, host: host, bridge: bridge.Index, publish: published}, nil
}

// Prepare fills the pool.
func (f *floor) Prepare(n int) error {
	if !f.mode.Pool {
		return nil
	}
	for range n {
		s, err := f.makeSpace()
		if err != nil {
			return err
		}
		f.mu.Lock()
		f.ready = append(f.ready, s)
		f.mu.Unlock()
	}
	return nil
}

func (f *floor) Attach() (Handle, error) {
	s, err := f.takeSpace()
	if err != nil {
		return nil, err
	}
	defer s.wire.close()
	n := f.next.Add(1)
	host, err := f.takeWire()
	if err != nil {
		return nil, err
	}
	defer f.giveWire(host)
	// 10.210.0.2 is the first; the last but one are enough for 60,000 attachments a process.
	address := netip.AddrFrom4([4]byte{10, 210, byte((n + 1) >> 8), byte(n + 1)})
	four := address.As4()
	mac := append(net.HardwareAddr{0x02, 0x42}, four[:]...)
	var m message
	m.veth(pair{
		name: fmt.Sprintf("sv%d", n), index: floorIndex + int(n), mtu: floorMTU, group: floorGroup, master: f.bridge,
		peer: "eth0", peerIndex: floorLink, space: s.fd, mac: mac,
	})
	if err := host.do(&m); err != nil {
		return nil, fmt.Errorf("make the pair: %w", err)
	}
	if err := s.wire.do(f.content(address, mac)); err != nil {
		return nil, fmt.Errorf("fill the namespace: %w", err)
	}
	return s.fd, nil
}

// content is the batch that makes a namespace work.
func (f *floor) content(address netip.Addr, mac net.HardwareAddr) *message {
	m := new(message)
	m.up(floorLoopback)
	if f.mode.IPv6 {
		m.noAutomaticLinkLocal(floorLink)
	}
	m.up(floorLink)
	m.address(floorLink, netip.PrefixFrom(address, gateway4.Bits()))
	m.defaultRoute(gateway4.Addr())
	if f.mode.IPv6 {
		four := address.As4()
		global := gateway6.Addr().As16()
		copy(global[12:], four[:])
		m.address(floorLink, netip.PrefixFrom(netip.AddrFrom16(global), gateway6.Bits()))
		m.address(floorLink, netip.PrefixFrom(linkLocal(mac), 64))
		m.defaultRoute(gateway6.Addr())
	}
	m.ack()
	return m
}

// linkLocal is the fe80 address that the kernel would have derived (EUI-64).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})
}

// Detach drops the namespace: the kernel deletes the pair when it gets to it.
func (f *floor) Detach(h Handle) error { return unix.Close(h.(int)) }

// Close leaves the rest to the end of the process.
func (f *floor) Close() error { return nil }

func (f *floor) Publish(_ Handle, ports firewall.Range) error { return f.publish.add(ports) }

func (f *floor) Unpublish(_ Handle, ports firewall.Range) error { return f.publish.remove(ports) }

func (f *floor) takeSpace() (space, error) {
	f.mu.Lock()
	if last := len(f.ready) - 1; last >= 0 {
		s := f.ready[last]
		f.ready = f.ready[:last]
		f.mu.Unlock()
		return s, nil
	}
	f.mu.Unlock()
	return f.makeSpace()
}

// makeSpace makes a namespace on this thread, opens what is needed in it and comes back.
func (f *floor) makeSpace() (s space, err error) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return s, fmt.Errorf("new namespace: %w", err)
	}
	defer func() {
		if back := unix.Setns(f.host, unix.CLONE_NEWNET); back != nil {
			err = fmt.Errorf("return from the new namespace: %w", back) // the thread stays locked and ends with its goroutine
			return
		}
		runtime.UnlockOSThread()
	}()
	if s.wire, err = openWire(unix.NETLINK_ROUTE); err != nil {
		return s, err
	}
	if s.fd, err = unix.IoctlRetInt(int(s.wire), unix.SIOCGSKNS); err != nil {
		return s, err
	}
	if f.mode.Silent {
		err = f.silence()
	}
	return s, err
}

// silence keeps the links of the namespace that the calling thread is in from sending what nobody asked for: with a thousand ports
// on a bridge each frame that a new one floods goes to all of them.
func (f *floor) silence() error {
	if !f.mode.IPv6 {
		return sysctl("ipv6/conf/default/disable_ipv6", "1")
	}
	if err := sysctl("ipv6/conf/default/router_solicitations", "0"); err != nil {
		return err
	}
	w, err := openWire(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer w.close()
	return w.do(dropReports())
}

func (f *floor) takeWire() (wire, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if last := len(f.wires) - 1; last >= 0 {
		w := f.wires[last]
		f.wires = f.wires[:last]
		return w, nil
	}
	return openWire(unix.NETLINK_ROUTE)
}

func (f *floor) giveWire(w wire) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wires = append(f.wires, w)
}
