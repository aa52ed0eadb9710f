package api

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

func (s *Server) sandboxes(ctx context.Context, c call, _ nothing) ([]Sandbox, error) {
	members, err := s.everyMember(ctx)
	if err != nil {
		return nil, err
	}
	of := map[sandbox.ID][]member{}
	for _, m := range members {
		id := m.endpoint.Sandbox
		if id == "" {
			id = m.endpoint.Spec.For
		}
		of[id] = append(of[id], m)
	}
	var all []Sandbox
	for r, err := range s.ctl.Sandboxes(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list sandboxes: %w", err)
		}
		one, err := s.show(ctx, r, of[r.ID])
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Sandbox) int { return cmp.Compare(a.Name, b.Name) })
	return choose(sandboxSelector(), c.filters, all)
}

func (s *Server) sandbox(ctx context.Context, c call, _ nothing) (Sandbox, error) {
	sb, r, err := s.findSandbox(ctx, c.ref)
	if err != nil {
		return Sandbox{}, err
	}
	members, err := s.members(ctx, sb.ID())
	if err != nil {
		return Sandbox{}, err
	}
	return s.show(ctx, r, members)
}

// show is a sandbox with what it has from others: who shares another's namespace is called as that one is, and links make variables.
func (s *Server) show(ctx context.Context, r sandbox.Info, members []member) (Sandbox, error) {
	shown := sandboxOf(r, members)
	for donor := r.Spec.Namespace.Share; donor != ""; {
		d, err := s.sandboxInfo(ctx, string(donor))
		if errdefs.IsNotFound(err) {
			break // gone since r was read
		} else if err != nil {
			return shown, err
		}
		shown.Join, shown.Hostname, shown.Domainname = string(donor), d.Hostname(), d.Spec.Names.Domainname
		donor = d.Spec.Namespace.Share
	}
	if slices.ContainsFunc(members, func(m member) bool { return len(m.endpoint.Spec.Links) > 0 }) {
		env, err := s.ctl.LinkEnvironment(ctx, r.ID)
		if err != nil && !errdefs.IsNotFound(err) { // gone since it was listed
			return shown, err
		}
		shown.Env = append(shown.Env, env...)
	}
	return shown, nil
}

func (s *Server) findSandbox(ctx context.Context, ref string) (sandbox.Sandbox, sandbox.Info, error) {
	sb, err := s.ctl.Sandbox(ctx, ref)
	if err != nil {
		return nil, sandbox.Info{}, err
	}
	r, err := sb.Info(ctx)
	return sb, r, err
}

func (s *Server) sandboxInfo(ctx context.Context, ref string) (sandbox.Info, error) {
	_, r, err := s.findSandbox(ctx, ref)
	return r, err
}

// plan is what a request asks for, found good: nothing is done yet.
type plan struct {
	sandbox sandbox.Spec
	ports   ports
	joins   []join
}

// join is a network with the endpoint that a new sandbox will have on it.
type join struct {
	network  sealane.Network
	endpoint endpoint.Spec
	links    []string // of this network alone
}

func (s *Server) createSandbox(ctx context.Context, _ call, in SandboxSpec) (Created, error) {
	p, err := s.planSandbox(ctx, in)
	if err != nil {
		what := "create sandbox"
		if in.Name != "" {
			what += fmt.Sprintf(" %.80q", in.Name)
		}
		return Created{}, fmt.Errorf("%s: %w", what, err)
	}
	to := make([]sealane.Connection, len(p.joins))
	for i, j := range p.joins {
		to[i] = sealane.Connection{Network: j.network.ID(), Endpoint: j.endpoint}
	}
	sb, err := s.ctl.CreateConnected(ctx, p.sandbox, endpoint.Ports(p.ports), to...)
	if err != nil {
		return Created{}, err
	}
	return Created{ID: string(sb.ID())}, nil
}

// planSandbox checks a request and finds what it refers to, before any effect.
func (s *Server) planSandbox(ctx context.Context, in SandboxSpec) (p plan, err error) {
	p.sandbox = sandbox.Spec{
		ID: sandbox.ID(in.ID), Name: in.Name, Sysctls: in.Sysctls, Labels: in.Labels,
		Namespace: sandbox.Origin{Path: in.NetNS, PID: in.PID, Host: in.Host},
	}
	if p.sandbox.Names, err = in.names(); err != nil {
		return p, err
	}
	if in.ID != "" { // the Controller would give the one there is, whose networks are not ours to take back
		if _, err := s.ctl.Sandbox(ctx, in.ID); err == nil {
			return p, fmt.Errorf("%w: the id is taken", errdefs.ErrAlreadyExists)
		}
	}
	if in.Join != "" {
		donor, err := s.ctl.Sandbox(ctx, in.Join)
		if err != nil {
			return p, err
		}
		p.sandbox.Namespace.Share = donor.ID()
	}
	if p.joins, err = s.planJoins(ctx, in, &p.sandbox); err != nil {
		return p, err
	}
	if p.ports, err = in.ports(); err != nil {
		return p, err
	}
	if at := p.sandbox.Namespace; (at.Host || at.Share != "") && len(p.ports.Publish)+len(p.ports.Exposed) > 0 {
		return p, fmt.Errorf("%w: a sandbox in the host's or another one's namespace has no ports of its own to publish", errdefs.ErrInvalidArgument)
	}
	if at := p.sandbox.Namespace; (at.Host || at.Share != "") && len(in.Links) > 0 {
		return p, fmt.Errorf("%w: a sandbox in the host's or another one's namespace has no networks of its own to be linked on", errdefs.ErrInvalidArgument)
	}
	for i, j := range p.joins {
		if p.joins[i].endpoint.Links, err = s.links(ctx, j.network, append(slices.Clip(in.Links), j.links...)); err != nil {
			return p, err
		}
	}
	return p, nil
}

// planJoins finds the networks. A sandbox that is only on one of driver host is in the host's namespace, as Docker has it.
func (s *Server) planJoins(ctx context.Context, in SandboxSpec, spec *sandbox.Spec) ([]join, error) {
	wanted := in.Networks
	switch {
	case len(wanted) > 0:
	case in.Join != "":
		return nil, nil
	case in.Host:
		wanted = []NetworkJoin{{Network: networkHost}}
	default:
		wanted = []NetworkJoin{{Network: networkBridge}}
	}
	var joins []join
	for _, w := range wanted {
		net, err := s.ctl.Network(ctx, w.Network)
		if err != nil {
			return nil, err
		}
		for _, j := range joins {
			if j.network.ID() == net.ID() {
				return nil, fmt.Errorf("network %s: %w: it is named twice", w.Network, errdefs.ErrInvalidArgument)
			}
		}
		es, err := w.EndpointConfig.spec()
		if err != nil {
			return nil, err
		}
		joins = append(joins, join{net, es, w.Links})
	}
	if len(joins) == 1 && spec.Namespace == (sandbox.Origin{}) {
		n, err := joins[0].network.Info(ctx)
		if err != nil {
			return nil, err
		}
		spec.Namespace.Host = n.Driver == "host"
	}
	return joins, nil
}

// links finds whom SANDBOX[:ALIAS] mean. On a network without names they have to be there.
func (s *Server) links(ctx context.Context, on sealane.Network, texts []string) (map[string]string, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	n, err := on.Info(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, text := range texts {
		ref, alias, _ := strings.Cut(text, ":")
		name, err := s.linked(ctx, n, ref)
		if err != nil {
			return nil, fmt.Errorf("link %.80q: %w", text, err)
		}
		alias = cmp.Or(alias, name)
		if other := found[alias]; other != "" && other != name {
			return nil, fmt.Errorf("link %.80q: %w: the alias is that of %s already", text, errdefs.ErrInvalidArgument, other)
		}
		found[alias] = name
	}
	return found, nil
}

// linked is the name of the endpoint that a link leads to.
func (s *Server) linked(ctx context.Context, n netdriver.Network, ref string) (string, error) {
	r, err := s.sandboxInfo(ctx, ref)
	if errdefs.IsNotFound(err) && !n.NoNames {
		return ref, nil // it may come
	}
	if err != nil {
		return "", err
	}
	for e, err := range s.ctl.Endpoints(ctx, r.ID) {
		if err != nil {
			return "", err
		}
		if e.Network == n.ID {
			return e.Spec.Name, nil
		}
	}
	if n.NoNames {
		return "", fmt.Errorf("%w: sandbox %s is not on network %s", errdefs.ErrFailedPrecondition, r.Spec.Name, n.Name)
	}
	return r.Spec.Name, nil
}

func (s *Server) removeSandbox(ctx context.Context, c call, _ nothing) (nothing, error) {
	sb, r, err := s.findSandbox(ctx, c.ref)
	if err != nil {
		return nothing{}, err
	}
	if r.Unknown && !c.force {
		return nothing{}, fmt.Errorf("delete sandbox %s: %w: it was found running without a record; force removes it", r.Spec.Name, errdefs.ErrFailedPrecondition)
	}
	if c.force { // else its endpoints go with it
		members, err := s.members(ctx, sb.ID())
		if err != nil {
			return nothing{}, err
		}
		for _, m := range members {
			if err := s.dropEndpoint(ctx, m, true); err != nil {
				return nothing{}, err
			}
		}
	}
	return nothing{}, sb.Delete(ctx)
}

// dropEndpoint deletes an endpoint that may be gone already, as may its network.
func (s *Server) dropEndpoint(ctx context.Context, m member, force bool) error {
	ep := s.ctl.Endpoint(m.network.ID, m.endpoint.ID)
	drop := ep.Delete
	if force {
		drop = ep.Forget
	}
	err := drop(ctx)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

func (s *Server) publish(ctx context.Context, c call, in PortChange) (Published, error) {
	return s.changePorts(ctx, c.ref, in, func(p ports, b endpoint.PortBinding, _ []endpoint.PortBinding) (ports, bool) { return p.with(b), true })
}

func (s *Server) unpublish(ctx context.Context, c call, in PortChange) (Published, error) {
	return s.changePorts(ctx, c.ref, in, ports.without)
}

// changePorts changes what a sandbox publishes, and tells all that it publishes then. change answers false when nothing is as it asks.
func (s *Server) changePorts(ctx context.Context, ref string, in PortChange,
	change func(p ports, b endpoint.PortBinding, given []endpoint.PortBinding) (ports, bool)) (Published, error) {
	b, err := endpoint.ParsePort(in.Port)
	if err != nil {
		return Published{}, err
	}
	sb, r, err := s.findSandbox(ctx, ref)
	if err != nil {
		return Published{}, err
	}
	err = s.ctl.ChangePorts(ctx, sb.ID(), func(p *endpoint.Ports, given []endpoint.PortBinding) error {
		now, found := change(ports(*p), b, given)
		if !found {
			return fmt.Errorf("sandbox %s: unpublish %s: %w: no port is published so", r.Spec.Name, b, errdefs.ErrNotFound)
		}
		*p = endpoint.Ports(now)
		return nil
	})
	if err != nil {
		return Published{}, err
	}
	members, err := s.members(ctx, sb.ID())
	return Published{Ports: portsOf(members)}, err
}
