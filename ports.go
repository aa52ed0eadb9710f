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
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/sandbox"
)

// ports are the host ports that sandboxes hold by a bound socket, so that another process gets "address in use". A sandbox's endpoints
// share them: what one publishes another takes over when it becomes the gateway.
type ports struct {
	mu   sync.Mutex // guards held
	held map[sandbox.ID]map[endpoint.PortBinding]io.Closer
}

// givePorts turns the ports that a member wants into ports it has: those given before stay, whatever happened to their socket; new ones
// are reserved. The result is in the member's record from now on.
func (c *Controller) givePorts(ctx context.Context, v *content, m *member) ([]endpoint.PortBinding, error) {
	var given []endpoint.PortBinding
	for _, want := range wantedPorts(m.info.Spec) {
		b, found := v.givenBefore(m, want, given)
		if !found {
			var err error
			if b, err = c.reserveAny(ctx, v, want); err != nil {
				return nil, err
			}
		} else if err := c.reserve(ctx, v, b); err != nil {
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
func (m *member) trimPorts() {
	wanted := wantedPorts(m.info.Spec)
	kept := slices.DeleteFunc(slices.Clone(m.info.Ports), func(b endpoint.PortBinding) bool {
		return !slices.ContainsFunc(wanted, func(want endpoint.PortBinding) bool { return serves(b, want) })
	})
	if len(kept) != len(m.info.Ports) {
		m.info.Ports, m.dirty = kept, true
	}
}

// wantedPorts is the list of bindings that an endpoint asks for, ranges of any free ports port by port.
func wantedPorts(s endpoint.Spec) []endpoint.PortBinding {
	wanted := slices.Clone(s.Publish)
	if s.PublishAll {
		for _, b := range s.Exposed {
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
func (c *Controller) reserveAny(ctx context.Context, v *content, want endpoint.PortBinding) (endpoint.PortBinding, error) {
	b := want
	last := int(want.HostPorts.Last) - (int(want.Ports.Last) - int(want.Ports.First))
	var err error
	for first := int(want.HostPorts.First); first <= last; first++ {
		if first > 0 {
			b.HostPorts = firewall.Range{First: uint16(first), Last: uint16(first) + want.Ports.Last - want.Ports.First}
		}
		got, held, rerr := c.bind(ctx, v, b)
		if rerr == nil {
			b.HostPorts = got
			c.ports.hold(v.id, b, held)
			return b, nil
		}
		err = rerr
		if !errdefs.IsAlreadyExists(rerr) && !errdefs.IsConflict(rerr) {
			break
		}
	}
	return b, fmt.Errorf("publish %s: %w", want, err)
}

// reserve makes sure that the socket of a given binding is there.
func (c *Controller) reserve(ctx context.Context, v *content, b endpoint.PortBinding) error {
	if c.ports.holds(v.id, b) {
		return nil
	}
	_, held, err := c.bind(ctx, v, b)
	if err == nil {
		c.ports.hold(v.id, b, held)
	}
	return err
}

// bind asks the host for ports. A sandbox without IPv6 leaves that family's ports to others.
func (c *Controller) bind(ctx context.Context, v *content, b endpoint.PortBinding) (firewall.Range, io.Closer, error) {
	host := b.Host
	six := func(m *member) bool { return m.remains(v) && hasFamily(m.info.Addresses, true) }
	if !host.IsValid() && !slices.ContainsFunc(v.members, six) {
		host = netip.IPv4Unspecified()
	}
	return c.reservePorts(ctx, b.Proto, host, b.HostPorts)
}

func (p *ports) holds(id sandbox.ID, b endpoint.PortBinding) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, held := p.held[id][b]
	return held
}

func (p *ports) hold(id sandbox.ID, b endpoint.PortBinding, c io.Closer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil {
		p.held = map[sandbox.ID]map[endpoint.PortBinding]io.Closer{}
	}
	if p.held[id] == nil {
		p.held[id] = map[endpoint.PortBinding]io.Closer{}
	}
	p.held[id][b] = c
}

// keep closes the sockets of a sandbox that no record of it names.
func (p *ports) keep(v *content) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for b, held := range p.held[v.id] {
		named := func(m *member) bool { return m.remains(v) && slices.Contains(m.info.Ports, b) }
		if !slices.ContainsFunc(v.members, named) {
			held.Close()
			delete(p.held[v.id], b)
		}
	}
	if len(p.held[v.id]) == 0 {
		delete(p.held, v.id)
	}
}

func (p *ports) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, bindings := range p.held {
		for _, held := range bindings {
			errs = append(errs, held.Close())
		}
	}
	p.held = nil
	return errors.Join(errs...)
}
