package docker

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

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
	if err := s.bindings(ctx); err != nil {
		return err
	}
	if err := s.leases(ctx); err != nil {
		return err
	}
	for what := range p.suspects {
		if !s.seen[what] {
			delete(p.suspects, what)
		}
	}
	return nil
}

// sweep is one round.
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
	for _, b := range all {
		n, known := s.networks[b.Docker]
		if !known {
			if s.due("network "+b.Docker, 0) {
				s.p.Logger.Warn("giving up a network that the engine does not know any more", "network", b.Docker)
				err = s.p.Network().DeleteNetwork(ctx, netdriver.Network{ID: endpoint.NetworkID(b.Docker)})
			}
		} else {
			err = s.endpoints(ctx, b, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *sweep) endpoints(ctx context.Context, b binding, n EngineNetwork) error {
	ours, err := s.p.Controller.Network(ctx, string(b.Network))
	if err != nil {
		return err
	}
	for e, err := range ours.Endpoints(ctx) {
		if err != nil {
			return err
		}
		if e.Spec.Labels[labelLease] == s.p.Name && !s.addressed(e) && s.due("lease "+string(e.ID), s.p.Patience) {
			if err := s.p.deleteEndpoint(ctx, b.Network, e.ID); err != nil {
				return err
			}
			continue
		}
		if _, known := n.Endpoints[e.Spec.Labels[labelEndpoint]]; known || e.Spec.Labels[labelNetwork] != b.Docker {
			continue
		}
		if !s.due("endpoint "+string(e.ID), 0) {
			continue
		}
		s.p.Logger.Warn("giving up an endpoint that the engine does not know any more", "endpoint", e.Spec.Labels[labelEndpoint])
		if err := s.p.deleteEndpoint(ctx, b.Network, e.ID); err != nil {
			return err
		}
	}
	return nil
}

// addressed says that a container has one of an endpoint's addresses, as far as the engine knows.
func (s *sweep) addressed(e endpoint.Info) bool {
	return slices.ContainsFunc(e.Addresses, func(a netip.Prefix) bool { return s.addresses[a.Addr()] })
}

// leases gives up pools and addresses of engines that nothing uses.
func (s *sweep) leases(ctx context.Context) error {
	for l, err := range s.p.Controller.Leases(ctx, s.p.IPAM) {
		if err != nil {
			return err
		}
		if !strings.HasPrefix(l.Owner, s.p.owner()) {
			continue
		}
		used, err := s.used(ctx, l)
		if err != nil {
			return err
		}
		for _, a := range l.Addresses {
			if used(a) || s.addresses[a.Address.Addr()] ||
				!s.due("address "+string(l.Pool.ID)+" "+a.Address.String(), s.p.Patience) {
				continue
			}
			s.p.Logger.Warn("giving up an address that nothing uses", "address", a.Address)
			if err := s.p.Addresses().ReleaseAddress(ctx, l.Pool.ID, a.Address.Addr()); err != nil {
				return err
			}
		}
		if l.Network != "" || s.listed(l.Pool.Subnet) || !s.due("pool "+string(l.Pool.ID), s.p.Patience) {
			continue
		}
		s.p.Logger.Warn("giving up a pool that nothing uses", "pool", l.Pool.ID)
		if err := s.p.Addresses().ReleasePool(ctx, l.Pool.ID); err != nil {
			return err
		}
	}
	return nil
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
		by, err := s.p.claimed(ctx, l.Network, a.Address.Addr())
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
