package dns

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// group is servers that know the same: they are asked in order, share a memory, and one question that many ask is asked once.
type group struct {
	servers []*server
	cache   cache

	mu      sync.Mutex
	flights map[inquiry]*flight
}

// flight is a question under way.
type flight struct {
	done chan struct{}
	m    *dns.Msg // nil: nobody answered. Not changed any more
}

// errBeaten ends the questions to servers that were slower.
var errBeaten = errors.New("another server was faster")

func newGroup(servers []*server, memory int) *group {
	return &group{servers: servers, cache: cache{most: memory, items: map[inquiry]remembered{}}, flights: map[inquiry]*flight{}}
}

// resolve gives an answer that the caller may change; nil when nobody gave one in time.
func (g *group) resolve(ctx context.Context, q *dns.Msg) *dns.Msg {
	i := inquiryOf(q)
	if m := g.cache.get(i, time.Now()); m != nil {
		return m
	}
	g.mu.Lock()
	f, under := g.flights[i]
	if !under {
		f = &flight{done: make(chan struct{})}
		g.flights[i] = f
	}
	g.mu.Unlock()
	if !under {
		g.fly(ctx, f, i, q)
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil
	}
	if f.m == nil {
		return nil
	}
	return f.m.Copy()
}

func (g *group) fly(ctx context.Context, f *flight, i inquiry, q *dns.Msg) {
	f.m = g.ask(ctx, outward(q, i))
	if f.m != nil {
		f.m.Extra = withoutOPT(f.m.Extra)
		g.cache.put(i, f.m, time.Now())
	}
	g.mu.Lock()
	delete(g.flights, i)
	g.mu.Unlock()
	close(f.done)
}

// outward is a question as we ask it: EDNS is between neighbours (RFC 6891, 6.1.1), so ours says what we take.
func outward(q *dns.Msg, i inquiry) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(q.Question[0].Name, i.typ)
	m.Question[0].Qclass = i.class
	m.CheckingDisabled, m.AuthenticatedData = i.cd, q.AuthenticatedData
	m.SetEdns0(upstreamSize, i.do)
	return m
}

func withoutOPT(extra []dns.RR) (kept []dns.RR) {
	for _, rr := range extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

// attempt is what one server said.
type attempt struct {
	by *server
	m  *dns.Msg
}

// ask asks the servers in their order: the next one when one refuses or fails, and beside it when it takes long. The first good answer
// wins; without one the last bad one does.
func (g *group) ask(ctx context.Context, q *dns.Msg) (worst *dns.Msg) {
	ctx, beaten := context.WithCancelCause(ctx)
	defer beaten(errBeaten)
	order, probe := g.order(time.Now())
	said := make(chan attempt, len(order)+len(probe))
	waiting := map[*server]time.Time{}
	start := func(s *server) {
		waiting[s] = time.Now()
		go func() {
			m, err := s.ask(ctx, q)
			if err != nil {
				m = nil
			}
			said <- attempt{s, m}
		}()
	}
	for _, s := range probe {
		start(s)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for len(order)+len(waiting) > 0 {
		select {
		case <-ctx.Done():
			return worst
		case a := <-said:
			began := waiting[a.by]
			delete(waiting, a.by)
			if a.m != nil && a.m.Rcode != dns.RcodeServerFailure && a.m.Rcode != dns.RcodeRefused {
				for s, since := range waiting {
					if since.Before(began) {
						s.failed() // it had more time
					}
				}
				return a.m
			}
			if a.m != nil {
				worst = a.m
			}
			timer.Reset(0)
		case <-timer.C:
			if len(order) > 0 {
				next := order[0]
				if order = order[1:]; waiting[next].IsZero() {
					start(next)
				}
				timer.Reset(next.wait())
			}
		}
	}
	return worst
}

// order is whom to ask, the well before the sick, and whom to try beside the first because it may be well again.
func (g *group) order(now time.Time) (order, probe []*server) {
	var sick []*server
	for _, s := range g.servers {
		switch ill, due := s.state(now); {
		case due:
			probe = append(probe, s)
			sick = append(sick, s)
		case ill:
			sick = append(sick, s)
		default:
			order = append(order, s)
		}
	}
	return append(order, sick...), probe
}
