// Package nftables is the firewall room for hosts with nf_tables: one inet table of maps and sets for each namespace.
//
// A published port is an element, a network a handful; the rules look into the sets and are the same however many there are. So neither a
// change nor a packet costs more with the five-thousandth port than with the first. Changes are encoded by hand and sent as one
// transaction over a socket that stays open; no process is started and nothing is read on the way.
//
//	prerouting, output   published    destination of what is sent to a published port → container
//	forward              to_<mode>    who may enter a network, and leave
//	postrouting          to_ours      source of what leaves → host; and where an answer would not come back otherwise
//	raw, input, outgoing              loopback addresses, internal and isolated networks, tunnels
//	raw, raw_output                   tunnels are not tracked
//
// Not rendered yet and refused with NotImplemented: NoICC and pinholes (packets between two ports of a bridge do not pass an inet table
// while bridge-nf-call is off), policies, RespectHost.
package nftables

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nlmsg"
	"golang.org/x/sys/unix"
)

// Options says whose firewall it is.
type Options struct {
	Host     string // path of the namespace that is the host; "": the process's own
	Instance string // name of the table, the same in every namespace; "": sealane
	// Socket opens a netlink socket of nfnetlink, non-blocking, in the namespace whose file is path; nil: a thread goes there.
	Socket func(path string) (fd int, err error)
}

// Opener opens firewalls, reserves the host's ports and forgets its flows. Safe for concurrent use.
type Opener struct {
	options  Options
	sets     *[setCount]definition
	revision func() (string, error) // worked out once
	passes   passes

	mu    sync.Mutex // guards what follows
	hosts *flows     // of the host's firewall while one is open
}

// buffers is how much of one transaction the kernel may hold, in bytes: 65,535 ports in one.
const buffers = 64 << 20

var _ interface {
	firewall.Opener
	firewall.Reserver
	firewall.Forgetter
} = (*Opener)(nil)

// New checks the options and touches nothing but the process's own table of descriptors, in which it makes room for ports. InvalidArgument for
// an instance whose name is none.
func New(o Options) (*Opener, error) {
	if o.Instance == "" {
		o.Instance = "sealane"
	}
	if !regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}$`).MatchString(o.Instance) {
		return nil, fmt.Errorf("instance %q is no name for a table: %w", o.Instance, errdefs.ErrInvalidArgument)
	}
	makeRoom()
	sets := definitions()
	return &Opener{options: o, sets: &sets, revision: sync.OnceValues(newTable(o.Instance, &sets).digest)}, nil
}

// Open opens the firewall of a namespace by the path of its file; "" is the host's. Nothing is made before the first Apply that wants
// something. NotFound if there is no such namespace.
func (o *Opener) Open(ctx context.Context, key string) (firewall.Firewall, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path := key
	if key == "" {
		path = o.options.Host
	}
	socket, err := o.socket(path)
	if err != nil {
		return nil, fmt.Errorf("open firewall of %q: %w", path, kinded(err))
	}
	if err := socket.SetBuffers(buffers); err != nil {
		return nil, errors.Join(fmt.Errorf("open firewall of %q: %w", path, kinded(err)), socket.Close())
	}
	t := newTable(o.options.Instance, o.sets)
	t.socket, t.path, t.host = socket, path, key == ""
	t.flows = &flows{path: path, passes: &o.passes}
	if t.revision, err = o.revision(); err != nil {
		return nil, errors.Join(fmt.Errorf("encode rules: %w: %w", err, errdefs.ErrInternal), socket.Close())
	}
	if t.host {
		o.adopt(t)
	}
	return t, nil
}

func (o *Opener) socket(path string) (*nlmsg.Socket, error) {
	if o.options.Socket == nil {
		return nlmsg.Open(path, unix.NETLINK_NETFILTER)
	}
	fd, err := o.options.Socket(path)
	if err != nil {
		return nil, err
	}
	return nlmsg.Use(fd)
}

// adopt lets Forget share the passes of the host's firewall while that is open.
func (o *Opener) adopt(t *table) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hosts = t.flows
	t.closed = func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.hosts == t.flows {
			o.hosts = nil
		}
	}
}

// newTable is one that no namespace has yet.
func newTable(name string, sets *[setCount]definition) *table {
	t := &table{name: name, sets: sets, closed: func() {}}
	t.tx.t = t
	return t
}

// digest names the rule set, so that a table made by another version is known as such.
func (t *table) digest() (string, error) {
	t.tx.begin()
	if err := t.tx.create(""); err != nil {
		return "", err
	}
	sum := sha256.Sum256(t.tx.batch.Bytes())
	return "rules " + hex.EncodeToString(sum[:4]), nil
}

// kinded gives an error of the kernel its kind.
func kinded(err error) error {
	for _, k := range []struct {
		errno unix.Errno
		kind  error
	}{
		{unix.EPERM, errdefs.ErrPermissionDenied}, {unix.EACCES, errdefs.ErrPermissionDenied},
		{unix.ENOENT, errdefs.ErrNotFound}, {unix.EEXIST, errdefs.ErrAlreadyExists}, {unix.EBUSY, errdefs.ErrAlreadyExists},
		{unix.EINVAL, errdefs.ErrInvalidArgument}, {unix.EOPNOTSUPP, errdefs.ErrNotImplemented}, {unix.EPROTONOSUPPORT, errdefs.ErrNotImplemented},
		{unix.ENOMEM, errdefs.ErrResourceExhausted}, {unix.ENOBUFS, errdefs.ErrResourceExhausted}, {unix.EMFILE, errdefs.ErrResourceExhausted},
		{unix.ENFILE, errdefs.ErrResourceExhausted}, {unix.EMSGSIZE, errdefs.ErrResourceExhausted},
	} {
		if errors.Is(err, k.errno) {
			return fmt.Errorf("%w: %w", err, k.kind)
		}
	}
	return err
}
