package api

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// Names of the predefined networks, which are made at start and can neither be made nor removed by anybody.
const (
	networkNone   = "none"
	networkHost   = "host"
	networkBridge = "bridge" // what a sandbox joins that names no network
)

func predefined() []sealane.NetworkSpec {
	return []sealane.NetworkSpec{
		{Name: networkNone, Driver: "null", IPAM: sealane.IPAM{Driver: "null"}},
		{Name: networkHost, Driver: "host", IPAM: sealane.IPAM{Driver: "null"}},
		{Name: networkBridge, Driver: "bridge", OnDemand: true, NoNames: true, Options: map[string]string{"com.docker.network.bridge.name": "sealane0"}},
	}
}

func isPredefined(name string) bool {
	return slices.ContainsFunc(predefined(), func(n sealane.NetworkSpec) bool { return n.Name == name })
}

func (s *Server) predefine(ctx context.Context) error {
	for _, spec := range predefined() {
		if _, err := s.ctl.CreateNetwork(ctx, spec); err != nil && !errdefs.IsAlreadyExists(err) {
			s.log.Error("a predefined network is missing", "network", spec.Name, "error", err)
		}
	}
	return context.Cause(ctx)
}

func (s *Server) networks(ctx context.Context, c call, _ nothing) ([]Network, error) {
	all, err := s.listNetworks(ctx, c.filters["dangling"] != nil)
	if err != nil {
		return nil, err
	}
	chosen, err := choose(networkSelector(), c.filters, all)
	for i := range chosen {
		chosen[i].Containers = map[string]Container{}
	}
	return chosen, err
}

// listNetworks lists all networks, with their endpoints if asked.
func (s *Server) listNetworks(ctx context.Context, endpoints bool) ([]Network, error) {
	var all []Network
	for r, err := range s.ctl.Networks(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list networks: %w", err)
		}
		n := networkOf(r)
		if endpoints {
			if err := s.fillContainers(ctx, &n); err != nil {
				return nil, err
			}
		}
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

func (s *Server) network(ctx context.Context, c call, _ nothing) (Network, error) {
	net, err := s.ctl.Network(ctx, c.ref)
	if err != nil {
		return Network{}, err
	}
	r, err := net.Info(ctx)
	if err != nil {
		return Network{}, err
	}
	n := networkOf(r)
	for subnet, u := range s.ctl.Usage(ctx, r) {
		if subnet.Bits() > 0 {
			n.Status.IPAM.Subnets[subnet] = Usage{u.InUse, u.Free}
		}
	}
	if r.Scope == netdriver.Global {
		if err := s.fillPeers(ctx, &n, c.global); err != nil {
			return Network{}, err
		}
	}
	return n, s.fillContainers(ctx, &n)
}

// fillPeers adds the hosts that have endpoints, and these if asked. With the cluster store away there is nobody to ask.
func (s *Server) fillPeers(ctx context.Context, n *Network, endpoints bool) error {
	addresses := map[string]Peer{}
	for h, err := range s.ctl.Hosts(ctx) {
		switch {
		case errdefs.IsUnavailable(err) && !endpoints:
			return nil
		case err != nil:
			return fmt.Errorf("peers of network %s: %w", n.Name, err)
		}
		addresses[h.ID] = Peer{Name: h.Name, IP: textOf(h.Advertise)}
	}
	peers := map[string]bool{}
	for p, err := range s.ctl.Published(ctx, endpoint.NetworkID(n.ID)) {
		if err != nil {
			return fmt.Errorf("peers of network %s: %w", n.Name, err)
		}
		if known, is := addresses[p.Host]; is && !peers[p.Host] && p.Host != s.o.Host.ID {
			peers[p.Host] = true
			n.Peers = append(n.Peers, known)
		}
		if endpoints && p.Host != s.o.Host.ID {
			c := Container{Name: p.Name, EndpointID: string(p.ID), MacAddress: p.MAC.String(), Host: p.Host}
			c.IPv4Address, c.IPv6Address = families(p.Addresses)
			n.Containers["ep-"+string(p.ID)] = c
		}
	}
	slices.SortFunc(n.Peers, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

// textOf is an address; "" of none.
func textOf(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// fillContainers adds the endpoints. One that goes away meanwhile is left out.
func (s *Server) fillContainers(ctx context.Context, n *Network) error {
	net, err := s.ctl.Network(ctx, n.ID)
	if errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	for e, err := range net.Endpoints(ctx) {
		if err != nil {
			return fmt.Errorf("list endpoints of network %s: %w", n.Name, err)
		}
		key, name := "ep-"+string(e.ID), e.Spec.Name
		if e.Sandbox != "" {
			key = string(e.Sandbox)
			if sb, err := s.sandboxInfo(ctx, key); err == nil {
				name = sb.Spec.Name
			}
		}
		n.Containers[key] = containerOf(e, name)
	}
	return nil
}

func (s *Server) createNetwork(ctx context.Context, _ call, in NetworkSpec) (Created, error) {
	if isPredefined(in.Name) {
		return Created{}, fmt.Errorf("create network %s: %w: the name is of a predefined network; choose another", in.Name, errdefs.ErrPermissionDenied)
	}
	net, err := s.ctl.CreateNetwork(ctx, in.spec())
	if err != nil {
		return Created{}, err
	}
	return Created{ID: string(net.ID())}, nil
}

func (s *Server) updateNetwork(ctx context.Context, c call, in NetworkChange) (done, error) {
	net, err := s.ctl.Network(ctx, c.ref)
	if err != nil {
		return done{}, err
	}
	return done{}, net.Update(ctx, func(n *sealane.NetworkSpec) error {
		n.Options, n.Labels = overlaid(n.Options, in.Options), overlaid(n.Labels, in.Labels)
		return nil
	})
}

func overlaid(m, over map[string]string) map[string]string {
	if len(over) == 0 {
		return m
	}
	m = maps.Clone(notNil(m))
	maps.Copy(m, over)
	return m
}

func (s *Server) removeNetwork(ctx context.Context, c call, _ nothing) (nothing, error) {
	net, err := s.ctl.Network(ctx, c.ref)
	if err != nil {
		return nothing{}, err
	}
	n, err := net.Info(ctx)
	if err != nil {
		return nothing{}, err
	}
	switch {
	case isPredefined(n.Name):
		return nothing{}, fmt.Errorf("delete network %s: %w: it is predefined and stays", n.Name, errdefs.ErrPermissionDenied)
	case n.Unknown && !c.force:
		return nothing{}, fmt.Errorf("delete network %s: %w: it was found running without a record; force removes it", n.Name, errdefs.ErrFailedPrecondition)
	case c.force:
		return nothing{}, net.Forget(ctx)
	}
	return nothing{}, net.Delete(ctx)
}

func (s *Server) pruneNetworks(ctx context.Context, c call, _ nothing) (Pruned, error) {
	done := Pruned{NetworksDeleted: []string{}, Warnings: []string{}}
	all, err := s.listNetworks(ctx, true)
	if err != nil {
		return done, err
	}
	chosen, err := choose(pruneSelector(), c.filters, all)
	if err != nil {
		return done, err
	}
	names := map[endpoint.NetworkID]string{}
	for _, n := range chosen {
		if len(n.Containers) == 0 && n.State != StateUnknown && !isPredefined(n.Name) {
			names[endpoint.NetworkID(n.ID)] = n.Name
		}
	}
	gone, err := s.ctl.PruneNetworks(ctx, slices.Collect(maps.Keys(names))...)
	for _, id := range gone {
		done.NetworksDeleted = append(done.NetworksDeleted, names[id])
	}
	slices.Sort(done.NetworksDeleted)
	if ctx.Err() != nil {
		return done, err
	}
	if err != nil {
		done.Warnings = append(done.Warnings, err.Error())
	}
	return done, nil
}

func (s *Server) connect(ctx context.Context, c call, in Connection) (done, error) {
	spec, err := in.EndpointConfig.spec()
	if err != nil {
		return done{}, err
	}
	net, err := s.ctl.Network(ctx, c.ref)
	if err != nil {
		return done{}, err
	}
	sb, r, err := s.findSandbox(ctx, in.Container)
	if err != nil {
		return done{}, err
	}
	if spec.Links, err = s.links(ctx, net, in.EndpointConfig.Links); err != nil {
		return done{}, err
	}
	members, err := s.members(ctx, sb.ID())
	if err != nil {
		return done{}, err
	}
	for _, m := range members {
		if m.network.ID == net.ID() {
			return done{}, fmt.Errorf("connect sandbox %s to network %s: %w: it is on it by endpoint %s", r.Spec.Name, m.network.Name,
				errdefs.ErrAlreadyExists, m.endpoint.ID)
		}
	}
	return done{}, s.attach(ctx, net, sb, r.Spec.Name, spec)
}

// attach makes an endpoint for a sandbox and joins it, or neither.
func (s *Server) attach(ctx context.Context, net sealane.Network, sb sandbox.Sandbox, name string, spec endpoint.Spec) error {
	spec.Name, spec.For = name, sb.ID()
	ep, err := net.CreateEndpoint(ctx, spec)
	if err != nil {
		return err
	}
	if err = ep.Join(ctx, sb); err == nil {
		return nil
	}
	ctx, cancel := afterwards(ctx)
	defer cancel()
	if undone := ep.Delete(ctx); undone != nil && !errdefs.IsNotFound(undone) {
		s.log.Warn("an endpoint that did not join is left", "endpoint", ep.ID(), "error", undone)
	}
	return err
}

func (s *Server) disconnect(ctx context.Context, c call, in Disconnection) (done, error) {
	net, err := s.ctl.Network(ctx, c.ref)
	if err != nil {
		return done{}, err
	}
	e, err := s.connection(ctx, net, in)
	if err != nil {
		return done{}, err
	}
	ep, err := net.Endpoint(ctx, string(e.ID))
	if err != nil {
		return done{}, err
	}
	if in.Force {
		return done{}, ep.Forget(ctx)
	}
	if e.Sandbox != "" { // else an earlier call got as far as this
		if err := ep.Leave(ctx); err != nil {
			return done{}, err
		}
	}
	return done{}, ep.Delete(ctx)
}

// connection finds the endpoint by which a sandbox is on a network. By force also one whose sandbox is gone, by its own name.
func (s *Server) connection(ctx context.Context, net sealane.Network, in Disconnection) (endpoint.Info, error) {
	sb, err := s.ctl.Sandbox(ctx, in.Container)
	if errdefs.IsNotFound(err) && in.Force {
		ep, err := net.Endpoint(ctx, in.Container)
		if err != nil {
			return endpoint.Info{}, err
		}
		return ep.Info(ctx)
	}
	if err != nil {
		return endpoint.Info{}, err
	}
	for e, err := range s.ctl.Endpoints(ctx, sb.ID()) {
		if err != nil {
			return e, err
		}
		if e.Network == net.ID() {
			return e, nil
		}
	}
	return endpoint.Info{}, fmt.Errorf("disconnect sandbox %.80s: %w: it is not on the network", in.Container, errdefs.ErrNotFound)
}

// members lists the endpoints of one sandbox, each with its network.
func (s *Server) members(ctx context.Context, id sandbox.ID) ([]member, error) {
	var all []member
	for e, err := range s.ctl.Endpoints(ctx, id) {
		if err != nil {
			return nil, err
		}
		n, err := s.networkInfo(ctx, e.Network)
		if err != nil {
			return nil, err
		}
		all = append(all, member{n, e, s.ctl.Binding(ctx, n)})
	}
	return all, nil
}

// networkInfo is the record of an endpoint's network; one that is not there, after a store was lost, is known by its id alone.
func (s *Server) networkInfo(ctx context.Context, id endpoint.NetworkID) (netdriver.Network, error) {
	net, err := s.ctl.Network(ctx, string(id))
	if err == nil {
		var n netdriver.Network
		if n, err = net.Info(ctx); err == nil {
			return n, nil
		}
	}
	if errdefs.IsNotFound(err) || id == "" {
		return netdriver.Network{ID: id, Name: string(id)}, nil
	}
	return netdriver.Network{}, err
}

// everyMember lists all endpoints of this host.
func (s *Server) everyMember(ctx context.Context) ([]member, error) {
	var all []member
	for n, err := range s.ctl.Networks(ctx) {
		if err != nil {
			return nil, fmt.Errorf("list networks: %w", err)
		}
		net, err := s.ctl.Network(ctx, string(n.ID))
		if errdefs.IsNotFound(err) {
			continue // gone since it was listed
		} else if err != nil {
			return nil, err
		}
		for e, err := range net.Endpoints(ctx) {
			if err != nil {
				return nil, fmt.Errorf("list endpoints of network %s: %w", n.Name, err)
			}
			all = append(all, member{n, e, s.ctl.Binding(ctx, n)})
		}
	}
	return all, nil
}
