package pool

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// key is an address as a number. An IPv4 address is one of 32 bits.
type key struct{ hi, lo uint64 }

func keyOf(a netip.Addr) key {
	if a.Is4() {
		b := a.As4()
		return key{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return key{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (k key) addr(v4 bool) netip.Addr {
	if v4 {
		return netip.AddrFrom4([4]byte{byte(k.lo >> 24), byte(k.lo >> 16), byte(k.lo >> 8), byte(k.lo)})
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], k.hi)
	binary.BigEndian.PutUint64(b[8:], k.lo)
	return netip.AddrFrom16(b)
}

func (k key) less(o key) bool { return k.hi < o.hi || k.hi == o.hi && k.lo < o.lo }

func (k key) compare(o key) int { return cmp.Or(cmp.Compare(k.hi, o.hi), cmp.Compare(k.lo, o.lo)) }

func (k key) shiftRight(n uint) key {
	if n < 64 {
		return key{k.hi >> n, k.lo>>n | k.hi<<(64-n)}
	}
	return key{0, k.hi >> (n - 64)}
}

func (k key) shiftLeft(n uint) key {
	if n >= 64 {
		return key{k.lo << (n - 64), 0}
	}
	return key{k.hi<<n | k.lo>>(64-n), k.lo << n}
}

// plus wraps at 2^128 to a smaller number.
func (k key) plus(o key) key {
	lo, carry := bits.Add64(k.lo, o.lo, 0)
	hi, _ := bits.Add64(k.hi, o.hi, carry)
	return key{hi, lo}
}

func (k key) minus(o key) key {
	lo, borrow := bits.Sub64(k.lo, o.lo, 0)
	hi, _ := bits.Sub64(k.hi, o.hi, borrow)
	return key{hi, lo}
}

func (k key) next() key { return k.plus(key{0, 1}) }

// span is a run of addresses, both ends included.
type span struct{ from, to key }

// low is 2^n-1.
func low(n uint) key { return key{0, 1}.shiftLeft(n).minus(key{0, 1}) }

// spanOf takes a prefix whose host bits are zero.
func spanOf(p netip.Prefix) span {
	from := keyOf(p.Addr())
	return span{from, from.plus(low(hostBits(p)))}
}

func hostBits(p netip.Prefix) uint { return uint(p.Addr().BitLen() - p.Bits()) }

func (s span) has(k key) bool { return !k.less(s.from) && !s.to.less(k) }

// compare orders by the lower end, and of those that begin together the larger first.
func (s span) compare(o span) int { return cmp.Or(s.from.compare(o.from), o.to.compare(s.to)) }

// size counts the addresses; no subnet is all of IPv6.
func (s span) size() key { return s.to.minus(s.from).next() }

// saturated is k, or the highest there is in a word.
func (k key) saturated() uint64 {
	if k.hi != 0 {
		return ^uint64(0)
	}
	return k.lo
}
