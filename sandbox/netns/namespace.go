package netns

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// Namespace is one network stack. It holds no descriptor of a namespace that others made, so that it never keeps one alive; one just
// made holds a socket until its first Apply. Safe for concurrent use.
type Namespace struct {
	p          *Provider
	key        string // "" for the host
	cookie     uint64
	host, ours bool

	mu    sync.Mutex
	first sockets // opened while we were inside, for the first Apply
	// wanted is what each owner has in a namespace of a network's own: by it Watch tells what others do from what we do. Nil elsewhere.
	wanted map[string]sandbox.Config
}

var _ sandbox.Namespace = (*Namespace)(nil)

// Key is the path of its file, "" for the host.
func (n *Namespace) Key() string { return n.key }

// Cookie is the kernel's SO_NETNS_COOKIE.
func (n *Namespace) Cookie() uint64 { return n.cookie }

// Close lets go of it. It lives on.
func (n *Namespace) Close() error {
	s := n.takeFirst()
	return s.close()
}

func (n *Namespace) takeFirst() sockets {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.first
	n.first = sockets{}
	return s
}

// sockets gives a netlink socket inside; the host's is lasting and not closed.
func (n *Namespace) sockets() (*sockets, error) {
	if n.host {
		return &sockets{route: n.p.sock}, nil
	}
	s := n.takeFirst()
	if s.route != nil {
		return &s, nil
	}
	route, err := n.enter(unix.NETLINK_ROUTE)
	return &sockets{route: route}, err
}

// enter opens a socket inside.
func (n *Namespace) enter(protocol int) (*nlmsg.Socket, error) {
	s, err := nlmsg.Open(n.path(), protocol)
	if err != nil {
		return nil, kind(err)
	}
	if err := n.same(s); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// same refuses another namespace that has taken the place of this one.
func (n *Namespace) same(s *nlmsg.Socket) error {
	c, err := cookie(s.FD())
	if err == nil && c != n.cookie {
		err = fmt.Errorf("%w: %s leads to another namespace now", errdefs.ErrNotFound, n.key)
	}
	return err
}

// Apply makes the share of owner equal want where have was. AlreadyExists, NotFound, ResourceExhausted and FailedPrecondition say what
// the kernel refused; the first refusal is reported and the result is what was reached, so that applying again from there finishes.
func (n *Namespace) Apply(ctx context.Context, owner string, have, want sandbox.Config) (sandbox.Config, error) {
	steps := sandbox.Diff(have, want)
	if len(steps) == 0 {
		return want, nil
	}
	s, err := n.sockets()
	if err != nil {
		return have, fmt.Errorf("apply %s in %s: %w", owner, n, err)
	}
	if !n.host {
		defer s.close()
	}
	n.expect(owner, want)
	a := &apply{ns: n, inside: s, have: have, want: want, steps: steps, left: make([]bool, len(steps))}
	err = a.run(ctx)
	if err == nil && !n.ours && !n.host && isSilent(have) && !isSilent(want) {
		err = n.unsilence()
	}
	if err != nil {
		return sandbox.After(have, a.done()), fmt.Errorf("apply %s in %s: %w", owner, n, err)
	}
	return want, nil
}

// String names it in errors.
func (n *Namespace) String() string {
	if n.host {
		return "the host"
	}
	return "namespace " + n.key
}
