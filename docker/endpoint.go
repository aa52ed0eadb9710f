package docker

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// CreateEndpoint makes an endpoint of ours with the addresses that the engine has leased. It answers with the MAC when none was given.
func (d networks) CreateEndpoint(ctx context.Context, in netdriver.Input, e endpoint.Info) (netdriver.Interface, error) {
	b, err := d.p.mustBeBound(ctx, string(in.Network.ID))
	if err != nil {
		return netdriver.Interface{}, err
	}
	id := endpoint.ID(d.p.id("endpoint", string(e.ID)))
	info, err := d.p.createEndpoint(ctx, b, endpoint.Spec{
		ID: id, Addresses: e.Addresses, Leased: len(e.Addresses) > 0, MAC: e.MAC, Gateway: endpoint.None,
		Exposed: e.Spec.Exposed, Options: e.Spec.Options, Labels: map[string]string{labelEndpoint: string(e.ID), labelNetwork: b.Docker},
	})
	if err != nil {
		return netdriver.Interface{}, err
	}
	var chosen netdriver.Interface
	if e.MAC == nil {
		chosen.MAC = info.MAC
	}
	if len(e.Addresses) == 0 {
		chosen.Addresses = info.Addresses
	}
	return chosen, nil
}

// createEndpoint makes an endpoint, or finds it when it was asked for before.
func (p *Plugin) createEndpoint(ctx context.Context, b binding, s endpoint.Spec) (endpoint.Info, error) {
	n, err := p.Controller.Network(ctx, string(b.Network))
	if err != nil {
		return endpoint.Info{}, err
	}
	s.ByAddress = true
	e, err := n.CreateEndpoint(ctx, s)
	if errdefs.IsAlreadyExists(err) {
		if old, missing := p.Controller.Endpoint(b.Network, s.ID).Info(ctx); missing == nil {
			return old, nil
		}
	}
	if err != nil {
		return endpoint.Info{}, err
	}
	return e.Info(ctx)
}

// DeleteEndpoint deletes it with its link: by now the engine has moved that back.
func (d networks) DeleteEndpoint(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	b, found, err := d.p.bound(ctx, string(n.ID))
	if err != nil || !found {
		return err
	}
	return d.p.deleteEndpoint(ctx, b.Network, endpoint.ID(d.p.id("endpoint", string(e.ID))))
}

// deleteEndpoint deletes an endpoint of ours, joined or not, and the sandbox that it was the last in.
func (p *Plugin) deleteEndpoint(ctx context.Context, on endpoint.NetworkID, id endpoint.ID) error {
	err := p.Controller.DeleteForeign(ctx, on, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// theirs names the endpoint of ours that is one of the engine's.
func (d networks) theirs(ctx context.Context, n netdriver.Network, e endpoint.Info) (on endpoint.NetworkID, id endpoint.ID, err error) {
	b, err := d.p.mustBeBound(ctx, string(n.ID))
	return b.Network, endpoint.ID(d.p.id("endpoint", string(e.ID))), err
}

// Join makes the link and answers where it waits. The engine's sandbox is the key in e.Sandbox.
func (d networks) Join(ctx context.Context, in netdriver.Input, e endpoint.Info) (netdriver.Plan, error) {
	on, id, err := d.theirs(ctx, in.Network, e)
	if err != nil {
		return netdriver.Plan{}, err
	}
	a, err := d.p.Controller.JoinForeign(ctx, on, id, sandbox.Spec{
		ID: sandboxID(string(e.Sandbox)), Name: nameOf(string(e.Sandbox)), Namespace: sandbox.Origin{Foreign: true},
		Labels: map[string]string{"com.docker.sandbox.key": string(e.Sandbox)},
	})
	if err != nil {
		return netdriver.Plan{}, err
	}
	a.NoFallback = true // a way out is ours to give, or not
	if a.Internal {
		a.Gateway4, a.Gateway6 = netip.Addr{}, netip.Addr{}
	}
	return netdriver.Plan{Attachment: &a}, nil
}

// sandboxID is ours for an engine's sandbox. It is one, whichever of our plugins its networks are of.
func sandboxID(key string) sandbox.ID {
	return sandbox.ID(hashed("sandbox", key))
}

// nameOf makes a sandbox's name of the engine's key for it, a path.
func nameOf(key string) string {
	base := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, path.Base(key))
	if base == "" {
		return ""
	}
	return fmt.Sprintf("docker-%.40s", base)
}

// Leave withdraws the endpoint's ports. The link stays: the engine moves it back after this call, and would miss it.
func (d networks) Leave(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	return d.RevokeExternalConnectivity(ctx, n, e)
}

// ProgramExternalConnectivity publishes the endpoint's ports: engines leave that to remote drivers.
func (d networks) ProgramExternalConnectivity(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	on, id, err := d.theirs(ctx, n, e)
	if err != nil {
		return err
	}
	return d.p.Controller.Endpoint(on, id).Update(ctx, func(s *endpoint.Spec) error {
		s.Gateway, s.Publish, s.Exposed = endpoint.On, e.Ports, e.Spec.Exposed
		return nil
	})
}

// RevokeExternalConnectivity withdraws them. What is unknown has none.
func (d networks) RevokeExternalConnectivity(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	on, id, err := d.theirs(ctx, n, e)
	if err == nil {
		err = d.p.Controller.Endpoint(on, id).Update(ctx, func(s *endpoint.Spec) error {
			s.Gateway, s.Publish = endpoint.None, nil
			return nil
		})
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// EndpointInfo is what the engine shows of an endpoint. It must not fail.
func (d networks) EndpointInfo(ctx context.Context, n netdriver.Network, e endpoint.Info) (map[string]any, error) {
	on, id, err := d.theirs(ctx, n, e)
	var info endpoint.Info
	if err == nil {
		info, err = d.p.Controller.Endpoint(on, id).Info(ctx)
	}
	if err != nil {
		return map[string]any{"com.sealane.problem": err.Error()}, nil
	}
	shown := map[string]any{"com.sealane.network": string(info.Network), "com.sealane.endpoint": string(info.ID)}
	if info.Problem != "" {
		shown["com.sealane.problem"] = info.Problem
	}
	var ports []string
	for _, b := range info.Ports {
		ports = append(ports, b.String())
	}
	if slices.Sort(ports); len(ports) > 0 {
		shown["com.sealane.ports"] = ports
	}
	return shown, nil
}
