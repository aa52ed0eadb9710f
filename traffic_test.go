package sealane_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/nstest"
)

// stream is numbered messages at 1 kHz to an echo server, and how many came back.
type stream struct {
	name string
	conn net.Conn
	stop chan struct{}
	done sync.WaitGroup
	sent uint32 // read after done

	mu    sync.Mutex // guards what is below
	heard map[uint32]bool
	err   error
}

// echo answers everybody with what they say, over TCP and UDP at a port of a host.
func echo(h *nstest.Host, port string) {
	l, p := h.Listen("tcp", "[::]:"+port), h.ListenPacket("udp", "[::]:"+port)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := p.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				p.WriteTo(buf[:n], from)
			}
		}
	}()
}

// newStream begins to talk. It has been answered when it returns.
func newStream(t *testing.T, from *nstest.Host, network, to string) *stream {
	t.Helper()
	conn, err := from.Dial(network, to)
	if err != nil {
		t.Fatal(err)
	}
	s := &stream{name: from.Name + " to " + to + "/" + network, conn: conn, stop: make(chan struct{}), heard: map[uint32]bool{}}
	var wg sync.WaitGroup
	wg.Go(s.hear)
	s.done.Go(s.say)
	t.Cleanup(func() {
		conn.Close()
		wg.Wait()
	})
	nstest.Eventually(t, s.name+" is answered", func() bool { return s.answers() > 0 })
	return s
}

func (s *stream) say() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		if _, err := s.conn.Write(binary.BigEndian.AppendUint32(nil, s.sent)); err != nil {
			s.mu.Lock()
			s.err = errors.Join(s.err, err)
			s.mu.Unlock()
		}
		s.sent++
	}
}

func (s *stream) hear() {
	for buf := make([]byte, 4); ; {
		_, err := io.ReadFull(s.conn, buf)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
			return
		}
		s.mu.Lock()
		if err == nil {
			s.heard[binary.BigEndian.Uint32(buf)] = true
		} else if s.err = errors.Join(s.err, err); len(s.heard) > 1<<20 {
			return
		}
		s.mu.Unlock()
	}
}

func (s *stream) answers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.heard)
}

// end stops talking, closes the connection and says how much was sent and how much of it was not answered.
func (s *stream) end(t *testing.T) (sent, lost int) {
	t.Helper()
	close(s.stop)
	s.done.Wait()
	sent = int(s.sent)
	deadline := time.NewTimer(2 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.answers() < sent {
		select {
		case <-tick.C:
			continue
		case <-deadline.C:
		}
		break
	}
	s.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		t.Errorf("%s: %v", s.name, s.err)
	}
	return sent, sent - len(s.heard)
}
