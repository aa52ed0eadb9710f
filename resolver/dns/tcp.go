package dns

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	connsEach = 64               // connections of one sandbox
	idle      = 10 * time.Second // without a question (RFC 7766, 6.2.3)
)

// connections are those of one box.
type connections struct {
	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

// add is false when there are too many.
func (c *connections) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.open) >= connsEach {
		return false
	}
	if c.open == nil {
		c.open = map[net.Conn]struct{}{}
	}
	c.open[conn] = struct{}{}
	return true
}

func (c *connections) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
}

func (c *connections) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.open {
		conn.Close()
	}
}

// accept takes one connection, which then has a goroutine as long as it lives. The lock is held.
func (r *Resolver) accept(b *box) {
	fd, _, err := unix.Accept4(b.tcp, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) {
		r.engine.leaveAlone(int32(b.tcp), b) // it waits where it is, and would be told again at once
	}
	if err != nil {
		return
	}
	f := os.NewFile(uintptr(fd), "connection")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return
	}
	if !b.conns.add(conn) {
		conn.Close()
		return
	}
	r.work.Go(func() {
		defer conn.Close()
		defer b.conns.remove(conn)
		r.stream(b, conn)
	})
}

// stream answers the questions of a connection, several at once.
func (r *Resolver) stream(b *box, conn net.Conn) {
	var write sync.Mutex
	say := func(answer []byte) {
		write.Lock()
		defer write.Unlock()
		conn.SetWriteDeadline(time.Now().Add(idle))
		if _, err := conn.Write(answer); err != nil {
			conn.Close() // it may have taken a part: what comes after that would make no sense to it
		}
	}
	out := make([]byte, 64<<10)
	for {
		conn.SetReadDeadline(time.Now().Add(idle))
		p, err := readMessage(conn)
		if err != nil {
			return
		}
		r.mu.RLock()
		var answer []byte
		if n := r.quick(b, p, out[2:], true); n > 0 {
			binary.BigEndian.PutUint16(out, uint16(n))
			answer = out[:2+n]
		} else if m := r.answer(b, p, true, func(m []byte) { say(framed(m)) }); m != nil {
			answer = framed(m)
		}
		r.mu.RUnlock()
		if answer != nil {
			say(answer)
		}
	}
}

func framed(m []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(m)), uint16(len(m))), m...)
}

func readMessage(c io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	p := make([]byte, binary.BigEndian.Uint16(size[:]))
	if len(p) < headLen {
		return nil, errors.New("no message is that short")
	}
	_, err := io.ReadFull(c, p)
	return p, err
}
