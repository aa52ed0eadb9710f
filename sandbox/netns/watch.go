package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nsthread"
	"golang.org/x/sys/unix"
)

// Watch yields the owner of each link of ours in the host that somebody else deleted, set down or took off its bridge, or of whose addresses
// somebody removed one, until ctx ends. What we do ourselves is not told. It ends with Unavailable when the kernel had to drop news: observe,
// and watch again. In a namespace of a network's own, which has a bridge of ours, it yields who has lost a link or an entry, or had one
// changed. In other namespaces nothing is marked and it only waits.
func (n *Namespace) Watch(ctx context.Context) iter.Seq2[string, error] {
	var what news
	var hears func([]byte) (string, bool)
	switch {
	case n.host:
		what, hears = n.p.harm(), n.p.harmed
	case n.ours:
		what = news{[]uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH}, match(ofType(unix.RTM_DELLINK), ofType(unix.RTM_NEWNEIGH), ofType(unix.RTM_DELNEIGH))}
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
	groups  []uint32
	program []unix.SockFilter
}

// harm is what others may do to the host's links of ours. A link that we give up says so by its group. The kernel tells that a port has left
// its bridge without a group: one that goes because it is deleted is down by then.
func (p *Provider) harm() news {
	return news{[]uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR}, match(
		all(ofType(unix.RTM_DELLINK), ofFamily(unix.AF_UNSPEC), notOf(p.groups), ofInstances()),
		all(ofType(unix.RTM_NEWLINK), ofFamily(unix.AF_UNSPEC), isDown(), notOf(p.groups), ofInstances()),
		all(ofType(unix.RTM_DELLINK), ofFamily(unix.AF_BRIDGE), isUp()),
		all(ofType(unix.RTM_DELADDR), notFrom(p.port)),
	)}
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
	filter := what.program
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

// harmed reads whose link a message of harm is about, and makes sure of it where the message does not say.
func (p *Provider) harmed(message []byte) (string, bool) {
	const least = unix.SizeofNlMsghdr + unix.SizeofIfAddrmsg
	if len(message) < least {
		return "", false
	}
	body := message[unix.SizeofNlMsghdr:]
	index := binary.NativeEndian.Uint32(body[4:]) // of both structs
	var l seen
	var err error
	switch typ := binary.NativeEndian.Uint16(message[4:]); {
	case typ == unix.RTM_DELADDR:
		l, err = look(p.sock, index, "")
	case body[0] == unix.AF_BRIDGE:
		if l, err = look(p.sock, index, ""); l.master != 0 {
			return "", false
		}
	default:
		l = parseLink(body)
	}
	if err != nil || p.groups.isDead(l.group) {
		return "", false
	}
	return p.owner(l.alias)
}
