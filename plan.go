package sealane

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// computes says that asking a driver has no effect. One that is not built in always acts: to know that it need not answer.
func (c *Controller) computes(ctx context.Context, driver string) bool {
	d := c.o.Drivers[driver]
	if d == nil {
		return false
	}
	can, err := d.Capability(ctx)
	return err == nil && can.Computes
}

// facts is what the host is like, as it was when a network was last made, changed or repaired: asking costs dumps, which an attach does not
// pay for.
type facts struct {
	mu     sync.Mutex // guards what is below
	survey sandbox.Survey
	links  map[string]bool // asked for so far
}

// outdate has the host looked at anew by who next asks.
func (f *facts) outdate() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.survey = sandbox.Survey{}
}

// look is what the host is like, with the links that options may name.
func (c *Controller) look(ctx context.Context, options map[string]string) (sandbox.Survey, error) {
	f := &c.facts
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh := f.survey.MTU == 0
	for _, value := range options {
		if couldBeLink(value) && !f.links[value] {
			if f.links == nil {
				f.links = map[string]bool{}
			}
			f.links[value] = true
			fresh = true
		}
	}
	if fresh {
		var err error
		if f.survey, err = c.survey(ctx, slices.Sorted(maps.Keys(f.links))); err != nil {
			f.survey = sandbox.Survey{} // nobody shall take it for an answer
			return f.survey, fmt.Errorf("look at the host: %w", err)
		}
	}
	return f.survey, nil
}

// input is what a driver computes from.
func (c *Controller) input(ctx context.Context, n netdriver.Network) (netdriver.Input, error) {
	is, err := c.look(ctx, n.Options)
	if err != nil {
		return netdriver.Input{}, err
	}
	host := netdriver.Host{ID: c.o.Host, Boot: is.Boot, Advertise: c.o.Advertise, MTU: is.MTU, Links: is.Links, Features: is.Features, Routes: is.Routes}
	if mtu := is.MTUs[host.Advertise]; mtu != 0 {
		host.MTU = mtu
	}
	return netdriver.Input{Network: n, Host: host, Peers: c.Peers(n.ID)}, nil
}

// couldBeLink says that an option's value may name a link of the host, such as a parent or a bridge that exists.
func couldBeLink(value string) bool {
	const longest = 15
	return value != "" && len(value) <= longest && !strings.ContainsAny(value, "/ \t\n,=")
}

// planNetwork asks a driver what a network wants of the kernel.
func (c *Controller) planNetwork(ctx context.Context, n netdriver.Network, d netdriver.Driver) (netdriver.Plan, error) {
	in, err := c.input(ctx, n)
	if err != nil {
		return netdriver.Plan{}, err
	}
	return d.CreateNetwork(ctx, in)
}

// plan fills in what each member wants, and what the sandbox contains then. A member that has something already keeps it when its
// driver cannot be asked; one that has nothing fails the call.
func (c *Controller) plan(ctx context.Context, v *content) error {
	v.brought = map[string]sandbox.Attachment{}
	for _, m := range v.members {
		if !m.wanted(v) {
			continue
		}
		var err error
		if m.want, err = c.planMember(ctx, v, m, nil); err != nil {
			return err
		}
		if m.want.Attachment != nil && !v.sandbox.Spec.Namespace.Foreign {
			v.brought[string(m.id)] = *m.want.Attachment
		}
	}
	var err error
	if v.merged, err = sandbox.Merge(v.brought); err != nil {
		return err
	}
	for _, m := range v.members {
		if !m.wanted(v) {
			continue
		}
		if err := c.planPorts(ctx, v, m); err != nil {
			return err
		}
		name := v.merged.Names[string(m.id)]
		if m.want = m.want.Named(name); m.info.Interface != name {
			m.info.Interface, m.dirty = name, true
		}
	}
	return nil
}

// planMember asks the driver for the plan of a Join, with ports to publish. The interface has the name that it was given before, or that
// the endpoint asks for.
func (c *Controller) planMember(ctx context.Context, v *content, m *member, ports []endpoint.PortBinding) (netdriver.Plan, error) {
	name := cmp.Or(m.info.Interface, m.info.Spec.Interface)
	switch {
	case v.sandbox.Unknown, m.network.Unknown && m.held.Owner != "": // nobody knows more than what is held
		return m.held.Plan, nil
	case m.driven.Driver != "": // it was asked before, without the sandbox's lock
		return m.driven.Plan.Named(name), nil
	}
	d, err := c.driver(ctx, m.network.Driver)
	if err == nil && !c.computes(ctx, m.network.Driver) { // not under the sandbox's lock
		err = fmt.Errorf("driver %s: %w: it has not joined the endpoint yet", m.network.Driver, errdefs.ErrUnavailable)
	}
	if err == nil {
		var in netdriver.Input
		if in, err = c.input(ctx, m.network); err == nil {
			info := m.info
			info.Key, info.Ports = v.sandbox.Key, ports
			var p netdriver.Plan
			if p, err = d.Join(ctx, in, info); err == nil {
				return p.Named(name), nil
			}
		}
	}
	if m.held.Owner != "" {
		c.mender.later(endpointOwner(m.id), err)
		return m.held.Plan, nil
	}
	return netdriver.Plan{}, err
}

// planPorts publishes a member's ports when it is its sandbox's gateway, for the families that it is the gateway of.
func (c *Controller) planPorts(ctx context.Context, v *content, m *member) error {
	if v.sandbox.Unknown { // what is published stays so; nobody else is given its ports
		_, err := c.givePorts(ctx, v, m)
		return err
	}
	four, six := v.gateway(m)
	if m.gateway = four || six; !m.gateway {
		m.trimPorts(v)
		return nil
	}
	given, err := c.givePorts(ctx, v, m)
	if err != nil {
		return err
	}
	ports := portsOf(given, c.Binding(ctx, m.network), four, six)
	if len(ports) == 0 {
		return nil
	}
	if m.driven.Driver == "" {
		m.want, err = c.planMember(ctx, v, m, ports)
		return err
	}
	if m.driven.Publishes {
		return nil
	}
	m.want.Shares = append(slices.Clone(m.want.Shares), netdriver.Share{Terms: portTerms(m.info, ports)})
	return nil
}

// gateway says for which families a member carries published ports: as its caller decided, else as Merge chose. A caller that has chosen
// two, and cannot say which is for which family, means by one that has a single family that it is the gateway of that: so does Docker 29.
func (v *content) gateway(m *member) (four, six bool) {
	four, six = hasFamily(m.info.Addresses, false), hasFamily(m.info.Addresses, true)
	switch m.info.Spec.Gateway {
	case endpoint.None:
		return false, false
	case endpoint.Auto:
		return four && v.merged.Gateway4 == string(m.id), six && v.merged.Gateway6 == string(m.id)
	}
	if four && six {
		return !v.chosenFor(false), !v.chosenFor(true)
	}
	return four, six
}

// chosenFor says that a caller has chosen a gateway that has this family alone.
func (v *content) chosenFor(six bool) bool {
	return slices.ContainsFunc(v.members, func(m *member) bool {
		return m.wanted(v) && m.info.Spec.Gateway == endpoint.On && hasFamily(m.info.Addresses, six) && !hasFamily(m.info.Addresses, !six)
	})
}

func hasFamily(addresses []netip.Prefix, six bool) bool {
	return slices.ContainsFunc(addresses, func(p netip.Prefix) bool { return p.Addr().Is6() == six })
}

// portsOf is the part of the given bindings that the families can carry. Those without a host address are at the one that the network is
// bound to, if there is one.
func portsOf(given []endpoint.PortBinding, bound netip.Addr, four, six bool) []endpoint.PortBinding {
	var ports []endpoint.PortBinding
	for _, b := range given {
		if !b.Host.IsValid() {
			b.Host = bound
		}
		switch {
		case !b.Host.IsValid() && four && !six:
			b.Host = netip.IPv4Unspecified()
		case !b.Host.IsValid() && six && !four:
			b.Host = netip.IPv6Unspecified()
		case b.Host.IsUnspecified() && b.Host.Is6() && !six: // the driver has it on all IPv4 addresses
		case b.Host.Is4() && !four, b.Host.Is6() && !six:
			continue
		}
		ports = append(ports, b)
	}
	return ports
}

// portTerms publishes ports of an endpoint whose driver does not do it.
func portTerms(e endpoint.Info, ports []endpoint.PortBinding) firewall.Terms {
	var t firewall.Terms
	for _, b := range ports {
		for _, p := range e.Addresses {
			host := b.Host
			if !host.IsValid() {
				host = netip.IPv4Unspecified()
				if p.Addr().Is6() {
					host = netip.IPv6Unspecified()
				}
			}
			if host.Is6() == p.Addr().Is6() {
				t.Ports = append(t.Ports, firewall.Port{Proto: b.Proto, Host: host, HostPorts: b.HostPorts, Target: p.Addr(), Ports: b.Ports})
			}
		}
	}
	return t
}
