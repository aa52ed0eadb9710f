package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nsthread"
	"golang.org/x/sys/unix"
)

// Watch yields the owner of each link of ours that somebody else deleted from the host, until ctx ends. What we delete ourselves is not
// told. It ends with Unavailable when the kernel had to drop news: observe, and watch again. In a namespace of a network's own, which has
// a bridge of ours, it yields who has lost a link or an entry, or had one changed. In other namespaces nothing is marked and it only waits.
func (n *Namespace) Watch(ctx context.Context) iter.Seq2[string, error] {
	what, hears := news{groups: []uint32{unix.RTNLGRP_LINK}, types: []uint16{unix.RTM_DELLINK}}, n.p.lost
	switch {
	case n.host:
	case n.ours:
		what = news{groups: []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH}, types: []uint16{unix.RTM_DELLINK, unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH}}
		hears = n.hurt
	default:
		return func(func(string, error) bool) { <-ctx.Done() }
	}
	return func(yield func(string, error) bool) {
		err := n.watch(ctx, what, hears, func(owner string) bool { return yield(owner, nil) })
		if err != nil && ctx.Err() == nil {
			yield("", fmt.Errorf("watch %s: %w", n, kind(err)))
		}
	}
}

// news is what a socket is woken by.
type news struct {
	groups []uint32
	types  []uint16
}

// watch reads news until ctx ends; hears says whose share each is about.
func (n *Namespace) watch(ctx context.Context, what news, hears func([]byte) (string, bool), yield func(string) bool) error {
	f, err := listen(n.path(), what)
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 32<<10)
	for {
		size, err := f.Read(buf)
		if errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("%w: more happened than could be told", errdefs.ErrUnavailable)
		}
		if err != nil {
			return err
		}
		if owner, ours := hears(buf[:size]); ours && !yield(owner) {
			return nil
		}
	}
}

// listen opens a socket that is woken by some news only: the kernel filters, so that an attach wakes nobody.
func listen(path string, what news) (*os.File, error) {
	const room = 1 << 20 // bytes of news that may wait
	fd := -1
	err := nsthread.Do(path, func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "links")
	filter := onlyTypes(what.types)
	var groups uint32
	for _, g := range what.groups {
		groups |= 1 << (g - 1)
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}),
	)
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// onlyTypes is a classic BPF program that lets messages of some netlink types pass. It loads in network order what netlink writes in the
// machine's.
func onlyTypes(types []uint16) []unix.SockFilter {
	program := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4}}
	for i, typ := range types {
		if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
			typ = bits.ReverseBytes16(typ)
		}
		program = append(program, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: uint8(len(types) - i), K: uint32(typ)})
	}
	return append(program, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)})
}

// lost reads whose link a message says is gone. One that we gave up or delete says so by its group.
func (p *Provider) lost(message []byte) (string, bool) {
	if len(message) < unix.SizeofNlMsghdr {
		return "", false
	}
	l := parseLink(message[unix.SizeofNlMsghdr:])
	if p.groups.isDead(l.group) {
		return "", false
	}
	return p.owner(l.alias)
}
