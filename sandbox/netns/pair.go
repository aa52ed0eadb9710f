package netns

import (
	"net"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pair is a veth that was made from the host, for whoever raises its far end: to find out what is on the other side costs more than all that
// is done there.
type pair struct {
	space, far   string // where the far end is, and its name there
	near, bridge string // names; "": it is the port of none
	index        uint32 // of the bridge
	mac          net.HardwareAddr
}

// pairs are those made last whose far end was not raised yet. One that is not among them is looked at.
type pairs struct {
	mu   sync.Mutex
	last [8]pair // more than are made before the far end of the first of them is raised
	next int
}

func (p *pairs) put(one pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[p.next%len(p.last)] = one
	p.next++
}

// take gives the one made last, once.
func (p *pairs) take(space, far string) (one pair, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.last {
		at := &p.last[(p.next+len(p.last)-1-i)%len(p.last)]
		if at.near != "" && at.space == space && at.far == far {
			one, *at = *at, pair{}
			return one, true
		}
	}
	return one, false
}

// hasCarrier asks whether a link has a carrier, by any socket of its namespace (ETHTOOL_GLINK): the cheapest question for which the kernel
// does what its link watch has put off.
func hasCarrier(socket int, name string) error {
	value := struct{ command, data uint32 }{command: unix.ETHTOOL_GLINK}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // struct ifreq is longer
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&value)
	if errno != 0 {
		return errno
	}
	return nil
}
