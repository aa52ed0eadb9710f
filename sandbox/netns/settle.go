package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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
	for _, name := range a.raised {
		if err := settleCarrier(a.inside.route, name); err != nil {
			return err
		}
	}
	a.raised = nil
	return a.settleAddrs(ctx)
}

// settleCarrier has link watch's work done: the kernel does it at once for a link that it is asked about (from 6.8 on; before, a worker
// of its own is done within a millisecond or so). The far side may be in any namespace.
func settleCarrier(s *nlmsg.Socket, name string) error {
	near, err := look(s, 0, name)
	if err != nil || near.kind != "veth" {
		return err
	}
	far, err := lookAt(s, near.space, near.link)
	if err == nil && far.master != 0 {
		_, err = lookAt(s, near.space, far.master)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("look at the other end of %s: %w", name, err)
	}
	return nil
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

// expect has the kernel tell when an address of the present batch can be asked for.
func (a *apply) expect(index uint32, l sandbox.Link, p netip.Prefix) error {
	if !isFar(l) || l.Down || !p.Addr().Is6() {
		return nil
	}
	if len(a.expected) == 0 {
		err := unix.SetsockoptInt(a.inside.route.FD(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_IPV6_IFADDR)
		if err != nil {
			return fmt.Errorf("listen for addresses: %w", err)
		}
	}
	a.expected = append(a.expected, membership{index, solicited(p.Addr())})
	return nil
}

// membership is a multicast group on a link.
type membership struct {
	index uint32
	group netip.Addr
}

// solicited is where neighbours ask for an address (RFC 4291, section 2.7.1).
func solicited(addr netip.Addr) netip.Addr {
	a := addr.As16()
	return netip.AddrFrom16([16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
}

// settleAddrs waits until what is expected has come. The news tell when to look; what was told before is seen without them.
func (a *apply) settleAddrs(ctx context.Context) error {
	const patience = time.Second // then whoever asks again will be heard
	end := time.Now().Add(patience)
	for len(a.expected) > 0 {
		joined, err := memberships(a.inside.route)
		if err != nil {
			return err
		}
		a.expected = slices.DeleteFunc(a.expected, func(m membership) bool { return slices.Contains(joined, m) })
		left := time.Until(end)
		if len(a.expected) == 0 || left <= 0 || ctx.Err() != nil {
			break
		}
		wait := []unix.PollFd{{Fd: int32(a.inside.route.FD()), Events: unix.POLLIN}}
		if _, err := unix.Poll(wait, int(left.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for addresses: %w", err)
		}
	}
	return nil
}

// memberships are the multicast groups of all links.
func memberships(s *nlmsg.Socket) ([]membership, error) {
	var b nlmsg.Batch
	b.Begin(unix.RTM_GETMULTICAST, unix.NLM_F_DUMP|unix.NLM_F_ACK)
	var h [unix.SizeofIfAddrmsg]byte
	h[0] = unix.AF_INET6
	b.Raw(h[:]...)
	b.End()
	var all []membership
	err := s.Do(&b, func(_ uint16, p []byte) {
		if len(p) < unix.SizeofIfAddrmsg {
			return
		}
		if group, ok := netip.AddrFromSlice(nlmsg.Attr(p[unix.SizeofIfAddrmsg:], unix.IFA_MULTICAST)); ok {
			all = append(all, membership{binary.NativeEndian.Uint32(p[4:]), group})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list multicast groups: %w", err)
	}
	return all, nil
}
