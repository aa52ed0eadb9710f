package dns

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// SetGateway implements resolver.Gateways. Its sockets are bound to the link, so that what comes in elsewhere does not reach them; to the
// kernel what the host sends to an address of its own comes in there too.
func (r *Resolver) SetGateway(ctx context.Context, ns sandbox.Namespace, g resolver.Gateway) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.setting.Lock()
	defer r.setting.Unlock()
	stay := map[sandbox.ID]bool{}
	var errs []error
	for _, a := range g.Addrs {
		id := gatewayBox(g.Network, a)
		stay[id] = true
		if err := r.setGateway(ns, id, a, g); err != nil {
			errs = append(errs, fmt.Errorf("answer names at %s: %w", a, err))
		}
	}
	for _, id := range r.gatewayBoxes(g.Network) {
		if !stay[id] {
			errs = append(errs, r.remove(id))
		}
	}
	return errors.Join(errs...)
}

// gatewayBox is the key of a box, and the name of its sockets at the Keeper: no id of a sandbox has a dash.
func gatewayBox(id endpoint.NetworkID, a netip.Addr) sandbox.ID {
	return sandbox.ID("gateway-" + string(id) + "-" + hex.EncodeToString(a.AsSlice()))
}

// gatewayBoxes are the boxes of a network, and what the Keeper kept of some.
func (r *Resolver) gatewayBoxes(id endpoint.NetworkID) (all []sandbox.ID) {
	prefix := string(gatewayBox(id, netip.Addr{}))
	r.mu.RLock()
	defer r.mu.RUnlock()
	for box := range r.boxes {
		if strings.HasPrefix(string(box), prefix) {
			all = append(all, box)
		}
	}
	for name := range r.kept {
		if strings.HasPrefix(name, prefix) {
			all = append(all, sandbox.ID(name))
		}
	}
	return all
}

// setGateway answers at one address. The link may have been made anew since it was last asked for.
func (r *Resolver) setGateway(ns sandbox.Namespace, id sandbox.ID, at netip.Addr, g resolver.Gateway) error {
	b := r.box(id)
	if b == nil || b.cookie != ns.Cookie() || !b.through(g.Link) {
		if b != nil {
			if err := r.remove(id); err != nil {
				return err
			}
		}
		var err error
		if b, err = r.openGateway(ns, id, at, g.Link); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return errors.Join(fmt.Errorf("%w: it is closed", errdefs.ErrFailedPrecondition), closeAll([]int{b.udp, b.tcp}))
	}
	b.see(r, resolver.View{Zones: []endpoint.NetworkID{g.Network}, Forward: g.Forward, Upstreams: g.Upstreams})
	if r.boxes[id] == b {
		return nil
	}
	r.boxes[id] = b
	return r.engine.add(b)
}

// openGateway gives the box of an address its sockets.
func (r *Resolver) openGateway(ns sandbox.Namespace, id sandbox.ID, at netip.Addr, link string) (*box, error) {
	b := &box{cookie: ns.Cookie(), turn: &turn{}, link: link}
	return b, r.obtain(id, b, func() bool { return b.through(link) }, func([]int) error {
		err := nsthread.Do(cmp.Or(ns.Key(), r.options.Host), func() error { return b.listen(netip.AddrPortFrom(at, dnsPort), here) })
		switch {
		case errors.Is(err, unix.ENODEV):
			return fmt.Errorf("%w: there is no link %s: %w", errdefs.ErrNotFound, link, err)
		case errors.Is(err, unix.EADDRINUSE):
			return fmt.Errorf("%w: another program answers there: %w", errdefs.ErrFailedPrecondition, err)
		}
		return err
	})
}

// through says that the sockets of a box are bound to the link that has a name now.
func (b *box) through(link string) bool {
	const soBindToIfindex = 62 // SO_BINDTOIFINDEX
	ifr, err := unix.NewIfreq(link)
	if err != nil || unix.IoctlIfreq(b.udp, unix.SIOCGIFINDEX, ifr) != nil {
		return false
	}
	for _, fd := range []int{b.udp, b.tcp} {
		bound, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, soBindToIfindex)
		if err != nil || bound != int(ifr.Uint32()) {
			return false
		}
	}
	return true
}
