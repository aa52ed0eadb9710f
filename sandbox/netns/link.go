package netns

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"

	"github.com/sealane/sealane/internal/nlmsg"
	"golang.org/x/sys/unix"
)

// skipStats is RTEXT_FILTER_SKIP_STATS: counters are half of what the kernel says of a link.
const skipStats = 1 << 3

// seen is a link as the kernel tells of it.
type seen struct {
	index, flags, group, mtu uint32
	master, link             uint32 // indexes; link is in the namespace with number space, if that is told
	space                    []byte
	name, alias, kind, ports string // ports is the kind of master it is a port of
	mac                      net.HardwareAddr
	genMode                  byte   // how link-local addresses are made
	ipv6                     bool   // whether genMode was told
	data, port               []byte // attributes of the kind, and of the port
}

// look asks for one link, by index, or by name when that is 0.
func look(s *nlmsg.Socket, index uint32, name string) (seen, error) {
	var b nlmsg.Batch
	beginLink(&b, unix.RTM_GETLINK, unix.NLM_F_ACK, index, 0, 0)
	if index == 0 {
		b.String(unix.IFLA_IFNAME, name)
	}
	b.Uint32(unix.IFLA_EXT_MASK, skipStats)
	b.End()
	var found seen
	err := s.Do(&b, func(typ uint16, p []byte) {
		if typ == unix.RTM_NEWLINK {
			found = parseLink(p)
		}
	})
	if err != nil {
		return seen{}, fmt.Errorf("look at link %s: %w", name, err)
	}
	return found, nil
}

// listLinks asks for all links.
func listLinks(s *nlmsg.Socket) ([]seen, error) {
	var b nlmsg.Batch
	beginLink(&b, unix.RTM_GETLINK, unix.NLM_F_ACK|unix.NLM_F_DUMP, 0, 0, 0)
	b.Uint32(unix.IFLA_EXT_MASK, skipStats)
	b.End()
	var all []seen
	err := s.Do(&b, func(typ uint16, p []byte) {
		if typ == unix.RTM_NEWLINK {
			all = append(all, parseLink(p))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return all, nil
}

// parseLink reads an RTM_NEWLINK or RTM_DELLINK message.
func parseLink(p []byte) seen {
	if len(p) < ifiLen {
		return seen{}
	}
	l := seen{index: binary.NativeEndian.Uint32(p[4:]), flags: binary.NativeEndian.Uint32(p[8:])}
	for typ, v := range nlmsg.Attrs(p[ifiLen:]) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(v)
		case unix.IFLA_IFALIAS:
			l.alias = unix.ByteSliceToString(v)
		case unix.IFLA_GROUP:
			l.group = number(v)
		case unix.IFLA_MTU:
			l.mtu = number(v)
		case unix.IFLA_MASTER:
			l.master = number(v)
		case unix.IFLA_LINK:
			l.link = number(v)
		case unix.IFLA_LINK_NETNSID:
			l.space = slices.Clone(v)
		case unix.IFLA_ADDRESS:
			l.mac = slices.Clone(v)
		case unix.IFLA_LINKINFO:
			l.parseInfo(v)
		case unix.IFLA_AF_SPEC:
			mode := nlmsg.Attr(nlmsg.Attr(v, unix.AF_INET6), unix.IFLA_INET6_ADDR_GEN_MODE)
			if l.ipv6 = len(mode) == 1; l.ipv6 {
				l.genMode = mode[0]
			}
		}
	}
	return l
}

func (l *seen) parseInfo(p []byte) {
	for typ, v := range nlmsg.Attrs(p) {
		switch typ {
		case unix.IFLA_INFO_KIND:
			l.kind = unix.ByteSliceToString(v)
		case unix.IFLA_INFO_DATA:
			l.data = slices.Clone(v)
		case unix.IFLA_INFO_SLAVE_KIND:
			l.ports = unix.ByteSliceToString(v)
		case unix.IFLA_INFO_SLAVE_DATA:
			l.port = slices.Clone(v)
		}
	}
}

// number reads an attribute of one, two or four bytes in the machine's order; 0 when it is not there.
func number(p []byte) uint32 {
	switch len(p) {
	case 1:
		return uint32(p[0])
	case 2:
		return uint32(binary.NativeEndian.Uint16(p))
	case 4:
		return binary.NativeEndian.Uint32(p)
	}
	return 0
}
