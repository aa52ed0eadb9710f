package nftables

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nlmsg"
	"golang.org/x/sys/unix"
)

// Messages and attributes of connection tracking, from linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet, ctDelete, ctGetStats = 1, 2, 5

	ctaOriginal, ctaReply, ctaID, ctaZone = 1, 2, 12, 18
	ctaStatsEntries                       = 1 // CTA_STATS_GLOBAL_ENTRIES

	ctaTupleIP, ctaTupleProto          = 1, 2
	ctaSource4, ctaDest4               = 1, 2
	ctaSource6, ctaDest6               = 3, 4
	ctaNumber, ctaSrcPort, ctaDestPort = 1, 2, 3
)

// flow is an entry of connection tracking. Its bytes are valid while it is being read.
type flow struct {
	original, reply tuple
	family          byte
	exact, id, zone []byte // what a deletion names
}

// tuple is one direction of a flow; ports are 0 where the protocol has none.
type tuple struct {
	proto    firewall.Proto
	src, dst netip.AddrPort
}

// flowCount is how many entries a namespace has.
func flowCount(s *nlmsg.Socket) (n uint32, err error) {
	var b nlmsg.Batch
	b.Netfilter(unix.NFNL_SUBSYS_CTNETLINK<<8|ctGetStats, unix.NLM_F_ACK, unix.AF_UNSPEC, 0)
	b.End()
	err = s.Do(&b, func(_ uint16, p []byte) {
		if v := nlmsg.Attr(p[headerLen:], ctaStatsEntries); len(v) == 4 {
			n = binary.BigEndian.Uint32(v)
		}
	})
	return n, err
}

// eachFlow reads all entries of a namespace.
func eachFlow(s *nlmsg.Socket, do func(*flow)) error {
	var b nlmsg.Batch
	b.Netfilter(unix.NFNL_SUBSYS_CTNETLINK<<8|ctGet, unix.NLM_F_DUMP|unix.NLM_F_ACK, unix.AF_UNSPEC, 0)
	b.End()
	return s.Do(&b, func(_ uint16, p []byte) {
		if len(p) < headerLen {
			return
		}
		f := flow{family: p[0]}
		for typ, v := range nlmsg.Attrs(p[headerLen:]) {
			switch typ {
			case ctaOriginal:
				f.original, f.exact = parseTuple(v), v
			case ctaReply:
				f.reply = parseTuple(v)
			case ctaID:
				f.id = v
			case ctaZone:
				f.zone = v
			}
		}
		do(&f)
	})
}

func parseTuple(p []byte) (t tuple) {
	var src, dst netip.Addr
	for typ, v := range nlmsg.Attrs(nlmsg.Attr(p, ctaTupleIP)) {
		switch typ {
		case ctaSource4, ctaSource6:
			src, _ = netip.AddrFromSlice(v)
		case ctaDest4, ctaDest6:
			dst, _ = netip.AddrFromSlice(v)
		}
	}
	var from, to uint16
	for typ, v := range nlmsg.Attrs(nlmsg.Attr(p, ctaTupleProto)) {
		switch {
		case typ == ctaNumber && len(v) == 1:
			t.proto = firewall.Proto(v[0])
		case typ == ctaSrcPort && len(v) == 2:
			from = binary.BigEndian.Uint16(v)
		case typ == ctaDestPort && len(v) == 2:
			to = binary.BigEndian.Uint16(v)
		}
	}
	t.src, t.dst = netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to)
	return t
}

// delete writes the message that ends exactly this flow: one that has the same addresses and began later has another id.
func (f *flow) delete(b *nlmsg.Batch) {
	b.Netfilter(unix.NFNL_SUBSYS_CTNETLINK<<8|ctDelete, unix.NLM_F_ACK, f.family, 0)
	b.Attr(ctaOriginal|unix.NLA_F_NESTED, f.exact)
	b.Attr(ctaID, f.id)
	if f.zone != nil {
		b.Attr(ctaZone, f.zone)
	}
	b.End()
}

// deleteFlows sends deletions; flows that ended by themselves meanwhile are well.
func deleteFlows(s *nlmsg.Socket, b *nlmsg.Batch) error {
	var failed []error
	err := s.Do(b, nil)
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	for _, err := range all {
		if !errors.Is(err, unix.ENOENT) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
