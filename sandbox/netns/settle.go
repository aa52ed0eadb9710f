package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// The kernel puts off two things when the far end of a veth is raised and given addresses. Until its link watch has run both ends, and a
// bridge that had no other port, drop what is sent. Until its address work has run nobody hears who asks for the MAC of an IPv6 address,
// and asks again after a second. Apply returns when both are done, so that the first packet arrives.

// ready returns when the far ends that came up pass on what is sent to them.
func (a *apply) ready(ctx context.Context) error {
	if len(a.raised)+len(a.expected) == 0 {
		return nil
	}
	if err := a.flush(ctx); err != nil {
		return err
	}
	for _, name := range slices.Compact(a.raised) {
		if err := a.settleCarrier(name); err != nil {
			return err
		}
	}
	a.raised, a.came = nil, nil
	return a.settleAddrs(ctx)
}

// turnAway lets what is on its way over a link arrive before that goes down, when others took over where it led: a connection that begins
// now would wait a second for its first packets to be sent again. The kernel takes the first of two routes, so its own go first; a grace
// period (8 to 16 ms) ends when each processor has dealt with the packets that waited in it.
func (a *apply) turnAway(ctx context.Context, i int, l sandbox.Link) error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL
	moved := slices.DeleteFunc(slices.Clone(a.have.Routes), func(r sandbox.Route) bool {
		return r.Link != l.Name || !slices.ContainsFunc(a.want.Routes, func(w sandbox.Route) bool { return w.Dst == r.Dst && w.Table == r.Table })
	})
	if len(moved) == 0 {
		return nil
	}
	a.now = i
	for _, r := range moved {
		if err := a.route(ctx, sandbox.DelRoute, r); err != nil && !isAbsent(err) {
			return refusal(a.steps[i], err)
		}
	}
	if err := a.flush(ctx); err != nil {
		return err
	}
	unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0) // where there is none nothing is waited for
	return nil
}

// settleCarrier has link watch's work done: the kernel does it at once for a link that it is asked about (from 6.8 on; before, a worker
// of its own is done within a millisecond or so). What the host thinks of the addresses that were added is set right: had it asked for one in
// vain just before, it would ask again only after a second.
func (a *apply) settleCarrier(name string) error {
	p := a.ns.p
	v, known := p.pairs.take(a.ns.key, name)
	if !known {
		return a.settleFar(name)
	}
	for _, l := range []struct {
		socket int
		name   string
	}{{a.inside.route.FD(), name}, {p.sock.FD(), v.near}, {p.sock.FD(), v.bridge}} {
		if err := hasCarrier(l.socket, l.name); l.name != "" && err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("look at the carrier of %s: %w", l.name, err)
		}
	}
	if v.bridge == "" {
		return nil
	}
	return p.meet(v.index, v.mac, a.came[name])
}

// settleFar is settleCarrier for a veth that was made earlier, whose other side may be in any namespace.
func (a *apply) settleFar(name string) error {
	s := a.inside.route
	near, err := look(s, 0, name)
	if err != nil || near.kind != "veth" {
		return err
	}
	far, err := lookAt(s, near.space, near.link)
	if err == nil && far.master != 0 {
		_, err = lookAt(s, near.space, far.master)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the other end of %s: %w", name, err)
	}
	there, err := look(a.ns.p.sock, 0, far.name)
	if _, ours := a.ns.p.owner(far.alias); err != nil || !ours || there.index != far.index || there.alias != far.alias || far.master == 0 {
		return nil // it is not in the host's
	}
	return a.ns.p.meet(far.master, near.mac, a.came[name])
}

// meet corrects what the host thinks of addresses on a bridge.
func (p *Provider) meet(bridge uint32, mac net.HardwareAddr, addrs []netip.Addr) error {
	var b nlmsg.Batch
	for _, addr := range addrs { // not created: most need no entry
		writeNeigh(&b, unix.RTM_NEWNEIGH, unix.NLM_F_REPLACE, bridge, addrFamily(addr), unix.NUD_STALE, 0, addr, mac)
	}
	b.Acknowledge()
	_, err := nlmsg.Refusals(p.sock.Do(&b, nil))
	return err
}

// lookAt asks for a link in the namespace with a number, nil this one.
func lookAt(s *nlmsg.Socket, space []byte, index uint32) (found seen, err error) {
	var b nlmsg.Batch
	askLink(&b, space, index)
	b.Acknowledge()
	err = s.Do(&b, func(typ uint16, p []byte) {
		if typ == unix.RTM_NEWLINK {
			found = parseLink(p)
		}
	})
	return found, err
}

func askLink(b *nlmsg.Batch, space []byte, index uint32) {
	beginLink(b, unix.RTM_GETLINK, 0, index, 0, 0)
	if space != nil {
		b.Attr(unix.IFLA_TARGET_NETNSID, space)
	}
	b.Uint32(unix.IFLA_EXT_MASK, skipStats)
	b.End()
}

// expect has the host meet an address of the present batch, and the kernel tell when it is in use.
func (a *apply) expect(index uint32, l sandbox.Link, p netip.Prefix) error {
	if !isFar(l) || l.Down || a.ns.host {
		return nil
	}
	if a.came == nil {
		a.came = make(map[string][]netip.Addr)
	}
	a.came[l.Name] = append(a.came[l.Name], p.Addr())
	a.raised = append(a.raised, l.Name)
	if p.Addr().Is4() {
		return nil
	}
	if len(a.expected) == 0 {
		err := unix.SetsockoptInt(a.inside.route.FD(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_IPV6_IFADDR)
		if err != nil {
			return fmt.Errorf("listen for addresses: %w", err)
		}
	}
	a.expected = append(a.expected, address{index, p.Addr()})
	return nil
}

// address is one of a link.
type address struct {
	index uint32
	addr  netip.Addr
}

// settleAddrs waits until what is expected is in use: the last that the kernel does is to add a route. It tells a moment before, under the
// lock that a question about a link waits for; what was told before this began is seen without.
func (a *apply) settleAddrs(ctx context.Context) error {
	const patience = time.Second // then whoever asks again will be heard
	s := a.inside.route
	for end := time.Now().Add(patience); len(a.expected) > 0; {
		left, told, err := unused(s, a.expected)
		if err != nil {
			return err
		}
		patient := time.Until(end)
		if a.expected = left; len(left) == 0 || patient <= 0 || ctx.Err() != nil {
			a.expected = nil
			return nil
		}
		if !told {
			news := []unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLIN}}
			if _, err := unix.Poll(news, int(patient.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("wait for addresses: %w", err)
			}
		}
		if _, err := look(s, loopback, ""); err != nil {
			return err
		}
	}
	return nil
}

// unused are those addresses that the kernel does not take for its own yet. told says that news came while it was asked.
func unused(s *nlmsg.Socket, addrs []address) (left []address, told bool, err error) {
	const host = 128 // bits
	var b nlmsg.Batch
	for _, a := range addrs {
		b.Begin(unix.RTM_GETROUTE, 0)
		var h [unix.SizeofRtMsg]byte
		h[0], h[1] = unix.AF_INET6, host
		b.Raw(h[:]...)
		b.Attr(unix.RTA_DST, a.addr.AsSlice())
		b.Uint32(unix.RTA_OIF, a.index)
		b.End()
	}
	b.Acknowledge()
	var used []netip.Addr
	err = s.Do(&b, func(typ uint16, p []byte) {
		told = told || typ == unix.RTM_NEWADDR
		if typ != unix.RTM_NEWROUTE || len(p) < unix.SizeofRtMsg || p[7] != unix.RTN_LOCAL {
			return
		}
		if addr, ok := netip.AddrFromSlice(nlmsg.Attr(p[unix.SizeofRtMsg:], unix.RTA_DST)); ok {
			used = append(used, addr)
		}
	})
	if _, err := nlmsg.Refusals(err); err != nil { // no route to it is a refusal
		return nil, false, fmt.Errorf("look up addresses: %w", err)
	}
	return slices.DeleteFunc(addrs, func(a address) bool { return slices.Contains(used, a.addr) }), told, nil
}
