package docker

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// Sweep asks the engine from time to time what it knows, until ctx ends, and gives up what it does not: networks and endpoints that it
// deleted while it could not reach us, and pools and addresses that it asked for and nothing came to use. An engine that does not answer
// gives up nothing.
func (p *Plugin) Sweep(ctx context.Context) {
	if p.Engine == nil {
		return
	}
	tick := time.NewTicker(p.Every)
	defer tick.Stop()
	for {
		if err := p.SweepOnce(ctx); err != nil && ctx.Err() == nil {
			p.Logger.Debug("nothing is swept", "plugin", p.Name, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// SweepOnce is one round. What is missed the first time is a suspect only: the list may be older than the thing.
func (p *Plugin) SweepOnce(ctx context.Context) error {
	known, err := p.Engine.Networks(ctx, p.Name)
	if err != nil {
		return err
	}
	s := &sweep{p: p, now: time.Now(), seen: map[string]bool{}, networks: map[string]EngineNetwork{}, addresses: map[netip.Addr]bool{}}
	for _, n := range known {
		s.networks[n.ID] = n
		for _, e := range n.Endpoints {
			for _, a := range e.Addresses {
				s.addresses[a] = true
			}
		}
	}
	err = errors.Join(s.bindings(ctx), s.leases(ctx))
	for what := range p.suspects {
		if !s.seen[what] {
			delete(p.suspects, what)
		}
	}
	return err
}

// sweep is one round. What fails for one thing keeps nobody from the others.
type sweep struct {
	p         *Plugin
	now       time.Time
	networks  map[string]EngineNetwork
	addresses map[netip.Addr]bool // that the engine's containers have
	seen      map[string]bool     // suspects of this round
}

// due says that something was missed in an earlier round too, and for so long; else it is remembered as missed.
func (s *sweep) due(what string, patience time.Duration) bool {
	s.seen[what] = true
	since, known := s.p.suspects[what]
	if !known {
		s.p.suspects[what] = s.now
	}
	return known && s.now.Sub(since) >= patience
}

// bindings gives up networks and endpoints that the engine does not list.
func (s *sweep) bindings(ctx context.Context) error {
	all, err := s.p.allBound(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, b := range all {
		n, known := s.networks[b.Docker]
		switch {
		case known:
			err = s.endpoints(ctx, b, n)
		case s.due("network "+b.Docker, 0):
			s.p.Logger.Warn("giving up a network that the engine does not know any more", "network", b.Docker)
			err = s.p.Network().DeleteNetwork(ctx, netdriver.Network{ID: endpoint.NetworkID(b.Docker)})
		default:
			err = nil
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

func (s *sweep) endpoints(ctx context.Context, b binding, n EngineNetwork) error {
	ours, err := s.p.Controller.Network(ctx, string(b.Network))
	if errdefs.IsNotFound(err) { // a user removed it: the binding goes when the engine removes its own
		return nil
	}
	if err != nil {
		return err
	}
	var failed []error
	for e, err := range ours.Endpoints(ctx) {
		if err == nil && s.unknown(b, n, e) {
			s.p.Logger.Warn("giving up an endpoint that the engine does not know any more", "endpoint", e.ID, "addresses", e.Addresses)
			err = s.p.deleteEndpoint(ctx, b.Network, e.ID)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// unknown says that an endpoint is due: the engine's that it does not list, or a lease of its that no container came to use.
func (s *sweep) unknown(b binding, n EngineNetwork, e endpoint.Info) bool {
	if e.Spec.Labels[labelLease] == s.p.Name {
		return !s.addressed(e) && s.due("lease "+string(e.ID), s.p.Patience)
	}
	_, listed := n.Endpoints[e.Spec.Labels[labelEndpoint]]
	return e.Spec.Labels[labelNetwork] == b.Docker && !listed && s.due("endpoint "+string(e.ID), 0)
}

// addressed says that a container has one of an endpoint's addresses, as far as the engine knows.
func (s *sweep) addressed(e endpoint.Info) bool {
	return slices.ContainsFunc(e.Addresses, func(a netip.Prefix) bool { return s.addresses[a.Addr()] })
}

// leases gives up pools and addresses of engines that nothing uses.
func (s *sweep) leases(ctx context.Context) error {
	var failed []error
	for l, err := range s.p.Controller.Leases(ctx, s.p.IPAM) {
		if err == nil && strings.HasPrefix(l.Owner, s.p.owner()) {
			err = s.lease(ctx, l)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// lease is leases for one pool.
func (s *sweep) lease(ctx context.Context, l sealane.Leased) error {
	used, err := s.used(ctx, l)
	if err != nil {
		return err
	}
	for _, a := range l.Addresses {
		if used(a) || s.addresses[a.Address.Addr()] || !s.due("address "+string(l.Pool.ID)+" "+a.Address.String(), s.p.Patience) {
			continue
		}
		s.p.Logger.Warn("giving up an address that nothing uses", "address", a.Address)
		if err := s.p.Addresses().ReleaseAddress(ctx, l.Pool.ID, a.Address.Addr()); err != nil {
			return err
		}
	}
	if l.Network != "" || s.listed(l.Pool.Subnet) || !s.due("pool "+string(l.Pool.ID), s.p.Patience) {
		return nil
	}
	s.p.Logger.Warn("giving up a pool that nothing uses", "pool", l.Pool.ID)
	return s.p.Addresses().ReleasePool(ctx, l.Pool.ID)
}

// used says which addresses of a pool its network has for itself or an endpoint claims.
func (s *sweep) used(ctx context.Context, l sealane.Leased) (func(ipam.Lease) bool, error) {
	if l.Network == "" {
		return func(ipam.Lease) bool { return false }, nil
	}
	n, err := s.p.Controller.Network(ctx, string(l.Network))
	if err != nil {
		return nil, err
	}
	record, err := n.Info(ctx)
	return func(a ipam.Lease) bool {
		for _, sub := range record.Subnets {
			if sub.Gateway.Addr() == a.Address.Addr() {
				return true
			}
			for _, aux := range sub.Aux {
				if aux == a.Address.Addr() {
					return true
				}
			}
		}
		by, err := s.p.Controller.Holder(ctx, l.Network, a.Address.Addr())
		return err != nil || by != ""
	}, err
}

// listed says that the engine has a network with the subnet.
func (s *sweep) listed(subnet netip.Prefix) bool {
	for _, n := range s.networks {
		if slices.Contains(n.Subnets, subnet) {
			return true
		}
	}
	return false
}
