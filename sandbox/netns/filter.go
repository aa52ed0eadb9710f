package netns

import (
	"encoding/binary"
	"math/bits"

	"golang.org/x/sys/unix"
)

// The filters of a watching socket are classic BPF programs, so that the kernel wakes nobody for news that concern nobody. They load in
// network order what netlink writes in the machine's.

// rest is a jump to the end of a case, where the news is dropped.
const rest = 0xff

// match is the program that lets pass what passes one of the cases. A case is instructions that fall through when it applies.
func match(cases ...[]unix.SockFilter) []unix.SockFilter {
	var program []unix.SockFilter
	for _, c := range cases {
		for i, in := range c {
			if in.Code&0x07 == unix.BPF_JMP {
				toNext := uint8(len(c) - i) // over what is left and the return
				if in.Jt == rest {
					in.Jt = toNext
				}
				if in.Jf == rest {
					in.Jf = toNext
				}
			}
			program = append(program, in)
		}
		program = append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)})
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K})
}

// all is a case of several conditions.
func all(conditions ...[]unix.SockFilter) (c []unix.SockFilter) {
	for _, one := range conditions {
		c = append(c, one...)
	}
	return c
}

// ofType applies to messages of one netlink type.
func ofType(typ uint16) []unix.SockFilter {
	if littleEndian() {
		typ = bits.ReverseBytes16(typ)
	}
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: rest, K: uint32(typ)},
	}
}

// ofFamily applies to messages about one family.
func ofFamily(family uint8) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: unix.SizeofNlMsghdr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: rest, K: uint32(family)},
	}
}

// notFrom applies to what was not asked for by the socket with this port.
func notFrom(port uint32) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 12},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: rest, K: inNetworkOrder(port)},
	}
}

// ofIndex applies to messages about one link.
func ofIndex(index uint32) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: unix.SizeofNlMsghdr + 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: rest, K: inNetworkOrder(index)},
	}
}

// isDown applies to news of a link that is not up.
func isDown() []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: unix.SizeofNlMsghdr + 8},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jt: rest, K: inNetworkOrder(unix.IFF_UP)},
	}
}

// ofLink finds an attribute of a link message and loads a part of its value; what has none does not apply.
func ofLink(typ uint16, size uint16, at uint32) []unix.SockFilter {
	const find = 1<<32 - 0x1000 + 12 // SKF_AD_OFF + SKF_AD_NLATTR
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_IMM, K: unix.SizeofNlMsghdr + ifiLen},
		{Code: unix.BPF_LDX | unix.BPF_IMM, K: uint32(typ)},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: find},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: rest},
		{Code: unix.BPF_MISC | unix.BPF_TAX},
		{Code: unix.BPF_LD | size | unix.BPF_IND, K: unix.SizeofRtAttr + at},
	}
}

// ofInstances applies to links with the alias of an instance of sealane, not only ours.
func ofInstances() []unix.SockFilter {
	const head = "sealane:"
	return all(
		ofLink(unix.IFLA_IFALIAS, unix.BPF_W, 0),
		[]unix.SockFilter{{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: rest, K: binary.BigEndian.Uint32([]byte(head))}},
		ofLink(unix.IFLA_IFALIAS, unix.BPF_W, 4),
		[]unix.SockFilter{{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: rest, K: binary.BigEndian.Uint32([]byte(head[4:]))}},
	)
}

// notOf applies to links in none of the groups.
func notOf(g groups) []unix.SockFilter {
	return append(ofLink(unix.IFLA_GROUP, unix.BPF_W, 0),
		unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: inNetworkOrder(^uint32(groupCount - 1))},
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: rest, K: inNetworkOrder(g.making)})
}

// isUp applies to links that can send.
func isUp() []unix.SockFilter {
	const operUp = 6 // IF_OPER_UP
	return append(ofLink(unix.IFLA_OPERSTATE, unix.BPF_B, 0), unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: rest, K: operUp})
}

func inNetworkOrder(n uint32) uint32 {
	if littleEndian() {
		return bits.ReverseBytes32(n)
	}
	return n
}

func littleEndian() bool { return binary.NativeEndian.Uint16([]byte{1, 0}) == 1 }
