package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// Create makes a namespace, its loopback up, that asks for no router and makes no other noise. One that exists is opened.
func (p *Provider) Create(_ context.Context, id string) (sandbox.Namespace, error) {
	path, err := p.path(id)
	if err != nil {
		return nil, fmt.Errorf("create namespace %s: %w", id, err)
	}
	n, err := p.make(path)
	if errors.Is(err, fs.ErrExist) {
		n, err = p.reopen(path)
	}
	if err != nil {
		return nil, fmt.Errorf("create namespace %s: %w", id, err)
	}
	return n, nil
}

// path is the file of one of our namespaces.
func (p *Provider) path(id string) (string, error) {
	if id == "" || strings.HasPrefix(id, ".") || strings.ContainsRune(id, '/') {
		return "", fmt.Errorf("%w: an id names a file: it has no slash and does not begin with a dot", errdefs.ErrInvalidArgument)
	}
	return filepath.Join(p.dir, id), nil
}

// make creates the file and mounts a new namespace on it.
func (p *Provider) make(path string) (*Namespace, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, err
	}
	f.Close()
	return p.mount(path)
}

func (p *Provider) mount(path string) (*Namespace, error) {
	n := &Namespace{p: p, key: path, ours: true}
	err := nsthread.New(func() (err error) {
		if n.first, err = nlmsg.Open("", unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if err := p.prepare(n.first); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	})
	if err == nil {
		n.cookie, err = cookie(n.first.FD())
	}
	if err != nil {
		return nil, errors.Join(err, n.Close(), os.Remove(path))
	}
	return n, nil
}

// prepare is what every namespace of ours has: it runs inside. Solicitations would be flooded to all ports of a bridge, and nobody on a
// bridge of ours advertises.
func (p *Provider) prepare(s *nlmsg.Socket) error {
	var b nlmsg.Batch
	beginLink(&b, unix.RTM_NEWLINK, unix.NLM_F_ACK, loopback, unix.IFF_UP, unix.IFF_UP)
	b.End()
	if err := s.Do(&b, nil); err != nil {
		return fmt.Errorf("set up loopback: %w", err)
	}
	if !p.ipv6 {
		return nil
	}
	return writeSysctl("ipv6/conf/default/accept_ra", "0")
}

// reopen opens what an earlier Create made, or makes it on the file that an interrupted one left.
func (p *Provider) reopen(path string) (*Namespace, error) {
	n := &Namespace{p: p, key: path, ours: true}
	s, err := nlmsg.Open(path, unix.NETLINK_ROUTE)
	if errors.Is(err, unix.EINVAL) { // a plain file: nothing was mounted on it
		return p.mount(path)
	}
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if n.cookie, err = cookie(s.FD()); err != nil {
		return nil, err
	}
	return n, nil
}

// Remove ends a namespace of ours: the name is gone when it returns, and the kernel takes the devices with it.
func (p *Provider) Remove(_ context.Context, id string) error {
	path, err := p.path(id)
	if err != nil {
		return fmt.Errorf("remove namespace %s: %w", id, err)
	}
	if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove namespace %s: unmount: %w", id, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove namespace %s: %w", id, err)
	}
	return nil
}
