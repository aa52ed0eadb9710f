package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// Open gives access to the host or to a namespace that somebody else made. InvalidArgument says what it is when it is no network
// namespace, NotFound when nothing is there or the process is dead. No descriptor is kept: the namespace ends when its maker lets it.
func (p *Provider) Open(_ context.Context, o sandbox.Origin) (sandbox.Namespace, error) {
	switch o {
	case sandbox.Origin{Host: true}:
		return &Namespace{p: p, host: true, cookie: p.cookie}, nil
	case sandbox.Origin{Path: o.Path}:
		return p.openPath(o.Path)
	case sandbox.Origin{PID: o.PID}:
		return p.openProcess(o.PID)
	}
	return nil, fmt.Errorf("open namespace: %w: want one of a path, a pid and the host", errdefs.ErrInvalidArgument)
}

func (p *Provider) openPath(path string) (sandbox.Namespace, error) {
	if path == "" {
		return nil, fmt.Errorf("open namespace: %w: want one of a path, a pid and the host", errdefs.ErrInvalidArgument)
	}
	n, err := p.opened(path)
	if err != nil {
		return nil, fmt.Errorf("open namespace: %w", err)
	}
	return n, nil
}

// openProcess holds the process by a pidfd while it looks, so that a number that is used again cannot lead it elsewhere.
func (p *Provider) openProcess(pid int) (sandbox.Namespace, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("open namespace of process %d: %w", pid, kind(err))
	}
	defer unix.Close(fd)
	n, err := p.opened(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err == nil {
		err = unix.PidfdSendSignal(fd, 0, nil, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("open namespace of process %d: %w", pid, kind(err))
	}
	return n, nil
}

// opened is the namespace at path. The end of one that is not ours will be told.
func (p *Provider) opened(path string) (*Namespace, error) {
	c, err := identify(path)
	if err != nil {
		return nil, err
	}
	n := &Namespace{p: p, key: path, cookie: c, ours: filepath.Dir(path) == p.names}
	if n.ours {
		return n, nil
	}
	return n, p.warden.watch(path, c)
}

// identify is the cookie of the network namespace at path, if that is what it is.
func identify(path string) (uint64, error) {
	// O_NONBLOCK: a FIFO must not hang us.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ENXIO) {
		return 0, fmt.Errorf("%w: %s is a socket or a device, not a network namespace", errdefs.ErrInvalidArgument, path)
	}
	if err != nil {
		return 0, kind(&os.PathError{Op: "open", Path: path, Err: err})
	}
	defer unix.Close(fd)
	if what := notNetwork(fd); what != "" {
		return 0, fmt.Errorf("%w: %s is %s, not a network namespace", errdefs.ErrInvalidArgument, path, what)
	}
	var c uint64
	err = nsthread.DoFD(fd, func() error {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		c, err = cookie(s)
		return err
	})
	return c, err
}

// notNetwork says what an open file is; "" a network namespace.
func notNetwork(fd int) string {
	var in unix.Statfs_t
	if err := unix.Fstatfs(fd, &in); err == nil && in.Type == unix.NSFS_MAGIC {
		kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
		switch {
		case err == nil && kind == unix.CLONE_NEWNET:
			return ""
		case err == nil:
			return namespaceKind(kind)
		}
		return "a file of a namespace"
	}
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil {
		return "a file that cannot be read"
	}
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "a plain file"
}

func namespaceKind(flag int) string {
	for name, f := range map[string]int{
		"a user": unix.CLONE_NEWUSER, "a mount": unix.CLONE_NEWNS, "a PID": unix.CLONE_NEWPID, "an IPC": unix.CLONE_NEWIPC,
		"a UTS": unix.CLONE_NEWUTS, "a cgroup": unix.CLONE_NEWCGROUP, "a time": unix.CLONE_NEWTIME,
	} {
		if f == flag {
			return name + " namespace"
		}
	}
	return "another kind of namespace"
}

// cookie is the kernel's identity of the namespace that a socket is in.
func cookie(socket int) (uint64, error) {
	const soNetnsCookie = 71 // SO_NETNS_COOKIE
	c, err := unix.GetsockoptUint64(socket, unix.SOL_SOCKET, soNetnsCookie)
	if err != nil {
		return 0, fmt.Errorf("ask a namespace for its cookie: %w", err)
	}
	return c, nil
}
