// Package netns is the room of sandbox for Linux network namespaces: it makes, opens, watches and removes them, and makes them contain
// what a sandbox.Config says.
//
// There is one path: sandbox.Diff says the steps, every step is written as netlink messages, and one sendmsg sends them (two where a
// step needs the index of a link that an earlier one makes). Nothing on it lists what the kernel has, starts a process or waits for a
// grace period; what waits (deleting links, removing namespaces) is done by workers.
package netns

import (
	"cmp"
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
	Run      string // directory: namespaces are at <Run>/netns/<id>. Required; best on a tmpfs
	Instance string // owner of links: their alias is sealane:<Instance>/<owner>; "": "sealane"
	Ready    int    // namespaces kept ready beforehand, with a descriptor each and one for each of Sockets; 0: none
	Sockets  []Kind // what is made with each namespace for Provider.Socket
}

// Provider makes namespaces and opens those of others. It implements sandbox.Provider, Surveyor, Lister and Gone. Safe for concurrent
// use.
type Provider struct {
	host, instance string
	names, mounts  string // directories
	ipv6           bool   // the kernel has it
	groups         groups
	lock           int           // descriptor
	sock           *nlmsg.Socket // of the host
	port           uint32        // of sock
	cookie         uint64        // of the host
	announcer      announcer
	procfs         *procfs
	warden         *warden
	reaper         *reaper
	ready          *ready
	kinds          []Kind
	spares         spares
	pairs          pairs
}

var (
	_ sandbox.Provider = (*Provider)(nil)
	_ sandbox.Lister   = (*Provider)(nil)
	_ sandbox.Surveyor = (*Provider)(nil)
	_ sandbox.Indexer  = (*Provider)(nil)
	_ sandbox.Gone     = (*Provider)(nil)
)

// mounts is the directory beside netns that holds what the names there lead to.
const mounts = "mounts"

// New opens the host and sweeps what a process that died left in the run directory. FailedPrecondition when another one of the same
// instance works in this host; PermissionDenied, before any effect, for a process that may not make namespaces and links.
func New(o Options) (*Provider, error) {
	p := &Provider{host: o.Host, instance: cmp.Or(o.Instance, "sealane"), lock: -1, announcer: announcer{host: o.Host, fd: -1}, procfs: newProcfs(),
		kinds: o.Sockets}
	if err := p.open(o); err != nil {
		return nil, fmt.Errorf("open namespaces in %s: %w", o.Run, errors.Join(err, p.Close()))
	}
	return p, nil
}

func (p *Provider) open(o Options) error {
	if o.Run == "" {
		return fmt.Errorf("%w: no run directory", errdefs.ErrInvalidArgument)
	}
	if err := privileged(); err != nil {
		return err
	}
	run, err := filepath.Abs(o.Run)
	if err != nil {
		return err
	}
	if p.lock, err = lock(p.host, p.instance); err != nil {
		return err
	}
	p.names, p.mounts = filepath.Join(run, "netns"), filepath.Join(run, mounts)
	for _, dir := range []string{p.names, p.mounts} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if p.groups, err = openGroups(filepath.Join(run, "link-group")); err != nil {
		return err
	}
	if p.sock, err = nlmsg.Open(p.host, unix.NETLINK_ROUTE); err != nil {
		return err
	}
	if p.port, err = p.sock.Port(); err != nil {
		return err
	}
	if p.cookie, err = cookie(p.sock.FD()); err != nil {
		return err
	}
	_, err = os.Stat("/proc/sys/net/ipv6")
	p.ipv6 = err == nil
	if p.warden, err = newWarden(); err != nil {
		return err
	}
	grave, err := nlmsg.Open(p.host, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	p.reaper = newReaper(p.groups, grave)
	if err := errors.Join(p.sweep(), p.exhume()); err != nil {
		return err
	}
	p.ready = newReady(o.Ready, p.readySpace)
	return nil
}

// privileged refuses a process whom the kernel would refuse one thing after the other. Who is root of a user namespace only is told by the
// kernel.
func privileged() error {
	var caps [2]unix.CapUserData // 32 capabilities each
	if err := unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]); err != nil {
		return fmt.Errorf("ask for capabilities: %w", err)
	}
	const needed = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_ADMIN
	if caps[0].Effective&needed != needed {
		return fmt.Errorf("%w: making network namespaces and links takes CAP_NET_ADMIN and CAP_SYS_ADMIN: run it as root", errdefs.ErrPermissionDenied)
	}
	return nil
}

// Close finishes what is being removed and lets go of the host. Namespaces and what they contain stay, but for those kept ready.
func (p *Provider) Close() error {
	var errs []error
	if p.ready != nil {
		for _, s := range p.ready.close() {
			errs = append(errs, s.first.close(), unmount(s.mount))
		}
	}
	p.spares.close()
	if p.reaper != nil {
		p.reaper.close()
		errs = append(errs, p.reaper.host.Close())
	}
	if p.warden != nil {
		errs = append(errs, p.warden.close())
	}
	if p.sock != nil {
		errs = append(errs, p.sock.Close())
	}
	errs = append(errs, p.announcer.close(), p.procfs.close())
	if p.lock >= 0 {
		errs = append(errs, unix.Close(p.lock))
	}
	return errors.Join(errs...)
}

// Filled waits until as many namespaces are ready as Options.Ready says, or ctx ends.
func (p *Provider) Filled(ctx context.Context) error { return p.ready.wait(ctx) }

// Drain waits until what was removed by now is gone, and says what could not be.
func (p *Provider) Drain(ctx context.Context) error { return p.reaper.wait(ctx) }
