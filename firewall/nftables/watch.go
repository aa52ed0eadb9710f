package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/internal/nsthread"
	"golang.org/x/sys/unix"
)

// Attributes of the message that ends the news of a transaction, from linux/netfilter/nf_tables.h.
const attrGenPID, attrGenName = 2, 3

// Watch implements firewall.Firewall: after each transaction of somebody else that touched our table it yields who that was, as "nft[4711]",
// or "" where news was lost or the kernel does not say. What was yielded before the first error stands; an error ends it. Our own transactions are
// filtered out in the kernel.
//
// Some things are put right here, since terms say nothing of them: rules of ours that somebody changed, before it is told; and, on the host,
// what follows from other people's settings, which is not told: rules beside Docker's and the links that lead out.
func (t *table) Watch(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var routes sync.WaitGroup
		routes.Go(func() { t.watchRoutes(ctx) })
		defer routes.Wait()
		defer cancel()
		for who, err := range t.transactions(ctx) {
			if err != nil {
				err = fmt.Errorf("watch table inet %s: %w", t.name, kinded(err))
			}
			if !yield(who, err) || err != nil {
				return
			}
		}
	}
}

// transactions yields what Watch does.
func (t *table) transactions(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		own, err := portID(t.socket.FD())
		if err != nil {
			yield("", err)
			return
		}
		var seen touched
		for p, err := range t.news(ctx, unix.NETLINK_NETFILTER, 1<<(unix.NFNLGRP_NFTABLES-1), notFrom(own)) {
			switch {
			case errors.Is(err, unix.ENOBUFS): // news was lost
				t.suspect(touched{rules: true, beside: true})
				if !yield("", nil) {
					return
				}
			case err != nil:
				yield("", err)
				return
			default:
				for _, who := range t.hear(p, &seen) {
					if !yield(who, nil) {
						return
					}
				}
			}
		}
	}
}

// watchRoutes follows which links of the host lead out.
func (t *table) watchRoutes(ctx context.Context) {
	const groups = unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE
	if !t.host {
		return
	}
	for p, err := range t.news(ctx, unix.NETLINK_ROUTE, groups, everywhere()) {
		if errors.Is(err, unix.ENOBUFS) || err == nil && len(p) > 0 {
			t.suspect(touched{beside: true})
		}
	}
}

// messages goes through what came in one datagram.
func messages(p []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(p) >= unix.SizeofNlMsghdr {
			n := int(binary.NativeEndian.Uint32(p))
			if n < unix.SizeofNlMsghdr || n > len(p) || !yield(p[:n]) {
				return
			}
			p = p[min(padded(n), len(p)):]
		}
	}
}

// touched is what a transaction did: to elements or rules of ours, or to iptables' chains.
type touched struct{ elements, rules, beside bool }

// hear reads news and returns who touched our table in transactions that end in it.
func (t *table) hear(p []byte, seen *touched) (who []string) {
	for m := range messages(p) {
		if len(m) < unix.SizeofNlMsghdr+headerLen {
			continue
		}
		typ := binary.NativeEndian.Uint16(m[4:]) & 0xff
		family, attrs := m[unix.SizeofNlMsghdr], m[unix.SizeofNlMsghdr+headerLen:]
		name := text(nlmsg.Attr(attrs, unix.NFTA_TABLE_NAME))
		switch {
		case typ == unix.NFT_MSG_NEWGEN:
			t.suspect(*seen)
			if seen.elements || seen.rules {
				who = append(who, author(attrs))
			}
			*seen = touched{}
		case family == unix.NFPROTO_INET && name == t.name && (typ == unix.NFT_MSG_NEWSETELEM || typ == unix.NFT_MSG_DELSETELEM):
			seen.elements = true
		case family == unix.NFPROTO_INET && name == t.name:
			seen.rules = true
		case (family == unix.NFPROTO_IPV4 || family == unix.NFPROTO_IPV6) && name == iptablesTable:
			seen.beside = true
		}
	}
	return who
}

func author(attrs []byte) string {
	name, pid := text(nlmsg.Attr(attrs, attrGenName)), nlmsg.Attr(attrs, attrGenPID)
	if name == "" || len(pid) != 4 {
		return name
	}
	return fmt.Sprintf("%s[%d]", name, binary.BigEndian.Uint32(pid))
}

// suspect makes the next Apply look before it trusts. What can be mended without terms is mended at once; where that fails, by the next
// Apply, which will say why.
func (t *table) suspect(what touched) {
	if what == (touched{}) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.known && !what.elements && !what.rules
	t.known, t.damaged = known, t.damaged || what.rules
	if !t.damaged && !what.beside || t.learn() != nil {
		return
	}
	if what.beside && len(t.gateways) > 0 {
		known = t.commit(step{gateways: t.gateways, around: true}) == nil && known
	}
	t.known = known
}

// news yields the datagrams that a new socket gets as a member of groups and that pass the filter, until ctx ends. After ENOBUFS it goes on,
// after any other error it ends.
func (t *table) news(ctx context.Context, protocol int, groups uint32, filter []unix.SockFilter) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		f, err := t.subscribe(protocol, groups, filter)
		if err != nil {
			yield(nil, err)
			return
		}
		defer f.Close()
		defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })()
		buf := make([]byte, 64<<10)
		for {
			n, err := f.Read(buf)
			if ctx.Err() != nil || !yield(buf[:max(n, 0)], err) || err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
		}
	}
}

func (t *table) subscribe(protocol int, groups uint32, filter []unix.SockFilter) (*os.File, error) {
	fd := -1
	err := nsthread.Do(t.path, func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "netlink news"), nil
}

func portID(fd int) (uint32, error) {
	address, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	nl, ok := address.(*unix.SockaddrNetlink)
	if !ok {
		return 0, unix.EAFNOSUPPORT
	}
	return nl.Pid, nil
}

// Filters run in the kernel and wake nobody for news that concern nobody: each link that comes has routes, and each change of ours is told.
const ignored, told = 0, 0xffffffff

// notFrom lets pass what another socket than the one with this port number caused: every message says which one that was.
func notFrom(portID uint32) []unix.SockFilter {
	const sender = 12 // offset of nlmsg_pid
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: sender},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: binary.BigEndian.Uint32(native32(portID)), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: ignored},
		{Code: unix.BPF_RET | unix.BPF_K, K: told},
	}
}

// everywhere lets pass routes to all addresses of a family, which come one in a datagram.
func everywhere() []unix.SockFilter {
	const destinationLen = unix.SizeofNlMsghdr + 1 // offset of rtm_dst_len
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: destinationLen},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: told},
		{Code: unix.BPF_RET | unix.BPF_K, K: ignored},
	}
}
