package netns

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// arrive moves a link that a driver made in the host's namespace here, under its new name. One that has arrived stays.
func (a *apply) arrive(ctx context.Context, l sandbox.Link) error {
	if err := a.flush(ctx); err != nil {
		return err
	}
	index, err := linkIndex(a.ns.p.sock.FD(), l.Arrives)
	if errors.Is(err, unix.ENODEV) {
		if _, here := linkIndex(a.inside.route.FD(), l.Name); here == nil {
			return nil
		}
	}
	if err != nil {
		return err
	}
	if err := a.ns.p.mayArrive(l.Arrives); err != nil {
		return err
	}
	return move(a.ns.p.sock, index, a.ns.key, l.Name)
}

// mayArrive refuses links that cannot have been made for an endpoint, whatever their driver says: the host's own, and those in use.
func (p *Provider) mayArrive(name string) error {
	nl, err := p.handle()
	if err != nil {
		return err
	}
	defer nl.Close()
	l, err := nl.LinkByName(name)
	if err != nil {
		return err
	}
	addrs, err := nlmsg.Whole(func() ([]netlink.Addr, error) { return nl.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	addrs = slices.DeleteFunc(addrs, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() })
	why := ""
	switch _, ours := p.owner(l.Attrs().Alias); {
	case ours:
		why = "it is another endpoint's"
	case l.Type() == "device":
		why = "it is hardware of the host, or its loopback"
	case l.Type() == "bridge":
		why = "it is a bridge of the host"
	case l.Attrs().MasterIndex != 0:
		why = "it is a port of another link"
	case len(addrs) > 0:
		why = "the host has the address " + addrs[0].IP.String() + " on it"
	default:
		return nil
	}
	return fmt.Errorf("link %s: %w: %s", name, errdefs.ErrFailedPrecondition, why)
}

// sendBack returns a link to the host under the name it came with. One that is gone was deleted by its driver.
func (a *apply) sendBack(ctx context.Context, l sandbox.Link) error {
	if err := a.flush(ctx); err != nil {
		return err
	}
	index, err := linkIndex(a.inside.route.FD(), l.Name)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	host := a.ns.p.host
	if host == "" {
		host = "/proc/self/ns/net"
	}
	return move(a.inside.route, index, host, l.Arrives)
}

// move takes a link to another namespace and renames it there, down: the kernel does both at once.
func move(from *nlmsg.Socket, index uint32, to, name string) error {
	space, err := openFile(to)
	if err != nil {
		return err
	}
	defer unix.Close(space)
	var b nlmsg.Batch
	beginLink(&b, unix.RTM_NEWLINK, unix.NLM_F_ACK, index, 0, unix.IFF_UP)
	b.String(unix.IFLA_IFNAME, name)
	b.Uint32(unix.IFLA_NET_NS_FD, uint32(space))
	b.End()
	return from.Do(&b, nil)
}
