package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/remote"
)

// Labels of our networks and endpoints that say what they are to the engine.
const (
	labelNetwork  = "com.docker.network.id"
	labelEndpoint = "com.docker.endpoint.id"
)

// networks is the plugin as a network driver. Records that it is given have the engine's ids.
type networks struct{ p *Plugin }

var (
	_ netdriver.Driver            = networks{}
	_ netdriver.ExternalConnector = networks{}
	_ netdriver.Informer          = networks{}
)

// Capability: to an engine each network is its own, whoever else is bound to ours, because only swarm managers make others.
func (d networks) Capability(context.Context) (netdriver.Capability, error) {
	return netdriver.Capability{Type: d.p.Name, Scope: netdriver.Local, Connectivity: netdriver.Local, Publishes: true}, nil
}

// CreateNetwork makes a network of ours and binds the engine's to it.
func (d networks) CreateNetwork(ctx context.Context, in netdriver.Input) (netdriver.Plan, error) {
	theirs := string(in.Network.ID)
	b := binding{Plugin: d.p.Name, Docker: theirs, Network: endpoint.NetworkID(d.p.id("network", theirs))}
	if _, err := d.p.Controller.Network(ctx, string(b.Network)); err == nil {
		return netdriver.Plan{}, d.p.bind(ctx, b) // asked again
	}
	spec, err := d.spec(ctx, in.Network, b)
	if err != nil {
		return netdriver.Plan{}, err
	}
	if err := d.p.bind(ctx, b); err != nil {
		return netdriver.Plan{}, err
	}
	if _, err := d.p.Controller.CreateNetwork(ctx, spec); err != nil {
		return netdriver.Plan{}, errors.Join(err, d.p.unbind(ctx, theirs))
	}
	return netdriver.Plan{}, nil
}

// spec is the network of ours that a network of the engine's asks for. Pools that the engine has of us are left to it.
func (d networks) spec(ctx context.Context, n netdriver.Network, b binding) (sealane.NetworkSpec, error) {
	s := sealane.NetworkSpec{
		ID: b.Network, Name: fmt.Sprintf("docker-%.12s", b.Docker), Driver: d.p.Driver, NoIPv4: true, Internal: n.Internal,
		Options: n.Options, Labels: maps.Clone(n.Labels), IPAM: sealane.IPAM{Driver: d.p.IPAM},
	}
	if s.Labels == nil {
		s.Labels = map[string]string{}
	}
	s.Labels[labelNetwork] = b.Docker
	for _, sub := range n.Subnets {
		want := sealane.SubnetSpec{Subnet: sub.Pool.Subnet, Gateway: sub.Gateway.Addr(), Aux: sub.Aux}
		if want.Subnet.Bits() == 0 {
			return s, fmt.Errorf("subnet %s: %w: networks of %s need subnets: choose another IPAM driver than null", want.Subnet,
				errdefs.ErrInvalidArgument, d.p.Name)
		}
		if want.Subnet.Addr().Is6() {
			s.IPv6 = true
		} else {
			s.NoIPv4 = false
		}
		lease, found, err := d.p.leaseOf(ctx, func(l sealane.Leased) bool {
			return l.Network == "" && l.Pool.Subnet == want.Subnet && spaceOf(l.Pool.ID) == sub.Pool.Data[remote.AddressSpace]
		})
		if err != nil {
			return s, err
		}
		if found {
			want.Pool = lease.Pool.ID
		}
		s.IPAM.Subnets = append(s.IPAM.Subnets, want)
	}
	return s, nil
}

// DeleteNetwork deletes it with the endpoints that the engine has not told us to delete, because it could not.
func (d networks) DeleteNetwork(ctx context.Context, n netdriver.Network) error {
	b, ours, err := d.p.vacate(ctx, n, func(binding, endpoint.Info) bool { return true })
	if err != nil || ours == nil {
		return err
	}
	if err := ours.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return d.p.unbind(ctx, b.Docker)
}

// vacate deletes the endpoints on our network that go with an engine's. There is no network when there was no binding, or only that.
func (p *Plugin) vacate(ctx context.Context, n netdriver.Network, goes func(binding, endpoint.Info) bool) (binding, sealane.Network, error) {
	b, found, err := p.bound(ctx, string(n.ID))
	if err != nil || !found {
		return b, nil, err
	}
	ours, err := p.Controller.Network(ctx, string(b.Network))
	if errdefs.IsNotFound(err) {
		return b, nil, p.unbind(ctx, b.Docker)
	}
	if err != nil {
		return b, nil, err
	}
	for e, err := range ours.Endpoints(ctx) {
		if err == nil && goes(b, e) {
			err = p.deleteEndpoint(ctx, b.Network, e.ID)
		}
		if err != nil {
			return b, nil, err
		}
	}
	return b, ours, nil
}
