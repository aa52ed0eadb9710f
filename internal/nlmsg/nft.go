package nlmsg

import "golang.org/x/sys/unix"

// What messages of nf_tables have beside attributes: linux/netfilter/nfnetlink.h and nf_tables.h.

// Netfilter opens a message of a netfilter subsystem, about a family; resource is what nfnetlink.h calls res_id. Close it with End.
func (b *Batch) Netfilter(typ, flags uint16, family byte, resource uint16) {
	b.Begin(typ, flags)
	b.Raw(family, unix.NFNETLINK_V0, byte(resource>>8), byte(resource))
}

// NFT opens a message of nf_tables, such as NFT_MSG_NEWRULE, about a family. Close it with End.
func (b *Batch) NFT(typ, flags uint16, family byte) {
	b.Netfilter(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, family, 0)
}

// BeginTransaction opens a transaction of nf_tables: what is in it happens whole or not at all.
func (b *Batch) BeginTransaction() { b.transaction(unix.NFNL_MSG_BATCH_BEGIN) }

// EndTransaction closes it.
func (b *Batch) EndTransaction() { b.transaction(unix.NFNL_MSG_BATCH_END) }

func (b *Batch) transaction(typ uint16) {
	b.Netfilter(typ, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	b.End()
}

// Expression writes one expression of a rule, in the nest NFTA_RULE_EXPRESSIONS; data writes its attributes.
func (b *Batch) Expression(name string, data func()) {
	b.Nest(unix.NFTA_LIST_ELEM | unix.NLA_F_NESTED)
	b.String(unix.NFTA_EXPR_NAME, name)
	b.Nest(unix.NFTA_EXPR_DATA | unix.NLA_F_NESTED)
	data()
	b.EndNest()
	b.EndNest()
}

// Value writes a value as expressions and the elements of sets have it.
func (b *Batch) Value(typ uint16, v ...byte) {
	b.Nest(typ | unix.NLA_F_NESTED)
	b.Attr(unix.NFTA_DATA_VALUE, v)
	b.EndNest()
}

// MatchMeta ends a rule unless what is known beside a packet (NFT_META_…) is v.
func (b *Batch) MatchMeta(key uint32, v ...byte) {
	b.LoadMeta(key)
	b.match(v)
}

// LoadMeta loads what is known beside a packet (NFT_META_…) into the first register.
func (b *Batch) LoadMeta(key uint32) {
	b.Expression("meta", func() {
		b.Uint32BE(unix.NFTA_META_DREG, unix.NFT_REG_1)
		b.Uint32BE(unix.NFTA_META_KEY, key)
	})
}

// MatchPayload ends a rule unless v is at an offset of a packet's header (NFT_PAYLOAD_…_HEADER).
func (b *Batch) MatchPayload(base, offset uint32, v ...byte) {
	b.Expression("payload", func() {
		b.Uint32BE(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1)
		b.Uint32BE(unix.NFTA_PAYLOAD_BASE, base)
		b.Uint32BE(unix.NFTA_PAYLOAD_OFFSET, offset)
		b.Uint32BE(unix.NFTA_PAYLOAD_LEN, uint32(len(v)))
	})
	b.match(v)
}

// match ends a rule unless the first register has v.
func (b *Batch) match(v []byte) {
	b.Expression("cmp", func() {
		b.Uint32BE(unix.NFTA_CMP_SREG, unix.NFT_REG_1)
		b.Uint32BE(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ)
		b.Value(unix.NFTA_CMP_DATA, v...)
	})
}
