// Package nlmsg writes netlink messages by hand and sends many of them in one system call.
//
// It exists for the few messages on the path of an attach, where a general library costs ten times the kernel's own work
// (6 µs against 24 for one set element). Everything off that path uses vishvananda/netlink and google/nftables. The layouts are those of
// netlink(7), rtnetlink(7) and linux/netfilter/nfnetlink.h.
package nlmsg

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const (
	headerLen = unix.SizeofNlMsghdr
	align     = 4
)

// Batch is a sequence of messages under construction. The zero value is empty; Reset keeps its memory. Not safe for concurrent use.
type Batch struct {
	buf   []byte
	start int   // of the message being written
	nests []int // offsets of open nested attributes
	count int
}

// Reset empties the batch for reuse.
func (b *Batch) Reset() { b.buf, b.nests, b.count = b.buf[:0], b.nests[:0], 0 }

// Len is the number of messages begun.
func (b *Batch) Len() int { return b.count }

// Size is the number of bytes written.
func (b *Batch) Size() int { return len(b.buf) }

// Bytes is the batch as it goes to the kernel, valid until the next change. Sequence numbers count from 1 in the order of Begin until
// a Socket stamps its own.
func (b *Batch) Bytes() []byte { return b.buf }

// Begin opens a message; flags are NLM_F_…, NLM_F_REQUEST is added.
func (b *Batch) Begin(typ, flags uint16) {
	b.start = len(b.buf)
	b.count++
	b.buf = append(b.buf, make([]byte, headerLen)...)
	h := b.buf[b.start:]
	binary.NativeEndian.PutUint16(h[4:], typ)
	binary.NativeEndian.PutUint16(h[6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(h[8:], uint32(b.count))
}

// End closes the message. Open nests are a programmer's mistake and panic.
func (b *Batch) End() {
	if len(b.nests) != 0 {
		panic("nlmsg: End with an open nest")
	}
	binary.NativeEndian.PutUint32(b.buf[b.start:], uint32(len(b.buf)-b.start))
}

// Append adds whole messages that were made before, n of them.
func (b *Batch) Append(messages []byte, n int) {
	b.buf = append(b.buf, messages...)
	b.count += n
}

// Raw writes the fixed part that follows the header, such as a struct ifinfomsg; it is padded to four bytes.
func (b *Batch) Raw(p ...byte) {
	b.buf = append(b.buf, p...)
	b.pad()
}

// Attr writes one attribute.
func (b *Batch) Attr(typ uint16, p []byte) {
	b.attrHeader(typ, len(p))
	b.buf = append(b.buf, p...)
	b.pad()
}

// String writes an attribute that ends with a zero byte.
func (b *Batch) String(typ uint16, s string) {
	b.attrHeader(typ, len(s)+1)
	b.buf = append(b.buf, s...)
	b.buf = append(b.buf, 0)
	b.pad()
}

// Uint8 writes an attribute of one byte.
func (b *Batch) Uint8(typ uint16, v uint8) {
	b.attrHeader(typ, 1)
	b.buf = append(b.buf, v)
	b.pad()
}

// Uint16 writes an attribute of two bytes in the machine's order.
func (b *Batch) Uint16(typ uint16, v uint16) {
	b.attrHeader(typ, 2)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, v)
	b.pad()
}

// Uint32 writes an attribute of four bytes in the machine's order.
func (b *Batch) Uint32(typ uint16, v uint32) {
	b.attrHeader(typ, 4)
	b.buf = binary.NativeEndian.AppendUint32(b.buf, v)
}

// Uint32BE writes an attribute of four bytes in network order, as nfnetlink wants most of its numbers.
func (b *Batch) Uint32BE(typ uint16, v uint32) {
	b.attrHeader(typ, 4)
	b.buf = binary.BigEndian.AppendUint32(b.buf, v)
}

// Nest opens an attribute that holds attributes; typ carries NLA_F_NESTED where the kernel wants it. Close it with EndNest.
func (b *Batch) Nest(typ uint16) {
	b.nests = append(b.nests, len(b.buf))
	b.attrHeader(typ, 0)
}

// EndNest closes the innermost Nest.
func (b *Batch) EndNest() {
	last := len(b.nests) - 1
	at := b.nests[last]
	b.nests = b.nests[:last]
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(len(b.buf)-at))
}

func (b *Batch) attrHeader(typ uint16, n int) {
	b.buf = binary.NativeEndian.AppendUint16(b.buf, uint16(n+unix.SizeofRtAttr))
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ)
}

func (b *Batch) pad() {
	for len(b.buf)%align != 0 {
		b.buf = append(b.buf, 0)
	}
}

// Acknowledge has the last message ask for an acknowledgement. Refusals of the others are told unasked, so one is enough to know the
// fate of a whole rtnetlink batch.
func (b *Batch) Acknowledge() {
	for rest := b.buf; len(rest) >= headerLen; {
		n := binary.NativeEndian.Uint32(rest)
		if int(n) >= len(rest) {
			binary.NativeEndian.PutUint16(rest[6:], binary.NativeEndian.Uint16(rest[6:])|unix.NLM_F_ACK)
		}
		rest = rest[n:]
	}
}
