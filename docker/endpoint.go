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

func (p *Plugin) createEndpoint(ctx context.Context, b binding, s endpoint.Spec) (endpoint.Info, error) {
	n, err := p.Controller.Network(ctx, string(b.Network))
	if err != nil {
		return endpoint.Info{}, err
	}
	if old, err := n.Endpoint(ctx, string(s.ID)); err == nil {
		return old.Info(ctx) // asked again
	}
	if err := p.claim(ctx, b.Network, s.ID, s.Addresses); err != nil {
		return endpoint.Info{}, err
	}
	e, err := n.CreateEndpoint(ctx, s)
	if err == nil {
		return e.Info(ctx)
	}
	if undone := p.disclaim(ctx, b.Network, s.ID, s.Addresses); undone != nil {
		p.Logger.Warn("a claim is left to the sweep", "network", b.Network, "addresses", s.Addresses, "error", undone)
	}
	return endpoint.Info{}, err
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
	e, info, err := p.endpoint(ctx, on, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Sandbox != "" {
		open, err := p.enter(ctx, string(info.Sandbox))
		if err != nil {
			return err
		}
		defer open()
		if err := e.Leave(ctx); err != nil && !errdefs.IsFailedPrecondition(err) && !errdefs.IsNotFound(err) {
			return err
		}
	}
	if err := e.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if err := p.disclaim(ctx, on, id, info.Addresses); err != nil {
		return err
	}
	return p.closeSandbox(ctx, info.Sandbox)
}

// closeSandbox deletes a sandbox that nobody is in. Its door is held.
func (p *Plugin) closeSandbox(ctx context.Context, id sandbox.ID) error {
	if id == "" {
		return nil
	}
	for range p.Controller.Endpoints(ctx, id) {
		return nil // an endpoint, or an error: then it is left to the sweep
	}
	s, err := p.Controller.Sandbox(ctx, string(id))
	if err == nil {
		err = s.Delete(ctx)
	}
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// endpoint finds an endpoint of ours and its record.
func (p *Plugin) endpoint(ctx context.Context, on endpoint.NetworkID, id endpoint.ID) (endpoint.Endpoint, endpoint.Info, error) {
	n, err := p.Controller.Network(ctx, string(on))
	if err != nil {
		return nil, endpoint.Info{}, err
	}
	e, err := n.Endpoint(ctx, string(id))
	if err != nil {
		return nil, endpoint.Info{}, err
	}
	info, err := e.Info(ctx)
	return e, info, err
}

// theirs finds the endpoint of ours that is one of the engine's.
func (d networks) theirs(ctx context.Context, n netdriver.Network, e endpoint.Info) (endpoint.Endpoint, endpoint.Info, error) {
	b, err := d.p.mustBeBound(ctx, string(n.ID))
	if err != nil {
		return nil, endpoint.Info{}, err
	}
	return d.p.endpoint(ctx, b.Network, endpoint.ID(d.p.id("endpoint", string(e.ID))))
}

// Join makes the link and answers where it waits. The engine's sandbox is the key in e.Sandbox.
func (d networks) Join(ctx context.Context, in netdriver.Input, e endpoint.Info) (netdriver.Plan, error) {
	ours, info, err := d.theirs(ctx, in.Network, e)
	if err != nil {
		return netdriver.Plan{}, err
	}
	spec := sandbox.Spec{ID: sandbox.ID(d.p.id("sandbox", string(e.Sandbox))), Namespace: sandbox.Origin{Foreign: true},
		Name: nameOf(string(e.Sandbox)), Labels: map[string]string{"com.docker.sandbox.key": string(e.Sandbox)}}
	open, err := d.p.enter(ctx, string(spec.ID))
	if err != nil {
		return netdriver.Plan{}, err
	}
	defer open()
	s, err := d.p.Controller.CreateSandbox(ctx, spec)
	if err != nil {
		return netdriver.Plan{}, err
	}
	if err := ours.Join(ctx, s); err != nil {
		if left := d.p.closeSandbox(ctx, spec.ID); left != nil {
			d.p.Logger.Warn("a sandbox is left to the sweep", "sandbox", spec.ID, "error", left)
		}
		return netdriver.Plan{}, err
	}
	a, err := d.p.Controller.Attachment(ctx, info.ID)
	if err != nil {
		return netdriver.Plan{}, err
	}
	a.NoFallback = true // a way out is ours to give, or not
	if a.Internal {
		a.Gateway4, a.Gateway6 = netip.Addr{}, netip.Addr{}
	}
	return netdriver.Plan{Attachment: &a}, nil
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
	ours, _, err := d.theirs(ctx, n, e)
	if err != nil {
		return err
	}
	return ours.Update(ctx, func(s *endpoint.Spec) error {
		s.Gateway, s.Publish, s.Exposed = endpoint.On, e.Ports, e.Spec.Exposed
		return nil
	})
}

// RevokeExternalConnectivity withdraws them. What is unknown has none.
func (d networks) RevokeExternalConnectivity(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	ours, info, err := d.theirs(ctx, n, e)
	if errdefs.IsNotFound(err) || err == nil && info.Spec.Gateway == endpoint.None && len(info.Spec.Publish) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return ours.Update(ctx, func(s *endpoint.Spec) error {
		s.Gateway, s.Publish = endpoint.None, nil
		return nil
	})
}

// EndpointInfo is what the engine shows of an endpoint. It must not fail.
func (d networks) EndpointInfo(ctx context.Context, n netdriver.Network, e endpoint.Info) (map[string]any, error) {
	_, info, err := d.theirs(ctx, n, e)
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
