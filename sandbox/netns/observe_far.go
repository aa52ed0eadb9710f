package netns

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// questions is how many are asked at once: the answers must fit into the socket's receive buffer.
const questions = 32

// farEnds says of the host's veths, and of those tied to a bridge in a namespace of ours, which namespace of ours the other end is in, and
// what it is called there, or what addresses it has in somebody else's. The kernel tells a number for the namespace, and the number of each
// namespace of ours when it is asked.
func (o *observer) farEnds(links []seen) (map[uint32]sandbox.Veth, error) {
	links = slices.DeleteFunc(slices.Clone(links), func(l seen) bool {
		_, ours := o.owners[l.index]
		return !ours || l.kind != "veth" || l.space == nil || !o.n.host && l.master == 0
	})
	if !o.n.host && !o.n.ours || len(links) == 0 {
		return nil, nil
	}
	keys, err := o.spaces()
	if err != nil {
		return nil, err
	}
	far := make(map[uint32]sandbox.Veth, len(links))
	for some := range slices.Chunk(links, questions) {
		var b nlmsg.Batch
		for _, l := range some {
			askLink(&b, l.space, l.link)
		}
		b.Acknowledge()
		there := make(map[[2]uint32]seen, len(some)) // by what tells a veth: its own index and that of its other end
		err := o.s.Do(&b, func(typ uint16, p []byte) {
			if typ == unix.RTM_NEWLINK {
				l := parseLink(p)
				there[[2]uint32{l.index, l.link}] = l
			}
		})
		if _, err := nlmsg.Refusals(err); err != nil { // one that has just gone is refused
			return nil, fmt.Errorf("look at far ends: %w", err)
		}
		for _, l := range some {
			end, ok := there[[2]uint32{l.link, l.index}]
			if key := keys[number(l.space)]; ok && key != "" {
				far[l.index] = sandbox.Veth{Space: key, Peer: end.name}
			} else if ok {
				addrs, err := o.addrsIn(l.space, l.link)
				if err != nil {
					return nil, err
				}
				far[l.index] = sandbox.Veth{Addrs: addrs}
			}
		}
	}
	return far, nil
}

// addrsIn are the addresses of a link in the namespace with a number, but for link-local ones. None, when the namespace has just ended.
func (o *observer) addrsIn(space []byte, index uint32) (addrs []netip.Prefix, err error) {
	const targetNSID = 10 // IFA_TARGET_NETNSID
	// Otherwise the kernel takes a question for one about all links here.
	if err := unix.SetsockoptInt(o.s.FD(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
		return nil, fmt.Errorf("ask for some addresses: %w", err)
	}
	defer unix.SetsockoptInt(o.s.FD(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 0)
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		var b nlmsg.Batch
		b.Begin(unix.RTM_GETADDR, unix.NLM_F_DUMP|unix.NLM_F_ACK)
		h := [unix.SizeofIfAddrmsg]byte{family}
		binary.NativeEndian.PutUint32(h[4:], index)
		b.Raw(h[:]...)
		b.Attr(targetNSID, space)
		b.End()
		err := o.s.Do(&b, func(_ uint16, p []byte) {
			if p, ok := parseAddr(p); ok && !p.Addr().IsLinkLocalUnicast() {
				addrs = append(addrs, p)
			}
		})
		if _, err := nlmsg.Refusals(err); err != nil {
			return nil, fmt.Errorf("list addresses of a far end: %w", err)
		}
	}
	return addrs, nil
}

// parseAddr reads an RTM_NEWADDR message. IFA_LOCAL is the address itself where that differs from the other end's.
func parseAddr(p []byte) (netip.Prefix, bool) {
	if len(p) < unix.SizeofIfAddrmsg {
		return netip.Prefix{}, false
	}
	attrs := p[unix.SizeofIfAddrmsg:]
	raw := nlmsg.Attr(attrs, unix.IFA_LOCAL)
	if raw == nil {
		raw = nlmsg.Attr(attrs, unix.IFA_ADDRESS)
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, int(p[1])), ok
}

// spaces are the keys of our namespaces by the numbers that the host's has for them.
func (o *observer) spaces() (map[uint32]string, error) {
	const getNSID, attrNSID, attrFD = unix.RTM_GETNSID, 1, 3 // NETNSA_NSID, NETNSA_FD
	ids, err := o.n.p.List(context.Background())
	if err != nil {
		return nil, err
	}
	keys := make(map[uint32]string, len(ids))
	for _, id := range ids {
		key := filepath.Join(o.n.p.names, string(id))
		fd, err := openFile(key)
		if err != nil {
			continue // it has just been removed
		}
		var b nlmsg.Batch
		b.Begin(getNSID, unix.NLM_F_ACK)
		b.Raw(unix.AF_UNSPEC)
		b.Uint32(attrFD, uint32(fd))
		b.End()
		err = o.s.Do(&b, func(_ uint16, p []byte) {
			const fixed = 4 // struct rtgenmsg, padded
			if len(p) < fixed {
				return
			}
			if n := nlmsg.Attr(p[fixed:], attrNSID); len(n) == 4 && int32(binary.NativeEndian.Uint32(n)) >= 0 {
				keys[number(n)] = key
			}
		})
		unix.Close(fd)
		if _, err := nlmsg.Refusals(err); err != nil { // what is there is no namespace any more
			return nil, fmt.Errorf("number namespaces: %w", err)
		}
	}
	return keys, nil
}
