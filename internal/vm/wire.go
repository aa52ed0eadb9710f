package vm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Wire is the cable between two machines: what one sends the other receives. A frame is one message of a socket, as QEMU's "-netdev socket"
// has it. Safe for concurrent use.
type Wire struct {
	plugs [2]*os.File // the ends for the machines
	ends  [2]net.Conn // ours

	mu      sync.Mutex
	listens func(frame []byte)
}

// NewWire makes one.
func NewWire() (*Wire, error) {
	w := &Wire{}
	for i := range w.plugs {
		var err error
		if w.ends[i], w.plugs[i], err = pair(unix.SOCK_DGRAM); err != nil {
			return nil, errors.Join(err, w.Close())
		}
	}
	go w.carry(0, 1)
	go w.carry(1, 0)
	return w, nil
}

// pair is two connected sockets, one for us and one that a child inherits.
func pair(kind int) (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	defer near.Close()
	if ours, err = net.FileConn(near); err != nil {
		return nil, nil, errors.Join(err, far.Close())
	}
	return ours, far, nil
}

// carry takes frames from one end to the other until the wire is closed.
func (w *Wire) carry(from, to int) {
	const longest = 64 << 10
	frame := make([]byte, longest)
	for {
		n, err := w.ends[from].Read(frame)
		if err != nil {
			return
		}
		w.mu.Lock()
		listens := w.listens
		w.mu.Unlock()
		if listens != nil {
			listens(frame[:n])
		}
		_, _ = w.ends[to].Write(frame[:n]) // a machine that is off hears nothing, as with any cable
	}
}

// Listen has each frame given to fn before it goes on, until fn is replaced; nil listens no more. fn must be quick, may be called by several
// goroutines, and must not keep the frame.
func (w *Wire) Listen(fn func(frame []byte)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listens = fn
}

// Close cuts the wire.
func (w *Wire) Close() error {
	var errs []error
	for i := range w.plugs {
		if w.ends[i] != nil {
			errs = append(errs, w.ends[i].Close(), w.plugs[i].Close())
		}
	}
	return errors.Join(errs...)
}
