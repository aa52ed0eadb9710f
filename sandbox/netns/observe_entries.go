package netns

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// ndmsg is the fixed part of a neighbour message, struct ndmsg.
type ndmsg []byte

const ndmLen = 12

func (m ndmsg) family() byte  { return m[0] }
func (m ndmsg) index() uint32 { return binary.NativeEndian.Uint32(m[4:]) }
func (m ndmsg) state() uint16 { return binary.NativeEndian.Uint16(m[8:]) }

// entries are the permanent neighbours of bridges and the forwarding entries of tunnels, by the index of the link. Only a namespace of a
// network's own has such.
func (o *observer) entries(links []seen) (map[uint32][]sandbox.Entry, error) {
	kinds := make(map[uint32]string)
	for _, l := range links {
		if l.kind == "bridge" || l.kind == "vxlan" {
			kinds[l.index] = l.kind
		}
	}
	if o.n.host || len(kinds) == 0 {
		return nil, nil
	}
	all := make(map[uint32][]sandbox.Entry)
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		err := o.dump(unix.RTM_GETNEIGH, family, ndmLen, func(h []byte, a map[uint16][]byte) {
			m := ndmsg(h)
			addr, ok := netip.AddrFromSlice(a[unix.NDA_DST])
			if ok && m.state()&unix.NUD_PERMANENT != 0 && kinds[m.index()] == "bridge" {
				all[m.index()] = append(all[m.index()], sandbox.Entry{Addr: addr, MAC: slices.Clone(a[unix.NDA_LLADDR])})
			}
		})
		if err != nil {
			return nil, err
		}
	}
	f := forwarding{}
	err := o.dump(unix.RTM_GETNEIGH, unix.AF_BRIDGE, ndmLen, func(h []byte, a map[uint16][]byte) {
		m := ndmsg(h)
		if kinds[m.index()] != "vxlan" {
			return
		}
		if via, is := netip.AddrFromSlice(a[unix.NDA_DST]); is && len(a[unix.NDA_LLADDR]) == 6 && [6]byte(a[unix.NDA_LLADDR]) == [6]byte{} {
			all[m.index()] = append(all[m.index()], sandbox.Entry{MAC: make(net.HardwareAddr, 6), Via: via})
			return
		}
		f.read(m, a)
	})
	if err != nil {
		return nil, err
	}
	for index, macs := range f {
		for mac, e := range macs {
			all[index] = append(all[index], e.entry(mac))
		}
	}
	for index := range f {
		slices.SortFunc(all[index], func(a, b sandbox.Entry) int { return cmp.Or(bytes.Compare(a.MAC, b.MAC), a.Via.Compare(b.Via)) })
	}
	return all, nil
}

// forwarding is what tunnels know of MACs, by index and MAC.
type forwarding map[uint32]map[[6]byte]forward

// forward is a forwarding entry, which has two halves: the bridge knows that a MAC is behind the tunnel, and the tunnel behind which host.
type forward struct {
	bridge bool
	via    netip.Addr
}

func (f forwarding) read(m ndmsg, a map[uint16][]byte) {
	raw := a[unix.NDA_LLADDR]
	if len(raw) != 6 {
		return
	}
	via, is := netip.AddrFromSlice(a[unix.NDA_DST])
	_, ofBridge := a[unix.NDA_MASTER]
	if !is && (!ofBridge || m.state() != unix.NUD_NOARP) {
		return // learnt, or the tunnel's own MAC
	}
	if f[m.index()] == nil {
		f[m.index()] = make(map[[6]byte]forward)
	}
	e := f[m.index()][[6]byte(raw)]
	if is {
		e.via = via
	} else {
		e.bridge = true
	}
	f[m.index()][[6]byte(raw)] = e
}

// entry is the two halves as one. One half without the other is told as leading nowhere, so that it differs from all that is wanted.
func (f forward) entry(mac [6]byte) sandbox.Entry {
	if !f.bridge || !f.via.IsValid() {
		f.via = netip.IPv4Unspecified()
	}
	return sandbox.Entry{MAC: mac[:], Via: f.via}
}

// attrsOf are the attributes behind a fixed part.
func attrsOf(p []byte) map[uint16][]byte {
	attrs := make(map[uint16][]byte)
	for t, v := range nlmsg.Attrs(p) {
		attrs[t] = v
	}
	return attrs
}
