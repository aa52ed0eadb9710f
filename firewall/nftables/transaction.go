package nftables

import (
	"errors"
	"fmt"

	"github.com/google/nftables/expr"
	"github.com/sealane/sealane/internal/nlmsg"
	"golang.org/x/sys/unix"
)

// Attributes that x/sys/unix has no names for, from linux/netfilter/nf_tables.h.
const (
	attrTableUserdata = 6  // NFTA_TABLE_USERDATA
	attrSetDescConcat = 2  // NFTA_SET_DESC_CONCAT
	attrSetFieldLen   = 1  // NFTA_SET_FIELD_LEN
	attrElemKeyEnd    = 10 // NFTA_SET_ELEM_KEY_END
	setFlagConcat     = 0x80
	verdictAccept     = 1 // NF_ACCEPT
)

// transaction is a batch that the kernel does whole or not at all. Not safe for concurrent use.
type transaction struct {
	t     *table
	batch nlmsg.Batch
	sets  uint32
	// elements are those added and deleted, in the order of their messages, of which the first has the number first.
	elements []element
	first    int
}

// begin starts the next transaction in the memory of the last.
func (tx *transaction) begin() {
	tx.batch.Reset()
	tx.elements, tx.sets = tx.elements[:0], 0
	tx.batch.BeginTransaction()
}

// commit sends it. The kernel's refusal of an element is a *refusal.
func (tx *transaction) commit() error {
	tx.batch.Acknowledge()
	tx.batch.EndTransaction()
	err := tx.t.socket.Do(&tx.batch, nil)
	var refused *nlmsg.Error
	if !errors.As(err, &refused) {
		return err
	}
	if i := refused.Index - tx.first; len(tx.elements) > 0 && i >= 0 && i < len(tx.elements) {
		return &refusal{element: tx.elements[i], err: refused}
	}
	return refused
}

// refusal is the kernel's, of one element.
type refusal struct {
	element element
	err     *nlmsg.Error
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %v", &r.element, r.err) }
func (r *refusal) Unwrap() error { return r.err }

// nft opens a message of nf_tables about our table, whose name is the first attribute of all of them.
func (tx *transaction) nft(typ, flags uint16) {
	tx.batch.NFT(typ, flags, unix.NFPROTO_INET)
	tx.batch.String(unix.NFTA_TABLE_NAME, tx.t.name)
}

// add adds elements and del deletes them.
func (tx *transaction) add(elements []element) {
	tx.change(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, elements)
}
func (tx *transaction) del(elements []element) { tx.change(unix.NFT_MSG_DELSETELEM, 0, elements) }

func (tx *transaction) change(typ, flags uint16, elements []element) {
	if len(tx.elements) == 0 {
		tx.first = tx.batch.Len()
	}
	tx.elements = append(tx.elements, elements...)
	for i := range elements {
		// A message each: then the kernel says which one it refuses, on every kernel.
		tx.nft(typ, flags)
		tx.element(&elements[i], typ == unix.NFT_MSG_NEWSETELEM)
		tx.batch.End()
	}
}

func (tx *transaction) element(e *element, whole bool) {
	b, d := &tx.batch, &tx.t.sets[e.set]
	b.String(unix.NFTA_SET_ELEM_LIST_SET, d.name)
	b.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS | unix.NLA_F_NESTED)
	b.Nest(unix.NFTA_LIST_ELEM | unix.NLA_F_NESTED)
	b.Value(unix.NFTA_SET_ELEM_KEY, e.key[:size(d.key)]...)
	if d.interval {
		b.Value(attrElemKeyEnd, e.end[:size(d.key)]...)
	}
	if whole {
		tx.data(e, d.data)
		if e.note != "" {
			b.Attr(unix.NFTA_SET_ELEM_USERDATA, comment(e.note))
		}
	}
	b.EndNest()
	b.EndNest()
}

func (tx *transaction) data(e *element, fields []field) {
	switch {
	case len(fields) == 0:
	case fields[0] == verdict:
		tx.batch.Nest(unix.NFTA_SET_ELEM_DATA | unix.NLA_F_NESTED)
		tx.batch.Nest(unix.NFTA_DATA_VERDICT | unix.NLA_F_NESTED)
		code := int32(expr.VerdictGoto)
		tx.batch.Uint32BE(unix.NFTA_VERDICT_CODE, uint32(code))
		tx.batch.String(unix.NFTA_VERDICT_CHAIN, text(e.data[:]))
		tx.batch.EndNest()
		tx.batch.EndNest()
	default:
		tx.batch.Value(unix.NFTA_SET_ELEM_DATA, e.data[:size(fields)]...)
	}
}

// comment is a text in the form in which nft keeps comments of elements, tables and rules.
func comment(s string) []byte {
	const udataComment = 0
	return append(append([]byte{udataComment, byte(len(s) + 1)}, s...), 0)
}

// uncomment is the text of a comment, "" when there is none.
func uncomment(udata []byte) string {
	for len(udata) >= 2 && len(udata) >= 2+int(udata[1]) {
		typ, value := udata[0], udata[2:2+int(udata[1])]
		if typ == 0 {
			return text(value)
		}
		udata = udata[2+len(value):]
	}
	return ""
}

// create makes the table with its chains, sets and rules, and revision for a comment. A table of this name that exists is refused.
func (tx *transaction) create(revision string) error {
	tx.nft(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	tx.batch.Attr(attrTableUserdata, comment(revision))
	tx.batch.End()
	for s := range tx.t.sets {
		tx.createSet(&tx.t.sets[s])
	}
	chains := tx.t.chains()
	for _, c := range chains {
		tx.createChain(c)
	}
	for _, c := range chains {
		for _, r := range c.rules {
			if err := tx.createRule(c.name, r); err != nil {
				return fmt.Errorf("chain %s: %w", c.name, err)
			}
		}
	}
	return nil
}

func (tx *transaction) createSet(d *definition) {
	var flags uint32
	b := &tx.batch
	tx.sets++
	tx.nft(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE)
	b.String(unix.NFTA_SET_NAME, d.name)
	b.Uint32BE(unix.NFTA_SET_ID, tx.sets)
	b.Uint32BE(unix.NFTA_SET_KEY_TYPE, typeOf(d.key))
	b.Uint32BE(unix.NFTA_SET_KEY_LEN, uint32(size(d.key)))
	if len(d.data) > 0 {
		flags |= unix.NFT_SET_MAP
		b.Uint32BE(unix.NFTA_SET_DATA_TYPE, typeOf(d.data))
		b.Uint32BE(unix.NFTA_SET_DATA_LEN, uint32(size(d.data)))
	}
	if d.interval {
		flags |= unix.NFT_SET_INTERVAL | setFlagConcat
		b.Nest(unix.NFTA_SET_DESC | unix.NLA_F_NESTED)
		b.Nest(attrSetDescConcat | unix.NLA_F_NESTED)
		for _, f := range d.key {
			b.Nest(unix.NFTA_LIST_ELEM | unix.NLA_F_NESTED)
			b.Uint32BE(attrSetFieldLen, uint32(f.len))
			b.EndNest()
		}
		b.EndNest()
		b.EndNest()
	}
	b.Uint32BE(unix.NFTA_SET_FLAGS, flags)
	if d.origin != nil {
		b.Attr(unix.NFTA_SET_USERDATA, d.origin)
	} else {
		b.Attr(unix.NFTA_SET_USERDATA, byteOrders())
	}
	b.End()
}

// byteOrders tells nft how to print keys and data that have one field: names as they stand, addresses in network order. The kernel does not
// look at it.
func byteOrders() []byte {
	const udataKey, udataData, host, network = 0, 1, 1, 2
	p := append([]byte{udataKey, 4}, native32(host)...)
	return append(append(p, udataData, 4), native32(network)...)
}

func (tx *transaction) createChain(c chain) {
	b := &tx.batch
	tx.nft(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
	b.String(unix.NFTA_CHAIN_NAME, c.name)
	if c.kind != "" {
		b.Nest(unix.NFTA_CHAIN_HOOK | unix.NLA_F_NESTED)
		b.Uint32BE(unix.NFTA_HOOK_HOOKNUM, c.hook)
		b.Uint32BE(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
		b.EndNest()
		b.Uint32BE(unix.NFTA_CHAIN_POLICY, verdictAccept)
		b.String(unix.NFTA_CHAIN_TYPE, c.kind)
	}
	b.End()
}

func (tx *transaction) createRule(chain string, rule []expr.Any) error {
	tx.nft(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	tx.batch.String(unix.NFTA_RULE_CHAIN, chain)
	err := tx.expressions(unix.NFPROTO_INET, rule)
	tx.batch.End()
	return err
}

func (tx *transaction) expressions(family byte, rule []expr.Any) error {
	tx.batch.Nest(unix.NFTA_RULE_EXPRESSIONS | unix.NLA_F_NESTED)
	defer tx.batch.EndNest()
	for _, e := range rule {
		p, err := expr.Marshal(family, e)
		if err != nil {
			return fmt.Errorf("expression %T: %w", e, err)
		}
		tx.batch.Attr(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, p)
	}
	return nil
}

// remove deletes the table with all that is in it.
func (tx *transaction) remove() {
	tx.nft(unix.NFT_MSG_DELTABLE, 0)
	tx.batch.End()
}
