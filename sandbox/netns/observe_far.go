package netns

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// questions is how many are asked at once: the answers must fit into the socket's receive buffer.
const questions = 32

// farEnds says of the host's veths which namespace of ours the other end is in, and what it is called there. The kernel tells a number
// for the namespace, and the number of each namespace of ours when it is asked.
func (o *observer) farEnds(links []seen) (map[uint32]sandbox.Veth, error) {
	links = slices.DeleteFunc(slices.Clone(links), func(l seen) bool {
		_, ours := o.owners[l.index]
		return !ours || l.kind != "veth" || l.space == nil
	})
	if !o.n.host || len(links) == 0 {
		return nil, nil
	}
	keys, err := o.spaces()
	if err != nil {
		return nil, err
	}
	links = slices.DeleteFunc(links, func(l seen) bool { return keys[number(l.space)] == "" })
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
			if end, ok := there[[2]uint32{l.link, l.index}]; ok {
				far[l.index] = sandbox.Veth{Space: keys[number(l.space)], Peer: end.name}
			}
		}
	}
	return far, nil
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
