package nlmsg

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// Attrs goes through the attributes in p, which is what follows the fixed part of a message or the payload of a nested attribute. Types
// come without the nesting and byte order bits. It ends at the first that does not fit.
func Attrs(p []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(p) >= unix.SizeofRtAttr {
			n := int(binary.NativeEndian.Uint16(p))
			if n < unix.SizeofRtAttr || n > len(p) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(p[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), p[unix.SizeofRtAttr:n]) {
				return
			}
			p = p[min((n+align-1)&^(align-1), len(p)):]
		}
	}
}

// Attr finds one attribute in p; nil when it is not there.
func Attr(p []byte, typ uint16) []byte {
	for t, v := range Attrs(p) {
		if t == typ {
			return v
		}
	}
	return nil
}
