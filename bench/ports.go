package main

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// ports is the floor of a plugin: links whose far ends wait in the host's namespace for the engine to move them. An endpoint is one message, and
// its end another; what is deleted is deleted later. What these take longer beside a thousand others is the kernel's own.
type ports struct{ *floor }

// port is an attachment: the index of the near end.
type port int

const deadGroup, farIndex = 4243, 1 << 20 // the far ends' indexes are so much higher

func newPorts(mode Mode) (*ports, error) {
	mode.Silent = true
	f, err := newFloor(mode)
	return &ports{f}, err
}

func (p *ports) Attach() (Handle, error) {
	n := p.next.Add(1)
	host, err := p.takeWire()
	if err != nil {
		return nil, err
	}
	defer p.giveWire(host)
	address := netip.AddrFrom4([4]byte{10, 210, byte((n + 1) >> 8), byte(n + 1)}).As4()
	index := floorIndex + int(n)
	var m message
	m.veth(pair{
		name: fmt.Sprintf("sv%d", n), index: index, mtu: floorMTU, group: floorGroup, master: p.bridge,
		peer: fmt.Sprintf("sp%d", n), peerIndex: index + farIndex, mac: append(net.HardwareAddr{0x02, 0x42}, address[:]...),
	})
	return port(index), host.do(&m)
}

func (p *ports) Detach(h Handle) error {
	host, err := p.takeWire()
	if err != nil {
		return err
	}
	defer p.giveWire(host)
	var m message
	m.retire(int(h.(port)), deadGroup)
	return host.do(&m)
}

// Cycle has n endpoints begin and end, and deletes the dead between them, which is not measured.
func (p *ports) Cycle(n int) (verbs [][]spent, err error) {
	w, err := openWire(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer w.close()
	var dead message
	dead.drop(deadGroup)
	for range n {
		start := time.Now()
		h, err := p.Attach()
		if err != nil {
			return nil, err
		}
		made := time.Now()
		if err := p.Detach(h); err != nil {
			return nil, err
		}
		verbs = append(verbs, []spent{{"Join", made.Sub(start)}, {"DeleteEndpoint", time.Since(made)}})
		if err := w.do(&dead); err != nil {
			return nil, err
		}
	}
	return verbs, nil
}
