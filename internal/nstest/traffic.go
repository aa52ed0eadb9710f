package nstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// roomy keeps datagrams while a busy machine lets their reader wait.
func roomy(c any) {
	if u, is := c.(*net.UDPConn); is {
		_ = u.SetReadBuffer(4 << 20)
	}
}

// Echo answers everybody with what they say, over TCP and UDP at a port of the host, until the test ends.
func (h *Host) Echo(port string) {
	h.t.Helper()
	l, p := h.Listen("tcp", "[::]:"+port), h.ListenPacket("udp", "[::]:"+port)
	roomy(p)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
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
				_, _ = p.WriteTo(buf[:n], from)
			}
		}
	}()
}

// Stream is numbered messages at 1 kHz to an echo, and which of them came back.
type Stream struct {
	Name string

	conn net.Conn
	stop chan struct{}
	done sync.WaitGroup
	sent []time.Time // read after done

	mu    sync.Mutex // guards what is below
	heard map[uint32]bool
	err   error
}

// Stream begins to talk over "tcp" or "udp" to an address with a port. It has been answered when it returns.
func (h *Host) Stream(network, to string) *Stream {
	h.t.Helper()
	conn, err := h.Dial(network, to)
	if err != nil {
		h.t.Fatalf("host %s: %v", h.Name, err)
	}
	roomy(conn)
	s := &Stream{Name: h.Name + " to " + to + "/" + network, conn: conn, stop: make(chan struct{}), heard: map[uint32]bool{}}
	var hearing sync.WaitGroup
	hearing.Go(s.hear)
	s.done.Go(s.say)
	h.t.Cleanup(func() {
		conn.Close()
		hearing.Wait()
	})
	Eventually(h.t, s.Name+" is answered", func() bool { return s.answers() > 0 })
	return s
}

func (s *Stream) say() {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		s.sent = append(s.sent, time.Now())
		if _, err := s.conn.Write(binary.BigEndian.AppendUint32(nil, uint32(len(s.sent)-1))); err != nil {
			s.failed(err)
		}
	}
}

// hear goes on after an error of UDP, which concerns one message.
func (s *Stream) hear() {
	for buf := make([]byte, 4); ; {
		_, err := io.ReadFull(s.conn, buf)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			s.failed(err)
			if _, udp := s.conn.(*net.UDPConn); !udp {
				return
			}
			continue
		}
		s.mu.Lock()
		s.heard[binary.BigEndian.Uint32(buf)] = true
		s.mu.Unlock()
	}
}

// failed keeps the first error.
func (s *Stream) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *Stream) answers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.heard)
}

// End stops talking, closes the connection and says how much was sent and how much of it was not answered, which the test's log tells
// more of.
func (s *Stream) End(t testing.TB) (sent, lost int) {
	t.Helper()
	close(s.stop)
	s.done.Wait()
	deadline := time.NewTimer(settle)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for late := false; s.answers() < len(s.sent) && !late; {
		select {
		case <-tick.C:
		case <-deadline.C:
			late = true
		}
	}
	s.conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		t.Errorf("%s: %v", s.Name, s.err)
	}
	lost = len(s.sent) - len(s.heard)
	if lost > 0 {
		t.Logf("%s: not answered: %s", s.Name, s.missing())
	}
	return len(s.sent), lost
}

// missing tells which messages were not answered, and when they were sent.
func (s *Stream) missing() string {
	const most = 10
	var runs []string
	for i := 0; i < len(s.sent) && len(runs) < most; i++ {
		first := i
		for i < len(s.sent) && !s.heard[uint32(i)] {
			i++
		}
		if i > first {
			runs = append(runs, fmt.Sprintf("%d at %s", i-first, s.sent[first].Format("15:04:05.000")))
		}
	}
	return strings.Join(runs, ", ")
}

// EndAll ends streams, of which nothing may have been lost.
func EndAll(t testing.TB, all []*Stream) {
	t.Helper()
	total := 0
	for _, s := range all {
		sent, lost := s.End(t)
		if lost != 0 {
			t.Errorf("%s: lost %d of %d", s.Name, lost, sent)
		}
		total += sent
	}
	t.Logf("%d messages in %d streams", total, len(all))
}
