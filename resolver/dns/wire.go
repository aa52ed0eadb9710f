package dns

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// The common question, the addresses of a name that one of the networks knows, is answered by hand from bytes prepared when the record
// changed. All else is left to github.com/miekg/dns.

const (
	headLen  = 12
	optLen   = 11   // of an OPT record without options (RFC 6891, 6.1.2)
	plainMax = 512  // of an answer to who has not said more (RFC 1035, 4.2.1)
	udpMax   = 4096 // of any answer by UDP
)

// question is one as it came in.
type question struct {
	id       uint16
	flags    uint16
	end      int // where the question ends
	typ      uint16
	edns, do bool
	max      int // bytes that the answer may have
	key      [256]byte
	keyLen   int
}

// Bits of the header (RFC 1035, 4.1.1; RFC 4035, 3).
const (
	bitResponse, bitAuthoritative, bitTruncated    = 1 << 15, 1 << 10, 1 << 9
	bitRecursionDesired, bitRecursion, bitChecking = 1 << 8, 1 << 7, 1 << 4
	maskOpcode                                     = 0xf << 11
)

// parse reads a query of the common kind; false for any other, good or bad.
func (q *question) parse(p []byte) bool {
	if len(p) < headLen+5 || binary.BigEndian.Uint16(p[4:]) != 1 || binary.BigEndian.Uint32(p[6:]) != 0 {
		return false
	}
	q.id, q.flags = binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])
	if q.flags&(bitResponse|maskOpcode|bitTruncated) != 0 {
		return false
	}
	at := q.parseName(p)
	if at == 0 || len(p) < at+4 {
		return false
	}
	q.typ = binary.BigEndian.Uint16(p[at:])
	if binary.BigEndian.Uint16(p[at+2:]) != dns.ClassINET || q.typ != dns.TypeA && q.typ != dns.TypeAAAA {
		return false
	}
	q.end, q.edns, q.do, q.max = at+4, false, false, plainMax
	switch rest := p[q.end:]; binary.BigEndian.Uint16(p[10:]) {
	case 0:
		return len(rest) == 0
	case 1:
		return q.parseOPT(rest)
	}
	return false
}

// parseName reads the name in small letters and returns where it ends; 0 for a compressed or broken one.
func (q *question) parseName(p []byte) int {
	at := headLen
	q.keyLen = 0
	for {
		if at >= len(p) {
			return 0
		}
		n := int(p[at])
		if n == 0 {
			return at + 1
		}
		if n > 63 || at+1+n >= len(p) || q.keyLen+1+n > 254 {
			return 0
		}
		for i := 0; i <= n; i++ {
			c := p[at+i]
			if i > 0 && 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.key[q.keyLen+i] = c
		}
		q.keyLen += 1 + n
		at += 1 + n
	}
}

// parseOPT reads the one additional record, which must be EDNS of version 0; its options are ignored, as RFC 6891, 6.1.2 wants.
func (q *question) parseOPT(p []byte) bool {
	if len(p) < optLen || p[0] != 0 || binary.BigEndian.Uint16(p[1:]) != dns.TypeOPT || p[5] != 0 || p[6] != 0 ||
		len(p) != optLen+int(binary.BigEndian.Uint16(p[9:])) {
		return false
	}
	q.edns, q.do = true, p[7]&0x80 != 0
	q.max = min(max(int(binary.BigEndian.Uint16(p[3:])), plainMax), udpMax)
	return true
}

// quick answers the common question into out; 0 when it is another or nobody of the networks has the name. The lock is held.
func (r *Resolver) quick(b *box, p, out []byte, tcp bool) int {
	var q question
	if !q.parse(p) || q.keyLen == 0 {
		return 0
	}
	if tcp {
		q.max = len(out)
	}
	records, size, known := r.prepared(b, &q)
	if !known {
		return 0
	}
	n := q.end + len(records)
	if q.edns {
		n += optLen
	}
	if n > q.max || n > len(out) {
		return 0
	}
	copy(out, p[:q.end])
	binary.BigEndian.PutUint16(out[2:], bitResponse|bitAuthoritative|bitRecursion|q.flags&(bitRecursionDesired|bitChecking))
	binary.BigEndian.PutUint16(out[6:], uint16(len(records)/size))
	binary.BigEndian.PutUint32(out[8:], 0)
	copy(out[q.end:], records)
	if len(records) > size {
		shuffle(out[q.end:q.end+len(records)], size)
	}
	if q.edns {
		q.putOPT(out[n-optLen : n])
		out[11] = 1
	}
	return n
}

func (q *question) putOPT(p []byte) {
	clear(p)
	binary.BigEndian.PutUint16(p[1:], dns.TypeOPT)
	binary.BigEndian.PutUint16(p[3:], udpMax)
	if q.do {
		p[7] = 0x80
	}
}

// prepared finds the records of the first network that has some; known says that one has the name. A name that stands for another is not
// told here.
func (r *Resolver) prepared(b *box, q *question) (records []byte, size int, known bool) {
	key := q.key[:q.keyLen]
	if name, private := b.private[string(key)]; private {
		key = []byte(name)
	}
	size = size4
	if q.typ == dns.TypeAAAA {
		size = size6
	}
	for _, id := range b.zones {
		z := r.zones[id]
		if z == nil {
			continue
		}
		e := z.names[string(key)]
		if e == nil {
			if e = z.find(string(key)); e == nil {
				continue
			}
		}
		if len(e.targets) > 0 {
			return nil, size, false
		}
		known = true
		switch {
		case q.typ == dns.TypeA:
			records = e.answer4
		case !b.noIPv6:
			records = e.answer6
		}
		if len(records) > 0 {
			break
		}
	}
	return records, size, known
}
