package netns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// space is a namespace of ours, living on its mount. The name under which it is known is a symbolic link to the mount: a mount can be
// neither renamed nor made as fast, and its removal waits for the kernel, where a link is gone at once.
type space struct {
	mount  string
	cookie uint64
	first  sockets
}

// sockets are opened while a thread is inside a new namespace, which saves going there again.
type sockets struct {
	route, filter *nlmsg.Socket // filter is nil where there is no IPv6 to keep silent
	silent        bool          // the table that drops reports is there
	spare         []spare
}

func (s *sockets) close() error {
	closeSpares(s.spare)
	var errs []error
	for _, one := range []*nlmsg.Socket{s.route, s.filter} {
		if one != nil {
			errs = append(errs, one.Close())
		}
	}
	return errors.Join(errs...)
}

// Create makes a namespace, its loopback up, that heeds and asks for no router. One that exists is opened. Ids are hex digits.
func (p *Provider) Create(ctx context.Context, id string) (sandbox.Namespace, error) {
	n, err := p.create(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("create namespace %s: %w", id, err)
	}
	return n, nil
}

func (p *Provider) create(ctx context.Context, id string) (*Namespace, error) {
	path, err := p.path(id)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if _, err := os.Readlink(path); err == nil {
		n, err := p.reopen(path)
		if !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
			return n, err
		}
		if err := p.remove(path); err != nil { // it leads nowhere: somebody unmounted it
			return nil, err
		}
	}
	s := p.ready.take()
	if s == nil {
		if s, err = p.newSpace(); err != nil {
			return nil, err
		}
	}
	if err := os.Symlink(filepath.Join("..", mounts, filepath.Base(s.mount)), path); err != nil {
		p.reaper.remove("", s.mount)
		if err := errors.Join(err, s.first.close()); !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		return p.reopen(path) // somebody was faster
	}
	p.spares.put(path, s.first.spare)
	s.first.spare = nil
	return &Namespace{p: p, key: path, ours: true, cookie: s.cookie, first: s.first}, nil
}

// path is the name of one of our namespaces.
func (p *Provider) path(id string) (string, error) {
	if _, err := hex.DecodeString(id); err != nil || id == "" {
		return "", fmt.Errorf("%w: an id is hex digits", errdefs.ErrInvalidArgument)
	}
	return filepath.Join(p.names, id), nil
}

// readySpace makes one for later, with what not every namespace needs.
func (p *Provider) readySpace() (*space, error) {
	s, err := p.newSpace()
	if err != nil || s.first.filter == nil {
		return s, err
	}
	if err := errors.Join(s.first.dropReports(), s.first.filter.Close()); err != nil {
		return nil, errors.Join(err, s.first.close(), unmount(s.mount))
	}
	s.first.filter = nil
	return s, nil
}

// newSpace makes a namespace and its mount.
func (p *Provider) newSpace() (*space, error) {
	s := &space{mount: filepath.Join(p.mounts, rand.Text())}
	file, err := unix.Open(s.mount, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: s.mount, Err: err}
	}
	unix.Close(file)
	err = nsthread.New(func() (err error) {
		if s.first, err = p.prepare(); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", s.mount, "", unix.MS_BIND, "")
	})
	if err == nil {
		s.cookie, err = cookie(s.first.route.FD())
	}
	if err != nil {
		return nil, errors.Join(err, s.first.close(), unmount(s.mount))
	}
	return s, nil
}

// prepare is what every namespace of ours has; it runs inside. Solicitations would be flooded to all ports of a bridge, and a router that
// advertises on a bridge of ours is an intruder.
func (p *Provider) prepare() (s sockets, err error) {
	if s.route, err = nlmsg.Open("", unix.NETLINK_ROUTE); err != nil {
		return s, err
	}
	var b nlmsg.Batch
	beginLink(&b, unix.RTM_NEWLINK, unix.NLM_F_ACK, loopback, unix.IFF_UP, unix.IFF_UP)
	b.End()
	if err := s.route.Do(&b, nil); err != nil {
		return s, fmt.Errorf("set up loopback: %w", err)
	}
	for _, k := range p.kinds {
		fd, err := k.open()
		if err != nil {
			return s, err
		}
		s.spare = append(s.spare, spare{k, fd})
	}
	if !p.ipv6 {
		return s, nil
	}
	if s.filter, err = nlmsg.Open("", unix.NETLINK_NETFILTER); err != nil {
		return s, err
	}
	return s, p.procfs.write("ipv6/conf/default/accept_ra", "0")
}

// reopen opens what an earlier Create made.
func (p *Provider) reopen(path string) (*Namespace, error) {
	c, err := identify(path)
	if err != nil {
		return nil, err
	}
	return &Namespace{p: p, key: path, ours: true, cookie: c}, nil
}

// Remove ends a namespace of ours: the name is gone when it returns, and the kernel takes the devices with it when nobody else is inside.
// nil when it is absent.
func (p *Provider) Remove(_ context.Context, id string) error {
	path, err := p.path(id)
	if err == nil {
		err = p.remove(path)
	}
	if err != nil {
		return fmt.Errorf("remove namespace %s: %w", id, err)
	}
	return nil
}

func (p *Provider) remove(path string) error {
	p.spares.remove(path)
	mount, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p.reaper.remove(path, filepath.Join(p.mounts, filepath.Base(mount)))
	return nil
}

// List names the namespaces that were created and not removed.
func (p *Provider) List(context.Context) ([]sandbox.ID, error) {
	entries, err := os.ReadDir(p.names)
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	ids := make([]sandbox.ID, 0, len(entries))
	for _, e := range entries {
		ids = append(ids, sandbox.ID(e.Name()))
	}
	return ids, nil
}

// sweep has mounts removed that have no name: those of namespaces that were ready, being made or being removed when the last process of
// this run directory died.
func (p *Provider) sweep() error {
	named := map[string]bool{}
	ids, err := p.List(context.Background())
	if err != nil {
		return err
	}
	for _, id := range ids {
		if mount, err := os.Readlink(filepath.Join(p.names, string(id))); err == nil {
			named[filepath.Base(mount)] = true
		}
	}
	entries, err := os.ReadDir(p.mounts)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !named[e.Name()] {
			p.reaper.remove("", filepath.Join(p.mounts, e.Name()))
		}
	}
	return nil
}
