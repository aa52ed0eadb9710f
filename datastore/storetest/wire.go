package storetest

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// Dial opens connections.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Wire is what lies between a store and its servers, to be cut. It is safe for concurrent use.
type Wire struct {
	dial Dial
	// Received counts what the servers sent, in bytes.
	Received atomic.Int64

	mu    sync.Mutex
	down  bool
	mute  bool
	conns map[*wireConn]struct{}
}

// NewWire is a wire at the end of which dial is.
func NewWire(dial Dial) *Wire { return &Wire{dial: dial, conns: map[*wireConn]struct{}{}} }

// Dial opens a connection over the wire.
func (w *Wire) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	down := w.down
	w.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("the wire is cut")}
	}
	c, err := w.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	wc := &wireConn{Conn: c, wire: w}
	w.mu.Lock()
	w.conns[wc] = struct{}{}
	w.mu.Unlock()
	return wc, nil
}

// Cut breaks all connections and refuses new ones, until Mend.
func (w *Wire) Cut() {
	w.mu.Lock()
	w.down = true
	var all []*wireConn
	for c := range w.conns {
		all = append(all, c)
	}
	w.mu.Unlock()
	for _, c := range all {
		c.Close()
	}
}

// Mute loses what servers say from now on; they hear us. It lasts until Mend, for the connections that there are.
func (w *Wire) Mute() { w.set(false, true) }

// Mend undoes Cut and Mute.
func (w *Wire) Mend() { w.set(false, false) }

func (w *Wire) set(down, mute bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down, w.mute = down, mute
}

func (w *Wire) muted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mute
}

type wireConn struct {
	net.Conn
	wire *Wire
}

func (c *wireConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		c.wire.Received.Add(int64(n))
		if err != nil || !c.wire.muted() {
			return n, err
		}
	}
}

func (c *wireConn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.conns, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}
