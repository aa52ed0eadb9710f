package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/sandbox"
)

// Listen answers at an address of the host too, for the networks named and no others, those that come later included; without names for
// all, which is for the loopback only: InvalidArgument. It asks no other servers for anybody. It lasts until Close; the result is where it
// listens.
func (r *Resolver) Listen(at netip.AddrPort, networks ...string) (netip.AddrPort, error) {
	if len(networks) == 0 && !at.Addr().IsLoopback() {
		return at, fmt.Errorf("listen for names at %s: %w: other machines can reach it: say which networks it is to answer for, as %s=NETWORK",
			at, errdefs.ErrInvalidArgument, at)
	}
	b := &box{turn: &turn{}, listens: true, named: networks}
	if err := nsthread.Do(r.options.Host, func() error { return b.listen(at, here) }); err != nil {
		return at, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return at, errors.Join(fmt.Errorf("%w: it is closed", errdefs.ErrFailedPrecondition), closeAll([]int{b.udp, b.tcp}))
	}
	at = netip.AddrPortFrom(at.Addr(), b.port)
	r.boxes[sandbox.ID("listen "+at.String())] = b // no id has a space
	r.nameListeners()
	return at, r.engine.add(b)
}

// nameListeners says which networks listeners answer for. The lock is held.
func (r *Resolver) nameListeners() {
	for _, b := range r.boxes {
		if !b.listens {
			continue
		}
		b.zones = nil
		for id, z := range r.zones {
			if len(b.named) == 0 || slices.Contains(b.named, z.name) {
				b.zones = append(b.zones, id)
			}
		}
		slices.Sort(b.zones)
	}
}
