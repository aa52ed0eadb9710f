package dns

import (
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// cache remembers answers of other servers as long as they say (RFC 1035, 3.2.1; RFC 2308 for those that something is not there).
type cache struct {
	most int

	mu    sync.Mutex
	items map[inquiry]remembered
}

// inquiry is what tells answers apart.
type inquiry struct {
	name       string // in small letters
	typ, class uint16
	do, cd     bool
}

type remembered struct {
	m     *dns.Msg
	since time.Time
	until time.Time
}

// Longest memories; RFC 2308, 5 wants the second to be one to three hours at most.
const (
	longest         = 24 * time.Hour
	longestNegative = time.Hour
)

func inquiryOf(q *dns.Msg) inquiry {
	asked := q.Question[0]
	i := inquiry{name: strings.ToLower(asked.Name), typ: asked.Qtype, class: asked.Qclass, cd: q.CheckingDisabled}
	if opt := q.IsEdns0(); opt != nil {
		i.do = opt.Do()
	}
	return i
}

// get gives a copy with what is left of its lifetimes; nil when nothing is known.
func (c *cache) get(i inquiry, now time.Time) *dns.Msg {
	c.mu.Lock()
	item, ok := c.items[i]
	if ok && !now.Before(item.until) {
		delete(c.items, i)
		ok = false
	}
	c.mu.Unlock()
	if !ok {
		return nil
	}
	m := item.m.Copy()
	age := uint32(now.Sub(item.since) / time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			rr.Header().Ttl -= min(age, rr.Header().Ttl)
		}
	}
	return m
}

// put remembers an answer, which must not be changed afterwards. When there is no room somebody else's place is taken.
func (c *cache) put(i inquiry, m *dns.Msg, now time.Time) {
	ttl := memory(m)
	if ttl <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, again := c.items[i]; !again && len(c.items) >= c.most {
		c.evict(now)
	}
	c.items[i] = remembered{m, now, now.Add(ttl)}
}

// evict looks at a few and deletes those that are over, or else the last.
func (c *cache) evict(now time.Time) {
	const few = 8
	looked := 0
	for i, item := range c.items {
		looked++
		if !now.Before(item.until) || looked == few {
			delete(c.items, i)
		}
		if looked == few {
			return
		}
	}
}

// memory is how long an answer may be remembered; 0: not at all.
func memory(m *dns.Msg) time.Duration {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	if m.Rcode == dns.RcodeNameError || !answers(m) {
		for _, rr := range m.Ns {
			if soa, is := rr.(*dns.SOA); is { // RFC 2308, 5
				return min(time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second, longestNegative)
			}
		}
		return 0
	}
	ttl := longest
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
		}
	}
	return ttl
}

// answers says whether it has what was asked for, and not only the way there.
func answers(m *dns.Msg) bool {
	for _, rr := range m.Answer {
		if t := rr.Header().Rrtype; len(m.Question) == 1 && (t == m.Question[0].Qtype || m.Question[0].Qtype == dns.TypeANY) {
			return true
		}
	}
	return false
}
