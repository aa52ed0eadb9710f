package netns

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// expect remembers what an owner is to have in a namespace of a network's own, known by its bridge. It is called before the deed, so that
// what we do ourselves is never a surprise.
func (n *Namespace) expect(owner string, want sandbox.Config) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.wanted == nil {
		if n.host || !n.ours || !slices.ContainsFunc(want.Links, func(l sandbox.Link) bool { return l.Bridge != nil }) {
			return
		}
		n.wanted = map[string]sandbox.Config{}
	}
	if n.wanted[owner] = want; len(want.Links) == 0 {
		delete(n.wanted, owner)
	}
}

// hurt reads who lost a link or an entry by what a message tells, or has one that is not as wanted.
func (n *Namespace) hurt(message []byte) (owner string, ours bool) {
	if len(message) < unix.SizeofNlMsghdr {
		return "", false
	}
	typ, p := binary.NativeEndian.Uint16(message[4:]), message[unix.SizeofNlMsghdr:]
	if typ == unix.RTM_DELLINK {
		l := parseLink(p)
		if n.p.groups.isDead(l.group) {
			return "", false
		}
		if owner, marked := n.p.owner(l.alias); marked {
			return owner, true
		}
		return n.whose(func(w sandbox.Link) bool { return w.Name == l.name })
	}
	if len(p) < ndmLen {
		return "", false
	}
	told, is := parseEntry(p)
	if !is {
		return "", false
	}
	gone := typ == unix.RTM_DELNEIGH
	return n.whose(func(w sandbox.Link) bool {
		return slices.ContainsFunc(w.Entries, func(e sandbox.Entry) bool { return told.hurts(e, gone) })
	})
}

// whose finds the owner of a link that is like this.
func (n *Namespace) whose(is func(sandbox.Link) bool) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for owner, c := range n.wanted {
		if slices.ContainsFunc(c.Links, is) {
			return owner, true
		}
	}
	return "", false
}

// told is an entry, or half of one, that came or went.
type told struct {
	sandbox.Entry
	half bool // of the bridge: it does not say where the tunnel leads
}

// parseEntry reads a neighbour or forwarding message. What the kernel learnt by itself is none.
func parseEntry(p []byte) (told, bool) {
	m, a := ndmsg(p[:ndmLen]), attrsOf(p[ndmLen:])
	addr, _ := netip.AddrFromSlice(a[unix.NDA_DST])
	e := told{Entry: sandbox.Entry{MAC: slices.Clone(a[unix.NDA_LLADDR])}}
	switch {
	case m.family() != unix.AF_BRIDGE && m.state()&unix.NUD_PERMANENT != 0:
		e.Addr = addr
		return e, addr.IsValid()
	case m.family() != unix.AF_BRIDGE:
		e.Addr = addr // a neighbour that was permanent and is not any more says so by its state
		e.MAC = nil
		return e, addr.IsValid()
	case a[unix.NDA_MASTER] != nil:
		e.half = true
		return e, len(e.MAC) != 0
	}
	e.Via = addr
	return e, len(e.MAC) != 0
}

// hurts says whether a wanted entry is not as it should be after what was told.
func (t told) hurts(want sandbox.Entry, gone bool) bool {
	if t.Addr.IsValid() {
		return want.Addr == t.Addr && (gone || !bytes.Equal(want.MAC, t.MAC))
	}
	if !want.Via.IsValid() || !bytes.Equal(want.MAC, t.MAC) {
		return false
	}
	return gone || !t.half && want.Via != t.Via
}
