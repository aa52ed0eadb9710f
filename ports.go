package sealane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/sandbox"
)

// ports are the host ports that sandboxes hold by a bound socket, so that another process gets "address in use". A sandbox's endpoints
// share them: what one publishes another takes over when it becomes the gateway.
type ports struct {
	mu   sync.Mutex // guards held
	held map[sandbox.ID][]reservation
}

// reservation is a bound socket and the address it is bound to; zero: all of both families.
type reservation struct {
	of   endpoint.PortBinding
	host netip.Addr
	io.Closer
}

// covers says that a port is reserved at an address, or at all for zero.
func (r reservation) covers(host netip.Addr) bool {
	all := r.host == netip.IPv4Unspecified() && host.Is4() || r.host == netip.IPv6Unspecified() && host.Is6()
	return r.host == host || !r.host.IsValid() || all
}

// Ports is what a sandbox publishes whichever of its endpoints is its gateway. NotFound when there is no such sandbox.
func (c *Controller) Ports(ctx context.Context, id sandbox.ID) (endpoint.Ports, error) {
	v, err := view(ctx, c.o.Run, func(tx datastore.Tx) (*content, error) { return c.memory.readRun(tx, id) })
	if err == nil && !v.known {
		err = errdefs.ErrNotFound
	}
	if err != nil {
		return endpoint.Ports{}, fmt.Errorf("ports of sandbox %s: %w", shortID(string(id)), err)
	}
	return v.ports, nil
}

// ChangePorts changes what a sandbox publishes whichever of its endpoints is its gateway: all of it or nothing. While it is on no network
// the ports wait for one. change is told what host ports the sandbox was given. AlreadyExists: a port is taken, by a sandbox or a
// process; InvalidArgument for a sandbox in a namespace that is not its own.
func (c *Controller) ChangePorts(ctx context.Context, id sandbox.ID, change func(p *endpoint.Ports, given []endpoint.PortBinding) error) error {
	if err := c.changePorts(ctx, id, change); err != nil {
		return fmt.Errorf("ports of sandbox %s: %w", shortID(string(id)), err)
	}
	return nil
}

func (c *Controller) changePorts(ctx context.Context, id sandbox.ID, change func(p *endpoint.Ports, given []endpoint.PortBinding) error) error {
	unlock, err := c.locks.exclusive(ctx, "ports/"+string(id)) // nobody changes them between a failure and its undoing
	if err != nil {
		return err
	}
	defer unlock()
	var was endpoint.Ports
	var on []endpoint.NetworkID
	changed := false
	err = c.converge(ctx, id, func(v *content) error {
		was, on = v.ports, networksOf(v.members)
		to := v.ports.Clone()
		if err := v.publishes(); err != nil {
			return err
		}
		if err := change(&to, v.givenPorts()); err != nil {
			return err
		}
		v.ports, v.moved, changed = to, true, true
		return checkPorts(to)
	}, nil)
	if err != nil && changed {
		ctx, cancel := afterwards(ctx)
		defer cancel()
		back := c.converge(ctx, id, func(v *content) error {
			v.ports, v.moved = was, true
			return nil
		}, nil)
		if back != nil {
			c.mender.later(sandboxOwner(id), back)
		}
	}
	for _, n := range on {
		c.resettle(n) // other hosts are told of ports as well
	}
	return err
}

// publishes refuses for a sandbox that has no ports of its own.
func (v *content) publishes() error {
	o := v.sandbox.Spec.Namespace
	switch {
	case !v.known:
		return errdefs.ErrNotFound
	case v.sandbox.Deleting:
		return fmt.Errorf("%w: it is being deleted", errdefs.ErrFailedPrecondition)
	case v.sandbox.Unknown:
		return fmt.Errorf("%w: it was found running without a record: what it publishes stays as it is", errdefs.ErrFailedPrecondition)
	case o.Host || o.Share != "":
		return fmt.Errorf("%w: a sandbox in the host's or another one's namespace has no ports of its own to publish", errdefs.ErrInvalidArgument)
	}
	return nil
}

// givenPorts lists what the members were given, who share it.
func (v *content) givenPorts() []endpoint.PortBinding {
	var given []endpoint.PortBinding
	for _, m := range v.members {
		for _, b := range m.info.Ports {
			if !slices.Contains(given, b) {
				given = append(given, b)
			}
		}
	}
	return given
}

func checkPorts(p endpoint.Ports) error {
	var errs []error
	for _, b := range slices.Concat(p.Publish, p.Exposed) {
		errs = append(errs, b.Check())
	}
	return together(errs...)
}

// givePorts turns the ports that a member wants into ports it has: those given before stay, whatever happened to their socket; new ones
// are reserved. The result is in the member's record from now on.
func (c *Controller) givePorts(ctx context.Context, v *content, m *member) ([]endpoint.PortBinding, error) {
	var given []endpoint.PortBinding
	for _, want := range v.wantedPorts(m) {
		b, found := v.givenBefore(m, want, given)
		if !found {
			var err error
			if b, err = c.reserveAny(ctx, v, m, want); err != nil {
				return nil, err
			}
		} else if err := c.reserve(ctx, v, m, b); err != nil {
			c.log.Warn("a published port is not reserved any more; it goes on working", "sandbox", v.id, "port", b, "error", err)
		}
		given = append(given, b)
	}
	if !slices.Equal(given, m.info.Ports) {
		m.info.Ports, m.dirty = given, true
	}
	return given, nil
}

// trimPorts drops what the member has and does not ask for any more. What it asks for stays its own while another is the gateway.
func (m *member) trimPorts(v *content) {
	wanted := v.wantedPorts(m)
	kept := slices.DeleteFunc(slices.Clone(m.info.Ports), func(b endpoint.PortBinding) bool {
		return !slices.ContainsFunc(wanted, func(want endpoint.PortBinding) bool { return serves(b, want) })
	})
	if len(kept) != len(m.info.Ports) {
		m.info.Ports, m.dirty = kept, true
	}
}

// wantedPorts is what a member publishes as the gateway: what it asks for itself, and what the sandbox asks for.
func (v *content) wantedPorts(m *member) []endpoint.PortBinding {
	s := m.info.Spec
	own := endpoint.Ports{Publish: s.Publish, PublishAll: s.PublishAll, Exposed: s.Exposed}
	return append(wantedPorts(own), wantedPorts(v.ports)...)
}

// wantedPorts is the list of bindings that are asked for, ranges of any free ports port by port.
func wantedPorts(p endpoint.Ports) []endpoint.PortBinding {
	wanted := slices.Clone(p.Publish)
	if p.PublishAll {
		for _, b := range p.Exposed {
			wanted = append(wanted, endpoint.PortBinding{Proto: b.Proto, Ports: b.Ports})
		}
	}
	var single []endpoint.PortBinding
	for _, b := range wanted {
		if b.HostPorts != (firewall.Range{}) || b.Ports.First == b.Ports.Last {
			single = append(single, b)
			continue
		}
		for p := int(b.Ports.First); p <= int(b.Ports.Last); p++ {
			one := b
			one.Ports = firewall.Range{First: uint16(p), Last: uint16(p)}
			single = append(single, one)
		}
	}
	return single
}

// givenBefore finds a binding that the sandbox has and that is what is wanted, and is not taken for an earlier wish.
func (v *content) givenBefore(m *member, want endpoint.PortBinding, taken []endpoint.PortBinding) (endpoint.PortBinding, bool) {
	for _, other := range append([]*member{m}, v.members...) {
		for _, b := range other.info.Ports {
			if serves(b, want) && !slices.Contains(taken, b) {
				return b, true
			}
		}
	}
	return endpoint.PortBinding{}, false
}

func serves(given, want endpoint.PortBinding) bool {
	return given.Proto == want.Proto && given.Host == want.Host && given.Ports == want.Ports &&
		(want.HostPorts == firewall.Range{} ||
			given.HostPorts.First >= want.HostPorts.First && given.HostPorts.Last <= want.HostPorts.Last)
}

// reserveAny reserves the first host ports that fit a wish.
func (c *Controller) reserveAny(ctx context.Context, v *content, m *member, want endpoint.PortBinding) (endpoint.PortBinding, error) {
	b, at := want, c.reservedAt(ctx, v, m, want)
	last := int(want.HostPorts.Last) - (int(want.Ports.Last) - int(want.Ports.First))
	var err error
	for first := int(want.HostPorts.First); first <= last; first++ {
		if first > 0 {
			b.HostPorts = firewall.Range{First: uint16(first), Last: uint16(first) + want.Ports.Last - want.Ports.First}
		}
		got, held, rerr := c.reservePorts(ctx, b.Proto, at, b.HostPorts)
		if rerr == nil {
			b.HostPorts = got
			if m.driven.Publishes { // its driver takes them
				return b, held.Close()
			}
			c.ports.hold(v.id, reservation{b, at, held})
			return b, nil
		}
		err = rerr
		if !errdefs.IsAlreadyExists(rerr) && !errdefs.IsConflict(rerr) {
			break
		}
	}
	return b, fmt.Errorf("publish %s: %w", want, err)
}

// reserve makes sure that the socket of a given binding is there. One that is bound too narrowly, because another member was the gateway,
// makes room for the one that is needed.
func (c *Controller) reserve(ctx context.Context, v *content, m *member, b endpoint.PortBinding) error {
	if m.driven.Publishes {
		c.ports.drop(v.id, b)
		return nil
	}
	at := c.reservedAt(ctx, v, m, b)
	if c.ports.holds(v.id, b, at) {
		return nil
	}
	_, held, err := c.reservePorts(ctx, b.Proto, at, b.HostPorts)
	if err == nil {
		c.ports.hold(v.id, reservation{b, at, held})
	}
	return err
}

// reservedAt is the host address at which a binding takes its port: the one it names, else the one that its network is bound to, else all.
// A sandbox without IPv6 leaves that family's ports to others.
func (c *Controller) reservedAt(ctx context.Context, v *content, m *member, b endpoint.PortBinding) netip.Addr {
	if b.Host.IsValid() {
		return b.Host
	}
	if host := c.Binding(ctx, m.network); host.IsValid() {
		return host
	}
	six := func(m *member) bool { return m.remains(v) && hasFamily(m.info.Addresses, true) }
	if !slices.ContainsFunc(v.members, six) {
		return netip.IPv4Unspecified()
	}
	return netip.Addr{}
}

// holds says that a binding's port is reserved at an address. A reservation elsewhere is given up.
func (p *ports) holds(id sandbox.ID, b endpoint.PortBinding, at netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.held[id], func(r reservation) bool { return r.of == b })
	if i >= 0 && p.held[id][i].covers(at) {
		return true
	}
	p.remove(id, i)
	return false
}

// drop gives a reservation up.
func (p *ports) drop(id sandbox.ID, b endpoint.PortBinding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(id, slices.IndexFunc(p.held[id], func(r reservation) bool { return r.of == b }))
}

func (p *ports) remove(id sandbox.ID, i int) {
	if i >= 0 {
		p.held[id][i].Close()
		p.held[id] = slices.Delete(p.held[id], i, i+1)
	}
}

func (p *ports) hold(id sandbox.ID, r reservation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = map[sandbox.ID][]reservation{}
	}
	p.held[id] = append(p.held[id], r)
}

// keep closes the sockets of a sandbox that no record of it names.
func (p *ports) keep(v *content) {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := slices.DeleteFunc(p.held[v.id], func(r reservation) bool {
		named := func(m *member) bool { return m.remains(v) && slices.Contains(m.info.Ports, r.of) }
		if slices.ContainsFunc(v.members, named) {
			return false
		}
		r.Close()
		return true
	})
	if len(left) == 0 {
		delete(p.held, v.id)
	} else {
		p.held[v.id] = left
	}
}

func (p *ports) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, reserved := range p.held {
		for _, r := range reserved {
			errs = append(errs, r.Close())
		}
	}
	p.held = nil
	return errors.Join(errs...)
}
