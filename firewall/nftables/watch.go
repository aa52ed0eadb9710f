package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
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
// Rules that somebody changed are put right here, before it is told: terms say nothing of them. That needs somebody who watches.
func (t *table) Watch(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		news, err := t.subscribe()
		if err != nil {
			yield("", fmt.Errorf("watch table inet %s: %w", t.name, kinded(err)))
			return
		}
		defer news.Close()
		defer context.AfterFunc(ctx, func() { news.SetReadDeadline(time.Unix(1, 0)) })()
		var seen touched
		buf := make([]byte, 64<<10)
		for {
			n, err := news.Read(buf)
			if ctx.Err() != nil {
				return
			}
			switch {
			case errors.Is(err, unix.ENOBUFS): // news was lost
				t.suspect(touched{rules: true})
				if !yield("", nil) {
					return
				}
				continue
			case err != nil:
				yield("", fmt.Errorf("watch table inet %s: %w", t.name, err))
				return
			}
			for _, who := range t.hear(buf[:n], &seen) {
				if !yield(who, nil) {
					return
				}
			}
		}
	}
}

// touched is what a transaction did to us.
type touched struct{ elements, rules bool }

// hear reads news and returns who touched our table in transactions that end in it.
func (t *table) hear(p []byte, seen *touched) (who []string) {
	for len(p) >= unix.SizeofNlMsghdr {
		n := int(binary.NativeEndian.Uint32(p))
		if n < unix.SizeofNlMsghdr+headerLen || n > len(p) {
			return who
		}
		typ := binary.NativeEndian.Uint16(p[4:]) & 0xff
		family, attrs := p[unix.SizeofNlMsghdr], p[unix.SizeofNlMsghdr+headerLen:n]
		p = p[min(padded(n), len(p)):]
		switch {
		case typ == unix.NFT_MSG_NEWGEN:
			if *seen != (touched{}) {
				t.suspect(*seen)
				who = append(who, author(attrs))
			}
			*seen = touched{}
		case family == unix.NFPROTO_INET && text(nlmsg.Attr(attrs, unix.NFTA_TABLE_NAME)) == t.name:
			if typ == unix.NFT_MSG_NEWSETELEM || typ == unix.NFT_MSG_DELSETELEM {
				seen.elements = true
			} else {
				seen.rules = true
			}
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

// suspect makes the next Apply look before it trusts. Damaged rules are mended at once; where that fails, by the next Apply.
func (t *table) suspect(what touched) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known, t.damaged = false, t.damaged || what.rules
	if t.damaged && t.learn() == nil {
		t.known = false
	}
}

// subscribe opens a socket that hears of every transaction of the namespace but our own.
func (t *table) subscribe() (*os.File, error) {
	fd := -1
	err := nsthread.Do(t.path, func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
		return err
	})
	if err != nil {
		return nil, err
	}
	own, err := portID(t.socket.FD())
	if err == nil {
		err = ignore(fd, own)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "nftables news"), nil
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

// ignore makes a socket deaf to what another socket caused: every message says which one that was.
func ignore(fd int, portID uint32) error {
	const offset, whole = 12, 0xffffffff // of nlmsg_pid
	big := binary.BigEndian.Uint32(native32(portID))
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: big, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: whole},
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
}
