package remote

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
)

// networkClient is a plugin as a network driver.
type networkClient struct{ p *plugin }

var (
	_ netdriver.Driver            = networkClient{}
	_ netdriver.ExternalConnector = networkClient{}
	_ netdriver.GatewayAllocator  = networkClient{}
	_ netdriver.Informer          = networkClient{}
	_ netdriver.Prober            = networkClient{}
)

// Probe says, without waiting, why the plugin does not answer.
func (d networkClient) Probe(ctx context.Context) error { return d.p.probe(ctx) }

// Capability asks once. A scope that is neither of Docker's is refused; no ConnectivityScope is that of Scope.
func (d networkClient) Capability(ctx context.Context) (netdriver.Capability, error) {
	said, err := d.p.networkCapability(ctx)
	if err != nil {
		return netdriver.Capability{}, err
	}
	c := netdriver.Capability{Type: d.p.name, Scope: netdriver.Scope(said.Scope), Connectivity: netdriver.Scope(said.ConnectivityScope)}
	if c.Connectivity == "" {
		c.Connectivity = c.Scope
	}
	if said.Sealane != nil {
		c.Publishes = said.Sealane.Publishes
	}
	for _, s := range []netdriver.Scope{c.Scope, c.Connectivity} {
		if s != netdriver.Local && s != netdriver.Global {
			return netdriver.Capability{}, badReply("plugin %s: scope %.80q is neither local nor global", d.p.name, s)
		}
	}
	return c, nil
}

// SkipGateway asks a plugin that says that it wants to be asked.
func (d networkClient) SkipGateway(ctx context.Context, options map[string]string) (skip4, skip6 bool, err error) {
	said, err := d.p.networkCapability(ctx)
	if err != nil || !said.GwAllocChecker {
		return false, false, err
	}
	var reply gatewayReply
	err = d.p.call(ctx, gatewayCheck, gatewayRequest{Options: map[string]any{optGeneric: generic(options)}}, &reply)
	return reply.SkipIPv4, reply.SkipIPv6, err
}

func (d networkClient) CreateNetwork(ctx context.Context, in netdriver.Input) (netdriver.Plan, error) {
	r := newNetworkRequest(in.Network)
	stamp(ctx, r.Sealane, d.p.timeout)
	return netdriver.Plan{}, d.p.call(ctx, createNetwork, r, nil)
}

func (d networkClient) DeleteNetwork(ctx context.Context, n netdriver.Network) error {
	r := networkName{NetworkID: string(n.ID), Sealane: stamp(ctx, &Extra{Network: n.Name, Labels: n.Labels}, d.p.timeout)}
	return d.p.call(ctx, deleteNetwork, r, nil)
}

// CreateEndpoint undoes what it refuses to believe.
func (d networkClient) CreateEndpoint(ctx context.Context, in netdriver.Input, e endpoint.Info) (netdriver.Interface, error) {
	r := newEndpointRequest(in.Network, e)
	stamp(ctx, r.Sealane, d.p.timeout)
	var reply endpointReply
	err := d.p.call(ctx, createEndpoint, r, &reply)
	if err != nil || reply.Interface == nil {
		return netdriver.Interface{}, err
	}
	chosen, err := reply.Interface.chosen(in.Network, e)
	if err != nil {
		return netdriver.Interface{}, d.p.undo(ctx, err, func(ctx context.Context) error { return d.DeleteEndpoint(ctx, in.Network, e) })
	}
	return chosen, nil
}

// chosen is what a plugin added to what it was given.
func (i iface) chosen(n netdriver.Network, e endpoint.Info) (netdriver.Interface, error) {
	said, err := i.read()
	if err != nil {
		return said, badReply("%w", err)
	}
	out := netdriver.Interface{}
	for _, p := range said.Addresses {
		given := family(e.Addresses, p.Addr().Is6())
		if given.IsValid() && given != p {
			return out, badReply("address %s, where %s was given", p, given)
		}
		if !given.IsValid() {
			out.Addresses = append(out.Addresses, p)
		}
	}
	if err := checkChosen(n, out.Addresses); err != nil {
		return out, err
	}
	if len(out.Addresses) > 0 { // a family was given, the other chosen: the record has both
		out.Addresses = append(slices.Clone(e.Addresses), out.Addresses...)
	}
	if said.MAC != nil && e.MAC != nil && !bytes.Equal(said.MAC, e.MAC) {
		return out, badReply("MAC address %s, where %s was given", said.MAC, e.MAC)
	}
	if e.MAC == nil {
		out.MAC = said.MAC
	}
	return out, nil
}

func (d networkClient) DeleteEndpoint(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	return d.name(ctx, deleteEndpoint, n, e, nil)
}

// name sends a verb that names an endpoint and no more.
func (d networkClient) name(ctx context.Context, verb string, n netdriver.Network, e endpoint.Info, into any) error {
	r := newEndpointName(n, e)
	stamp(ctx, r.Sealane, d.p.timeout)
	return d.p.call(ctx, verb, r, into)
}

// Join answers with the attachment: the plugin has done the rest. It undoes what it refuses to believe.
func (d networkClient) Join(ctx context.Context, in netdriver.Input, e endpoint.Info) (netdriver.Plan, error) {
	r := newJoinRequest(in.Network, e)
	stamp(ctx, r.Sealane, d.p.timeout)
	var reply joinReply
	if err := d.p.call(ctx, join, r, &reply); err != nil {
		return netdriver.Plan{}, err
	}
	a, err := reply.attachment(in.Network, e)
	if err != nil {
		return netdriver.Plan{}, d.p.undo(ctx, err, func(ctx context.Context) error { return d.Leave(ctx, in.Network, e) })
	}
	return netdriver.Plan{Attachment: a}, nil
}

func (d networkClient) Leave(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	return d.name(ctx, leave, n, e, nil)
}

// ProgramExternalConnectivity says that the endpoint carries its sandbox's way out, and with which ports. Plugins from before the verb
// need not be told.
func (d networkClient) ProgramExternalConnectivity(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	r := programRequest{NetworkID: string(n.ID), EndpointID: string(e.ID), Options: portOptions(e.Ports, e.Spec.Exposed), Sealane: extraOf(n, e)}
	stamp(ctx, r.Sealane, d.p.timeout)
	return known(d.p.call(ctx, programConnectivity, r, nil))
}

func (d networkClient) RevokeExternalConnectivity(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	return known(d.name(ctx, revokeConnectivity, n, e, nil))
}

func known(err error) error {
	if errdefs.IsNotImplemented(err) {
		return nil
	}
	return err
}

// EndpointInfo waits a second at most: it is for people who look, whose impatience says nothing of the plugin.
func (d networkClient) EndpointInfo(ctx context.Context, n netdriver.Network, e endpoint.Info) (map[string]any, error) {
	ctx, cancel := context.WithCancel(ctx) // a deadline of ours would count as silence
	defer cancel()
	defer time.AfterFunc(time.Second, cancel).Stop()
	var reply infoReply
	err := d.name(ctx, endpointInfo, n, e, &reply)
	return reply.Value, err
}
