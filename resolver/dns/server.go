package dns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// How long a server is given, and how long one that failed is asked last only.
const (
	patience                 = 2 * time.Second
	again                    = 700 * time.Millisecond // then the question is sent once more
	firstRest, longestRest   = time.Second, 30 * time.Second
	shortestWait, firstGuess = 20 * time.Millisecond, 80 * time.Millisecond
	longestWait              = 100 * time.Millisecond
	upstreamSize             = 1232 // bytes that pass everywhere in one packet (DNS flag day 2020)
)

// server is one that we ask, and what we think of it. Safe for concurrent use.
type server struct {
	at  netip.AddrPort
	via func(func() error) error // runs in the namespace from which it is asked

	mu       sync.Mutex
	usual    time.Duration // that it takes; 0: not known
	failures int           // since its last answer
	rests    time.Time     // until when it is asked last only
}

// wait is how long to wait for it before the next one is asked beside it.
func (s *server) wait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.usual == 0 {
		return firstGuess
	}
	return min(max(2*s.usual, shortestWait), longestWait)
}

// state says whether it failed last, and whether it is time to try again.
func (s *server) state(now time.Time) (sick, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sick = s.failures > 0
	if due = sick && !now.Before(s.rests); due {
		s.rests = now.Add(s.rest()) // by one question, not by all
	}
	return sick, due
}

func (s *server) rest() time.Duration {
	return min(firstRest<<min(s.failures, 6), longestRest)
}

func (s *server) answered(took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = 0
	if s.usual == 0 {
		s.usual = took
	}
	s.usual += (took - s.usual) / 8
}

func (s *server) failed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures++
	s.rests = time.Now().Add(s.rest())
}

// ask asks by UDP, and again by TCP when the answer did not fit.
func (s *server) ask(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	m, err := s.exchange(ctx, "udp", q)
	if err == nil && m.Truncated {
		if whole, err := s.exchange(ctx, "tcp", q); err == nil {
			m = whole
		}
	}
	switch {
	case err == nil && m.Rcode != dns.RcodeServerFailure && m.Rcode != dns.RcodeRefused:
		s.answered(time.Since(began))
	case !errors.Is(context.Cause(ctx), errBeaten):
		s.failed()
	}
	return m, err
}

// exchange sends a copy of q with a number of its own, from a port of its own, and takes only an answer to that (RFC 5452).
func (s *server) exchange(ctx context.Context, network string, q *dns.Msg) (*dns.Msg, error) {
	var c net.Conn
	err := s.via(func() (err error) {
		var d net.Dialer // the address is a literal, so that this thread connects
		c, err = d.DialContext(ctx, network, s.at.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	q = q.Copy()
	q.Id = dns.Id()
	conn := &dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize}
	for {
		m, err := once(ctx, conn, q)
		var timeout net.Error
		if network == "tcp" || ctx.Err() != nil || !errors.As(err, &timeout) || !timeout.Timeout() {
			return m, err
		}
	}
}

// once sends a question and waits for its answer for as long as is not too long when the datagram was lost.
func once(ctx context.Context, conn *dns.Conn, q *dns.Msg) (*dns.Msg, error) {
	if _, packet := conn.Conn.(net.PacketConn); packet {
		conn.SetDeadline(time.Now().Add(again))
	}
	if err := ctx.Err(); err != nil { // it ended before the deadline was set
		return nil, err
	}
	if err := conn.WriteMsg(q); err != nil {
		return nil, err
	}
	for {
		m, err := conn.ReadMsg()
		if err == nil && m.Id == q.Id && m.Response && sameQuestion(q, m) {
			return m, nil
		}
		var failed net.Error
		if errors.As(err, &failed) || errors.Is(err, io.EOF) {
			return nil, err
		}
	}
}

func sameQuestion(q, m *dns.Msg) bool {
	return len(m.Question) == 0 && m.Rcode != dns.RcodeSuccess || len(m.Question) == 1 && m.Question[0].Qtype == q.Question[0].Qtype &&
		m.Question[0].Qclass == q.Question[0].Qclass && strings.EqualFold(m.Question[0].Name, q.Question[0].Name)
}
