package netns

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// addr adds or deletes an address. The first IPv6 address of a silent link brings a link-local one, which the kernel would have made.
func (a *apply) addr(ctx context.Context, op sandbox.Op, l sandbox.Link, p netip.Prefix) error {
	index, err := a.index(ctx, l.Name)
	if err != nil {
		return err
	}
	if op == sandbox.AddAddr && p.Addr().Is6() && l.Silent && !l.Adopt {
		if err := a.addLinkLocal(ctx, index, l); err != nil {
			return err
		}
	}
	if op == sandbox.DelAddr && p.Addr().Is4() {
		if err := a.keepOthers(ctx, l); err != nil {
			return err
		}
	}
	a.writeAddr(op, index, p)
	if op == sandbox.AddAddr {
		return a.expect(index, l, p)
	}
	if p.Addr().Is6() && l.Silent && !l.Adopt {
		return a.delLinkLocal(index, l.Name)
	}
	return nil
}

// delLinkLocal takes the link-local address away with the last IPv6 address of a link that stays.
func (a *apply) delLinkLocal(index uint32, name string) error {
	i := slices.IndexFunc(a.want.Links, func(l sandbox.Link) bool { return l.Name == name })
	if i < 0 || a.local[name] || has6(a.want.Links[i]) {
		return nil
	}
	if a.local == nil {
		a.local = make(map[string]bool)
	}
	a.local[name] = true
	mac, err := a.mac(a.want.Links[i])
	if p := linkLocal(mac); err == nil && p.IsValid() {
		a.writeAddr(sandbox.DelAddr, index, p)
	}
	return err
}

// mac is the one that is wanted or, if any will do, the one that is there.
func (a *apply) mac(l sandbox.Link) (net.HardwareAddr, error) {
	if len(l.MAC) != 0 {
		return l.MAC, nil
	}
	there, err := look(a.inside.route, 0, l.Name)
	return there.mac, err
}

// addLinkLocal gives a silent link its link-local address, unless one is wanted or was given by this Apply.
func (a *apply) addLinkLocal(ctx context.Context, index uint32, l sandbox.Link) error {
	if a.local[l.Name] || slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() }) {
		return nil
	}
	if a.local == nil {
		a.local = make(map[string]bool)
	}
	a.local[l.Name] = true
	if isFar(l) {
		if err := a.silence(); err != nil {
			return err
		}
	}
	mac, err := a.mac(l)
	if err != nil {
		return err
	}
	if p := linkLocal(mac); p.IsValid() {
		a.writeAddr(sandbox.AddAddr, index, p)
	}
	return nil
}

// moveLinkLocal follows a change of the MAC.
func (a *apply) moveLinkLocal(ctx context.Context, l, have sandbox.Link) error {
	index, err := a.index(ctx, l.Name)
	if err != nil {
		return err
	}
	for op, mac := range map[sandbox.Op]net.HardwareAddr{sandbox.AddAddr: l.MAC, sandbox.DelAddr: have.MAC} {
		if p := linkLocal(mac); p.IsValid() {
			a.writeAddr(op, index, p)
		}
	}
	return nil
}

// keepOthers has the other addresses of a subnet stay when the first one goes: by default the kernel deletes them all. On a device that
// is not ours the setting is turned back afterwards.
func (a *apply) keepOthers(ctx context.Context, l sandbox.Link) error {
	if a.keeps[l.Name] {
		return nil
	}
	if err := a.flush(ctx); err != nil {
		return err
	}
	promote := sandbox.Sysctl{Key: "ipv4/conf/IFNAME/promote_secondaries", Value: "1", Link: l.Name}
	changed, err := a.ns.sysctl(promote)
	if err != nil {
		return err
	}
	if a.keeps == nil {
		a.keeps = make(map[string]bool)
	}
	a.keeps[l.Name] = true
	if changed && l.Adopt {
		promote.Value = "0"
		a.last = append(a.last, promote)
	}
	return nil
}

// writeAddr adds an address at once: without duplicate address detection it is usable when the call returns, and nobody is asked.
func (a *apply) writeAddr(op sandbox.Op, index uint32, p netip.Prefix) {
	b := &a.batch
	typ, flags := uint16(unix.RTM_NEWADDR), uint16(unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if op == sandbox.DelAddr {
		typ, flags = unix.RTM_DELADDR, 0
	}
	b.Begin(typ, flags)
	var h [unix.SizeofIfAddrmsg]byte
	h[0], h[1] = addrFamily(p.Addr()), uint8(p.Bits())
	if p.Addr().Is6() {
		h[2] = unix.IFA_F_NODAD
	}
	if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() { // one of IPv4 with that scope is no source of what is masqueraded
		h[3] = unix.RT_SCOPE_LINK
	}
	binary.NativeEndian.PutUint32(h[4:], index)
	b.Raw(h[:]...)
	raw := p.Addr().AsSlice()
	b.Attr(unix.IFA_LOCAL, raw)
	b.Attr(unix.IFA_ADDRESS, raw)
	if p.Addr().Is4() && p.Bits() < 31 && op == sandbox.AddAddr {
		b.Attr(unix.IFA_BROADCAST, broadcast(p))
	}
	b.End()
}

func addrFamily(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func broadcast(p netip.Prefix) []byte {
	a := p.Addr().As4()
	n := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Bits()) - 1)
	return binary.BigEndian.AppendUint32(nil, n)
}

// entryIndex is the number of a link, which is asked for once for all of its entries: they come by the thousand, one after the other.
func (a *apply) entryIndex(ctx context.Context, name string) (uint32, error) {
	if before := a.now - 1; before >= 0 && a.entries.name == name && a.steps[before].Link.Name == name && isEntry(a.steps[before].Op) {
		return a.entries.index, nil
	}
	index, err := a.index(ctx, name)
	a.entries.name, a.entries.index = name, index
	return index, err
}

func isEntry(op sandbox.Op) bool { return op == sandbox.SetEntry || op == sandbox.DelEntry }

// entry writes a neighbour, a forwarding entry, or both.
func (a *apply) entry(ctx context.Context, op sandbox.Op, l sandbox.Link, e sandbox.Entry) error {
	index, err := a.entryIndex(ctx, l.Name)
	if err != nil {
		return err
	}
	typ, flags := uint16(unix.RTM_NEWNEIGH), uint16(unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if op == sandbox.DelEntry {
		typ, flags = unix.RTM_DELNEIGH, 0
	}
	if e.Addr.IsValid() {
		writeNeigh(&a.batch, typ, flags, index, addrFamily(e.Addr), unix.NUD_PERMANENT, 0, e.Addr, e.MAC)
		if op == sandbox.SetEntry {
			a.announceEntry(index, l, e)
		}
	}
	if !e.Via.IsValid() {
		return nil
	}
	to := []uint8{unix.NTF_SELF}
	switch {
	case e.Floods(): // one of several with this MAC, of which the bridge knows nothing
		flags &^= unix.NLM_F_REPLACE
		if op == sandbox.SetEntry {
			flags |= unix.NLM_F_APPEND
		}
	case l.Master == "":
	case op == sandbox.SetEntry:
		to[0] |= unix.NTF_MASTER
	default: // one half may be gone: it must not save the other
		to = append(to, unix.NTF_MASTER)
	}
	for _, half := range to {
		writeNeigh(&a.batch, typ, flags, index, unix.AF_BRIDGE, unix.NUD_NOARP|unix.NUD_REACHABLE, half, e.Via, e.MAC)
	}
	return nil
}

func writeNeigh(b *nlmsg.Batch, typ, flags uint16, index uint32, family uint8, state uint16, to uint8, dst netip.Addr, mac net.HardwareAddr) {
	b.Begin(typ, flags)
	var h [ndmLen]byte
	h[0] = family
	binary.NativeEndian.PutUint32(h[4:], index)
	binary.NativeEndian.PutUint16(h[8:], state)
	h[10] = to
	b.Raw(h[:]...)
	b.Attr(unix.NDA_DST, dst.AsSlice())
	b.Attr(unix.NDA_LLADDR, mac)
	b.End()
}
