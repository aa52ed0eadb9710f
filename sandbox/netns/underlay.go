package netns

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"time"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var _ sandbox.Underlay = (*Provider)(nil)

// Underlay implements sandbox.Underlay. Links other than that one wake nobody: attaching containers costs nothing here.
func (p *Provider) Underlay(ctx context.Context, addr netip.Addr) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		if err := p.underlay(ctx, addr, func(mtu int) bool { return yield(mtu, nil) }); err != nil && ctx.Err() == nil {
			yield(0, fmt.Errorf("watch the link that has %s: %w", addr, kind(err)))
		}
	}
}

func (p *Provider) underlay(ctx context.Context, addr netip.Addr, yield func(int) bool) error {
	f, err := listen(p.host, news{groups: []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR}, program: ofCarrier(0)})
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 32<<10)
	last, told := uint32(0), -1
	for {
		index, mtu, err := p.carrier(addr)
		if err != nil {
			return err
		}
		if index != last { // look again after the filter is right: the link may have changed before
			last = index
			if err := refilter(f, ofCarrier(index)); err != nil {
				return err
			}
			continue
		}
		if mtu != told {
			if told = mtu; !yield(mtu) {
				return nil
			}
		}
		if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) { // whatever was lost, we look
			return err
		}
	}
}

// refilter gives a socket another filter.
func refilter(f *os.File, program []unix.SockFilter) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	failed := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	})
	return errors.Join(failed, err)
}

// carrier is the link that has an address, and its MTU; 0 when none has it.
func (p *Provider) carrier(addr netip.Addr) (index uint32, mtu int, err error) {
	nl, err := p.handle()
	if err != nil {
		return 0, 0, err
	}
	defer nl.Close()
	addrs, err := nlmsg.Whole(func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return 0, 0, err
	}
	for _, a := range addrs {
		if prefix, ok := prefixOf(a.IPNet.IP, a.IPNet.Mask); !ok || prefix.Addr() != addr {
			continue
		}
		l, err := nl.LinkByIndex(a.LinkIndex)
		if err != nil {
			return 0, 0, nil // it has just gone
		}
		return uint32(a.LinkIndex), l.Attrs().MTU, nil
	}
	return 0, 0, nil
}

// ofCarrier lets pass news of a link's state and of all addresses.
func ofCarrier(index uint32) []unix.SockFilter {
	return match(all(ofType(unix.RTM_NEWLINK), ofIndex(index)), all(ofType(unix.RTM_DELLINK), ofIndex(index)), ofType(unix.RTM_NEWADDR), ofType(unix.RTM_DELADDR))
}
