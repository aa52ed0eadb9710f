// Package netns is the room of sandbox for Linux network namespaces: it makes, opens, watches and removes them, and makes them contain
// what a sandbox.Config says.
//
// There is one path: sandbox.Diff says the steps, every step is written as netlink messages, and one sendmsg sends them (two where a
// step needs the index of a link that an earlier one makes). Nothing on it lists what the kernel has, starts a process or waits for a
// grace period; what waits (deleting links, removing namespaces) is done by workers.
package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// Options say whose namespaces a Provider makes and where.
type Options struct {
	Host     string // path of the namespace that is the host; "": the process's own
	Run      string // directory: namespaces are at <Run>/netns/<id>. Required
	Instance string // owner of links: their alias is sealane:<Instance>/<owner>; "": "sealane"
	Ready    int    // namespaces kept ready beforehand; 0: none
}

// Provider makes namespaces and opens those of others. Safe for concurrent use.
type Provider struct {
	host, dir, instance string
	ipv6                bool
	groups              groups
	sock                *nlmsg.Socket // of the host
	cookie              uint64        // of the host
}

var (
	_ sandbox.Provider = (*Provider)(nil)
)

// New opens the host. FailedPrecondition when another one of the same instance works in it.
func New(o Options) (*Provider, error) {
	if o.Run == "" {
		return nil, fmt.Errorf("open namespaces: %w: no run directory", errdefs.ErrInvalidArgument)
	}
	if o.Instance == "" {
		o.Instance = "sealane"
	}
	p := &Provider{host: o.Host, dir: filepath.Join(o.Run, "netns"), instance: o.Instance}
	if err := p.open(o); err != nil {
		return nil, errors.Join(fmt.Errorf("open namespaces in %s: %w", o.Run, err), p.Close())
	}
	return p, nil
}

func (p *Provider) open(o Options) (err error) {
	if err := os.MkdirAll(p.dir, 0o711); err != nil {
		return err
	}
	if p.groups, err = openGroups(filepath.Join(o.Run, "link-group")); err != nil {
		return err
	}
	if p.sock, err = nlmsg.Open(p.host, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if p.cookie, err = cookie(p.sock.FD()); err != nil {
		return err
	}
	_, err = os.Stat("/proc/sys/net/ipv6")
	p.ipv6 = err == nil
	return nil
}

// Close lets go of the host. Namespaces and what they contain stay.
func (p *Provider) Close() error {
	if p.sock == nil {
		return nil
	}
	return p.sock.Close()
}

// Open gives access to a namespace that somebody else made, or to the host. InvalidArgument when it is no network namespace, NotFound
// when nothing is there.
func (p *Provider) Open(_ context.Context, o sandbox.Origin) (sandbox.Namespace, error) {
	switch {
	case o.Host:
		return &Namespace{p: p, host: true, cookie: p.cookie}, nil
	}
	return nil, fmt.Errorf("open namespace: %w", errdefs.ErrNotImplemented)
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
