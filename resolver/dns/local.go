package dns

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
)

// chain is how many names may stand for each other before we stop following.
const chain = 8

// answer answers any message but the common one: now, by what it returns, or later, by the forwarder. nil and no word later: it is none
// that is answered. The lock is held.
func (r *Resolver) answer(b *box, p []byte, tcp bool, later func([]byte)) []byte {
	q := new(dns.Msg)
	if err := q.Unpack(p); err != nil {
		if len(p) < headLen || p[2]&0x80 != 0 {
			return nil
		}
		q = &dns.Msg{MsgHdr: dns.MsgHdr{Id: binary.BigEndian.Uint16(p), Opcode: int(p[2]>>3) & 0xf, RecursionDesired: p[2]&1 != 0}}
		return finish(q, refusal(q, dns.RcodeFormatError), tcp)
	}
	if q.Response {
		return nil
	}
	if code := unfit(q); code != dns.RcodeSuccess {
		return finish(q, refusal(q, code), tcp)
	}
	m, target := r.local(b, q)
	if m != nil && target == "" {
		return finish(q, m, tcp)
	}
	return r.elsewhere(b, q, m, target, tcp, later)
}

// unfit says why a query is not looked at.
func unfit(q *dns.Msg) int {
	opt := q.IsEdns0()
	switch {
	case q.Opcode != dns.OpcodeQuery:
		return dns.RcodeNotImplemented
	case len(q.Question) != 1 || len(q.Answer) > 0:
		return dns.RcodeFormatError
	case opt != nil && opt.Version() != 0:
		return dns.RcodeBadVers
	case q.Question[0].Qclass != dns.ClassINET, q.Question[0].Qtype == dns.TypeAXFR, q.Question[0].Qtype == dns.TypeIXFR:
		return dns.RcodeRefused
	}
	return dns.RcodeSuccess
}

func refusal(q *dns.Msg, code int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, code)
	m.RecursionAvailable = true
	return m
}

// finish gives an answer its EDNS and cuts it to what the client takes.
func finish(q, m *dns.Msg, tcp bool) []byte {
	size := plainMax
	if opt := q.IsEdns0(); opt != nil {
		size = min(max(int(opt.UDPSize()), plainMax), udpMax)
		own := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		own.SetUDPSize(udpMax)
		if opt.Do() {
			own.SetDo()
		}
		own.SetExtendedRcode(uint16(m.Rcode))
		m.Extra = append(m.Extra, own)
	}
	if tcp {
		size = dns.MaxMsgSize
	}
	m.Compress = true
	m.Truncate(size)
	p, err := m.Pack()
	if err != nil {
		p, _ = refusal(q, dns.RcodeServerFailure).Pack()
	}
	return p
}

// local answers about the names of the networks; nil when they do not know it. A target is a name elsewhere for which the asked one
// stands: m is then the way there.
func (r *Resolver) local(b *box, q *dns.Msg) (m *dns.Msg, target string) {
	asked := q.Question[0]
	m = refusal(q, dns.RcodeSuccess)
	m.Authoritative = true
	if a, is := reversed(asked.Name); is {
		if name := r.called(b, a); name != "" {
			if asked.Qtype == dns.TypePTR || asked.Qtype == dns.TypeANY {
				m.Answer = append(m.Answer, &dns.PTR{Hdr: head(asked.Name, dns.TypePTR), Ptr: name})
			}
			return m, ""
		}
		return nil, ""
	}
	if r.service(b, asked, m) {
		return m, ""
	}
	name := asked.Name
	for range chain {
		entries, _ := r.find(b, name)
		if len(entries) == 0 {
			if name == asked.Name {
				return nil, ""
			}
			return m, name
		}
		if len(entries[0].targets) == 0 {
			m.Answer = append(m.Answer, records(b, name, asked.Qtype, entries)...)
			return m, ""
		}
		next := dns.Fqdn(entries[0].targets[0].name)
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: head(name, dns.TypeCNAME), Target: next})
		if asked.Qtype == dns.TypeCNAME || strings.EqualFold(next, name) {
			return m, ""
		}
		name = next
	}
	return m, ""
}

func head(name string, typ uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: lifetime}
}

// find is what the networks of a box know of a name, in order, and which those are.
func (r *Resolver) find(b *box, name string) (entries []*entry, in []*zone) {
	key := keyOf(name)
	if private, is := b.private[key]; is {
		key = private
	}
	if key == "" {
		return nil, nil
	}
	for _, id := range b.zones {
		if z := r.zones[id]; z != nil {
			if e := z.find(key); e != nil {
				entries, in = append(entries, e), append(in, z)
			}
		}
	}
	return entries, in
}

// records are the addresses of a name, of each family from the first network that has some.
func records(b *box, name string, typ uint16, entries []*entry) (all []dns.RR) {
	if typ == dns.TypeA || typ == dns.TypeANY {
		for _, a := range firstOf(entries, func(e *entry) []byte { return e.answer4 }, size4) {
			all = append(all, &dns.A{Hdr: head(name, dns.TypeA), A: a})
		}
	}
	if (typ == dns.TypeAAAA || typ == dns.TypeANY) && !b.noIPv6 {
		for _, a := range firstOf(entries, func(e *entry) []byte { return e.answer6 }, size6) {
			all = append(all, &dns.AAAA{Hdr: head(name, dns.TypeAAAA), AAAA: a})
		}
	}
	return all
}

func firstOf(entries []*entry, of func(*entry) []byte, size int) (addrs []net.IP) {
	i := slices.IndexFunc(entries, func(e *entry) bool { return len(of(e)) > 0 })
	if i < 0 {
		return nil
	}
	all := slices.Clone(of(entries[i]))
	shuffle(all, size)
	for rest := all; len(rest) > 0; rest = rest[size:] {
		addrs = append(addrs, net.IP(rest[recordHead:size:size]))
	}
	return addrs
}

// called is the name of an address in the first network that has one.
func (r *Resolver) called(b *box, a netip.Addr) string {
	if b.noIPv6 && a.Is6() {
		return ""
	}
	for _, id := range b.zones {
		if z := r.zones[id]; z != nil {
			if name := z.called(a); name != "" {
				return name
			}
		}
	}
	return ""
}

// reversed reads the name that asks for an address's name (RFC 1035, 3.5; RFC 3596, 2.5); false for what is none, however broken.
func reversed(name string) (netip.Addr, bool) {
	labels := dns.SplitDomainName(strings.ToLower(name))
	slices.Reverse(labels)
	if len(labels) < 2 || labels[0] != "arpa" {
		return netip.Addr{}, false
	}
	var text string
	switch rest := labels[2:]; {
	case labels[1] == "in-addr" && len(rest) == 4:
		text = strings.Join(rest, ".")
	case labels[1] == "ip6" && len(rest) == 32 && !slices.ContainsFunc(rest, func(l string) bool { return len(l) != 1 }):
		for group := range slices.Chunk(rest, 4) {
			text += ":" + strings.Join(group, "")
		}
		text = text[1:]
	default:
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(text)
	return a, err == nil && a.Is4() == (labels[1] == "in-addr")
}

// service answers for _port._proto.name, below a name of the networks (RFC 2782). It is false when the question is not of that kind.
func (r *Resolver) service(b *box, asked dns.Question, m *dns.Msg) bool {
	labels := dns.SplitDomainName(asked.Name)
	if len(labels) < 3 || !strings.HasPrefix(labels[0], "_") || !strings.HasPrefix(labels[1], "_") {
		return false
	}
	entries, zones := r.find(b, strings.Join(labels[2:], "."))
	if len(entries) == 0 {
		return false
	}
	proto, port := protocol(labels[1][1:]), servicePort(labels[0][1:], labels[1][1:])
	found := false
	for i, e := range entries {
		for _, id := range e.owners {
			p := zones[i].endpoints[id]
			if !offers(p, proto, port) {
				continue
			}
			found = true
			if asked.Qtype == dns.TypeSRV || asked.Qtype == dns.TypeANY {
				target := p.Called() + "." + zones[i].name + "."
				m.Answer = append(m.Answer, &dns.SRV{Hdr: head(asked.Name, dns.TypeSRV), Port: port, Target: target})
				if own := zones[i].names[keyOf(p.Called())]; own != nil {
					m.Extra = append(m.Extra, records(b, target, dns.TypeANY, []*entry{own})...)
				}
			}
		}
		if found {
			break
		}
	}
	if !found {
		m.Rcode = dns.RcodeNameError
	}
	return true
}

func protocol(name string) firewall.Proto {
	switch strings.ToLower(name) {
	case "tcp":
		return firewall.TCP
	case "udp":
		return firewall.UDP
	case "sctp":
		return firewall.SCTP
	}
	return 0
}

// servicePort reads a number or the name of a service; 0 for neither.
func servicePort(name, proto string) uint16 {
	if n, err := strconv.ParseUint(name, 10, 16); err == nil {
		return uint16(n)
	}
	n, err := net.LookupPort(strings.ToLower(proto), strings.ToLower(name))
	if err != nil {
		return 0
	}
	return uint16(n)
}

func offers(p endpoint.Published, proto firewall.Proto, port uint16) bool {
	return port != 0 && slices.ContainsFunc(p.Ports, func(b endpoint.PortBinding) bool {
		return b.Proto == proto && b.Ports.First <= port && port <= b.Ports.Last
	})
}
