package nftables

import (
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// firstRegister is where expressions put what they load, in registers of four bytes.
const firstRegister = unix.NFT_REG32_00

// metaOIFKind is NFT_META_OIFKIND: what kind of device a packet leaves by.
const metaOIFKind expr.MetaKey = 27

// status and state bits of connection tracking, in the machine's order.
const ctDestinationTranslated = 1 << 5

func rules(r ...[]expr.Any) [][]expr.Any         { return r }
func rule(parts ...[]expr.Any) []expr.Any        { return slices.Concat(parts...) }
func drop() []expr.Any                           { return to(expr.VerdictDrop, "") }
func accept() []expr.Any                         { return to(expr.VerdictAccept, "") }
func masquerade() []expr.Any                     { return []expr.Any{&expr.Masq{}} }
func notrack() []expr.Any                        { return []expr.Any{&expr.Notrack{}} }
func to(k expr.VerdictKind, c string) []expr.Any { return []expr.Any{&expr.Verdict{Kind: k, Chain: c}} }

// load is a fact about a packet that can be put into registers.
type load struct {
	len  int // bytes
	into func(register uint32) expr.Any
}

func meta(key expr.MetaKey, n int) load {
	return load{n, func(r uint32) expr.Any { return &expr.Meta{Key: key, Register: r} }}
}

func payload(base expr.PayloadBase, offset uint32, n int) load {
	return load{n, func(r uint32) expr.Any {
		return &expr.Payload{DestRegister: r, Base: base, Offset: offset, Len: uint32(n)}
	}}
}

// Offsets of addresses in the IPv4 header.
const saddr4, daddr4 = 12, 16

func iif() load    { return meta(expr.MetaKeyIIFNAME, 16) }
func oif() load    { return meta(expr.MetaKeyOIFNAME, 16) }
func proto() load  { return meta(expr.MetaKeyNFPROTO, 1) }
func l4() load     { return meta(expr.MetaKeyL4PROTO, 1) }
func markOf() load { return meta(expr.MetaKeyMARK, 4) }
func src4() load   { return payload(expr.PayloadBaseNetworkHeader, saddr4, 4) }
func dst4() load   { return payload(expr.PayloadBaseNetworkHeader, daddr4, 4) }
func src6() load   { return payload(expr.PayloadBaseNetworkHeader, 8, 16) }
func dst6() load   { return payload(expr.PayloadBaseNetworkHeader, 24, 16) }
func dport() load  { return payload(expr.PayloadBaseTransportHeader, 2, 2) }

// vxlanID is the VNI behind the UDP header (RFC 7348, section 5). The kernel fills the register up with zeros.
func vxlanID() load { return payload(expr.PayloadBaseTransportHeader, 12, 3) }

// loadAll puts facts side by side, each padded to whole registers as in the keys of sets.
func loadAll(facts []load) (loaded []expr.Any) {
	register := uint32(firstRegister)
	for _, f := range facts {
		loaded = append(loaded, f.into(register))
		register += uint32(padded(f.len) / 4)
	}
	return loaded
}

func compare(op expr.CmpOp, f load, value []byte) []expr.Any {
	return []expr.Any{f.into(firstRegister), &expr.Cmp{Op: op, Register: firstRegister, Data: value}}
}

func match(f load, value ...byte) []expr.Any { return compare(expr.CmpOpEq, f, value) }

func family(f byte) []expr.Any { return match(proto(), f) }

// loopback matches 127.0.0.0/8 at an offset of the IPv4 header.
func loopback(offset uint32) []expr.Any {
	return match(payload(expr.PayloadBaseNetworkHeader, offset, 1), 127)
}

// loopback6 matches ::1.
func loopback6(addr load) []expr.Any { return match(addr, append(make([]byte, 15), 1)...) }

func bridgeOut() []expr.Any {
	return match(meta(metaOIFKind, 16), append([]byte("bridge"), make([]byte, 10)...)...)
}

func addressType(fib expr.Fib) load {
	return load{4, func(r uint32) expr.Any {
		fib.Register, fib.ResultADDRTYPE, fib.FlagDADDR = r, true, true
		return &fib
	}}
}

func addressedToHost() []expr.Any { return match(addressType(expr.Fib{}), native32(unix.RTN_LOCAL)...) }

func notOnInput() []expr.Any {
	return compare(expr.CmpOpNeq, addressType(expr.Fib{FlagIIF: true}), native32(unix.RTN_LOCAL))
}

func known() []expr.Any {
	return tracked(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

func translated() []expr.Any { return tracked(expr.CtKeySTATUS, ctDestinationTranslated) }

// tracked matches flows that have any of these bits.
func tracked(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: firstRegister},
		&expr.Bitwise{SourceRegister: firstRegister, DestRegister: firstRegister, Len: 4, Mask: native32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: firstRegister, Data: make([]byte, 4)},
	}
}

func (t *table) in(s setID, facts ...load) []expr.Any {
	return append(loadAll(facts), &expr.Lookup{SourceRegister: firstRegister, SetName: t.sets[s].name})
}

func (t *table) notIn(s setID, facts ...load) []expr.Any {
	return append(loadAll(facts), &expr.Lookup{SourceRegister: firstRegister, SetName: t.sets[s].name, Invert: true})
}

// dispatch does what a map of verdicts says.
func (t *table) dispatch(s setID, facts ...load) []expr.Any {
	return append(loadAll(facts), &expr.Lookup{SourceRegister: firstRegister, SetName: t.sets[s].name, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT})
}

// mapped loads what a map holds into the first registers.
func (t *table) mapped(s setID, facts []load) []expr.Any {
	return append(loadAll(facts), &expr.Lookup{SourceRegister: firstRegister, SetName: t.sets[s].name, IsDestRegSet: true, DestRegister: firstRegister})
}

func (t *table) dnat(s setID, nfproto uint32, facts ...load) []expr.Any {
	port := uint32(firstRegister + size(t.sets[s].data[:1])/4)
	return append(t.mapped(s, facts), &expr.NAT{Type: expr.NATTypeDestNAT, Family: nfproto, RegAddrMin: firstRegister, RegProtoMin: port})
}

func (t *table) snat(s setID, nfproto uint32, facts ...load) []expr.Any {
	return append(t.mapped(s, facts), &expr.NAT{Type: expr.NATTypeSourceNAT, Family: nfproto, RegAddrMin: firstRegister})
}
