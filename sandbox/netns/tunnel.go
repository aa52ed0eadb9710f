package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// createVXLAN makes a tunnel whose packets are the host's and whose device is here. A number that another device has on the port is
// AlreadyExists with that device's name; one that nobody to be seen has is of a namespace that the kernel has not done away with yet, and
// waited for.
func (a *apply) createVXLAN(ctx context.Context, l sandbox.Link) error {
	const patience, pause = 5 * time.Second, 10 * time.Millisecond // nothing tells when a namespace is gone
	for end := time.Now().Add(patience); ; {
		err := a.tryVXLAN(ctx, l)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		holder, lookErr := a.ns.p.tunnelHolder(*l.VXLAN)
		if lookErr != nil {
			return errors.Join(err, lookErr)
		}
		if holder != "" || time.Now().After(end) {
			return fmt.Errorf("%w: VNI %d on UDP port %d is taken by %s: take another number or port, or remove that device",
				errdefs.ErrAlreadyExists, l.VXLAN.VNI, l.VXLAN.Port, holderName(holder))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func holderName(found string) string {
	if found == "" {
		return "a device in a namespace that cannot be seen from here"
	}
	return found
}

func (a *apply) tryVXLAN(ctx context.Context, l sandbox.Link) error {
	v := *l.VXLAN
	return a.fromHost(ctx, l, "vxlan", 0, func(b *nlmsg.Batch) error {
		b.Uint32(unix.IFLA_VXLAN_ID, v.VNI)
		b.Uint8(unix.IFLA_VXLAN_LEARNING, 0)
		if v.Port != 0 {
			b.Attr(unix.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, uint16(v.Port)))
		}
		switch {
		case v.Local.Is4():
			b.Attr(unix.IFLA_VXLAN_LOCAL, v.Local.AsSlice())
		case v.Local.Is6():
			b.Attr(unix.IFLA_VXLAN_LOCAL6, v.Local.AsSlice())
		}
		return nil
	})
}

// tunnelHolder finds the device that has a VNI on a port, in the host and in our namespaces; "" none.
func (p *Provider) tunnelHolder(v sandbox.VXLAN) (string, error) {
	links, err := listLinks(p.sock)
	if err != nil {
		return "", err
	}
	if name := tunnelAmong(links, v); name != "" {
		return "device " + name + " of the host", nil
	}
	ids, err := p.List(context.Background())
	if err != nil {
		return "", err
	}
	for _, id := range ids {
		s, err := nlmsg.Open(filepath.Join(p.names, string(id)), unix.NETLINK_ROUTE)
		if err != nil {
			continue // it has just been removed
		}
		links, err := listLinks(s)
		if err := errors.Join(err, s.Close()); err != nil {
			return "", err
		}
		if name := tunnelAmong(links, v); name != "" {
			return fmt.Sprintf("device %s of namespace %s", name, id), nil
		}
	}
	return "", nil
}

func tunnelAmong(links []seen, v sandbox.VXLAN) string {
	for _, l := range links {
		if l.kind != "vxlan" {
			continue
		}
		if other := parseVXLAN(maps.Collect(nlmsg.Attrs(l.data))); other.VNI == v.VNI && other.Port == v.Port {
			return l.name
		}
	}
	return ""
}
