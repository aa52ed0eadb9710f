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
// told. It ends with Unavailable when the kernel had to drop news: observe, and watch again. In other namespaces nothing is marked and it
// only waits.
func (n *Namespace) Watch(ctx context.Context) iter.Seq2[string, error] {
	if !n.host {
		return func(func(string, error) bool) { <-ctx.Done() }
	}
	return func(yield func(string, error) bool) {
		if err := n.watch(ctx, func(owner string) bool { return yield(owner, nil) }); err != nil && ctx.Err() == nil {
			yield("", fmt.Errorf("watch the host: %w", kind(err)))
		}
	}
}

func (n *Namespace) watch(ctx context.Context, yield func(string) bool) error {
	f, err := listen(n.path())
	if err != nil {
		return err
	}
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 32<<10)
	for {
		size, err := f.Read(buf)
		if errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("%w: more links went than could be told", errdefs.ErrUnavailable)
		}
		if err != nil {
			return err
		}
		if owner, ours := n.p.lost(buf[:size]); ours && !yield(owner) {
			return nil
		}
	}
}

// listen opens a socket that is woken by deleted links only: the kernel filters, so that an attach wakes nobody.
func listen(host string) (*os.File, error) {
	const room = 1 << 20 // bytes of news that may wait
	fd := -1
	err := nsthread.Do(host, func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "links")
	filter := onlyType(unix.RTM_DELLINK)
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_LINK - 1)}),
	)
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// onlyType is a classic BPF program that lets messages of one netlink type pass. It loads in network order what netlink writes in the
// machine's.
func onlyType(typ uint16) []unix.SockFilter {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		typ = bits.ReverseBytes16(typ)
	}
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(typ)},
		{Code: unix.BPF_RET | unix.BPF_K, K: ^uint32(0)},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
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
