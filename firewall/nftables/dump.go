package nftables

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nlmsg"
	"golang.org/x/sys/unix"
)

const headerLen = 4 // struct nfgenmsg

// request sends one message that asks for something and gives each answer's attributes to reply.
func (t *table) request(family byte, typ, flags uint16, write func(*nlmsg.Batch), reply func(typ uint16, attrs []byte)) error {
	var b nlmsg.Batch
	b.Netfilter(typ, flags|unix.NLM_F_ACK, family, 0)
	write(&b)
	b.End()
	return t.socket.Do(&b, func(typ uint16, p []byte) {
		if len(p) >= headerLen && reply != nil {
			reply(typ, p[headerLen:])
		}
	})
}

// found reads the table's own record: whether it exists and whether it is of this revision of the rules.
func (t *table) found() (exists, current bool, err error) {
	err = t.request(unix.NFPROTO_INET, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE, 0, func(b *nlmsg.Batch) {
		b.String(unix.NFTA_TABLE_NAME, t.name)
	}, func(_ uint16, attrs []byte) {
		current = uncomment(nlmsg.Attr(attrs, attrTableUserdata)) == t.revision
	})
	if errors.Is(err, unix.ENOENT) {
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("look for table inet %s: %w", t.name, kinded(err))
	}
	return true, current, nil
}

// dump reads all elements; none when there is no table.
func (t *table) dump() ([]element, error) {
	var all []element
	for s := range t.sets {
		elements, err := t.dumpSet(setID(s))
		if err != nil {
			return nil, fmt.Errorf("read set %s of table inet %s: %w", t.sets[s].name, t.name, kinded(err))
		}
		all = append(all, elements...)
	}
	return all, nil
}

// dumpSet reads a set. The kernel tells a big one in pieces, and finds the beginning of the next piece by counting: while it rehashes a set
// that has just grown or shrunk, some elements may come twice and others not at all. So what came in pieces is read until the same came
// twice.
func (t *table) dumpSet(s setID) ([]element, error) {
	const patience = 20
	var last []element
	for range patience {
		elements, pieces, err := t.dumpOnce(s)
		if err != nil || pieces <= 1 {
			return elements, err
		}
		if last != nil && len(elements) == len(last) && len(except(elements, last)) == 0 {
			return elements, nil
		}
		last = elements
	}
	return nil, fmt.Errorf("it changed all the time: %w", errdefs.ErrUnavailable)
}

func (t *table) dumpOnce(s setID) (elements []element, pieces int, err error) {
	d := &t.sets[s]
	err = t.request(unix.NFPROTO_INET, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, func(b *nlmsg.Batch) {
		b.String(unix.NFTA_SET_ELEM_LIST_TABLE, t.name)
		b.String(unix.NFTA_SET_ELEM_LIST_SET, d.name)
	}, func(_ uint16, attrs []byte) {
		pieces++
		for _, p := range nlmsg.Attrs(nlmsg.Attr(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			elements = append(elements, decode(s, d, p))
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, 0, nil // no table, or one of another revision
	}
	return unique(elements), pieces, err
}

// decode reads one element.
func decode(s setID, d *definition, attrs []byte) element {
	e := element{place: place{set: s}}
	for typ, p := range nlmsg.Attrs(attrs) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			copy(e.key[:], nlmsg.Attr(p, unix.NFTA_DATA_VALUE))
		case attrElemKeyEnd:
			copy(e.end[:], nlmsg.Attr(p, unix.NFTA_DATA_VALUE))
		case unix.NFTA_SET_ELEM_DATA:
			if len(d.data) == 1 && d.data[0] == verdict {
				copy(e.data[:], text(nlmsg.Attr(nlmsg.Attr(p, unix.NFTA_DATA_VERDICT), unix.NFTA_VERDICT_CHAIN)))
			} else {
				copy(e.data[:], nlmsg.Attr(p, unix.NFTA_DATA_VALUE))
			}
		case unix.NFTA_SET_ELEM_USERDATA:
			e.note = uncomment(p)
		}
	}
	return e
}
