package drivertest

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/sandboxtest"
)

// Acting is a driver in memory that does its work itself, as a remote one does: it computes nothing that we apply, must be told of a
// network before its endpoints and of an endpoint before its join, and keeps what it holds when its caller dies. Safe for concurrent
// use; fields are set while nobody uses it.
type Acting struct {
	// Fault, if not nil, is asked twice a verb: before the deed with its name and object, as in "join <id>", and after it with the same
	// and ", done". Its error is the answer.
	Fault func(op string) error
	// Kernel, if not nil, gets the link of each join, which arrives in its host's namespace.
	Kernel *sandboxtest.Fake
	// Publishes has it publish the ports of gateways itself.
	Publishes bool

	mu        sync.Mutex
	calls     []string
	networks  map[endpoint.NetworkID]bool
	endpoints map[endpoint.ID]endpoint.NetworkID
	joined    map[endpoint.ID]bool
	gateways  map[endpoint.ID][]endpoint.PortBinding // with the ports that it publishes of each
}

// NewActing is a driver that holds nothing.
func NewActing() *Acting {
	return &Acting{networks: map[endpoint.NetworkID]bool{}, endpoints: map[endpoint.ID]endpoint.NetworkID{}, joined: map[endpoint.ID]bool{},
		gateways: map[endpoint.ID][]endpoint.PortBinding{}}
}

var (
	_ netdriver.Driver            = (*Acting)(nil)
	_ netdriver.ExternalConnector = (*Acting)(nil)
)

// Calls are the verbs that it was asked, in order, as Fault is told them.
func (a *Acting) Calls() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

// Held is what it holds, one thing a line, sorted: "" nothing.
func (a *Acting) Held() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var lines []string
	for id := range a.networks {
		lines = append(lines, fmt.Sprintf("network %s\n", id))
	}
	for id, network := range a.endpoints {
		state := ""
		if a.joined[id] {
			state = " joined"
		}
		if ports, is := a.gateways[id]; is {
			state += fmt.Sprintf(", gateway %v", ports)
		}
		lines = append(lines, fmt.Sprintf("endpoint %s of %s%s\n", id, network, state))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// verb does one deed with a fault before or after it when one is due.
func (a *Acting) verb(ctx context.Context, op string, do func() error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if a.Fault != nil {
		if err := a.Fault(op); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	a.mu.Lock()
	a.calls = append(a.calls, op)
	err := do()
	a.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if a.Fault != nil {
		if err := a.Fault(op + ", done"); err != nil {
			return fmt.Errorf("%s, done: %w", op, err)
		}
	}
	return nil
}

// Capability implements netdriver.Driver. It is no verb: nothing is remembered.
func (a *Acting) Capability(context.Context) (netdriver.Capability, error) {
	return netdriver.Capability{Type: "acting", Scope: netdriver.Local, Connectivity: netdriver.Local, Publishes: a.Publishes}, nil
}

// CreateNetwork implements netdriver.Driver. The option "bad" is InvalidArgument.
func (a *Acting) CreateNetwork(ctx context.Context, in netdriver.Input) (netdriver.Plan, error) {
	return netdriver.Plan{}, a.verb(ctx, "create network "+string(in.Network.ID), func() error {
		if value, ok := in.Network.Options["bad"]; ok {
			return fmt.Errorf("option bad: value %q: %w", value, errdefs.ErrInvalidArgument)
		}
		a.networks[in.Network.ID] = true
		return nil
	})
}

// DeleteNetwork implements netdriver.Driver. FailedPrecondition while it has endpoints.
func (a *Acting) DeleteNetwork(ctx context.Context, n netdriver.Network) error {
	return a.verb(ctx, "delete network "+string(n.ID), func() error {
		for _, id := range slices.Sorted(maps.Keys(a.endpoints)) {
			if a.endpoints[id] == n.ID {
				return fmt.Errorf("it has the endpoint %s: %w", id, errdefs.ErrFailedPrecondition)
			}
		}
		delete(a.networks, n.ID)
		return nil
	})
}

// CreateEndpoint implements netdriver.Driver. NotFound for a network that it was not told of. It chooses the MAC that none was given
// for.
func (a *Acting) CreateEndpoint(ctx context.Context, in netdriver.Input, e endpoint.Info) (netdriver.Interface, error) {
	var chosen netdriver.Interface
	err := a.verb(ctx, "create endpoint "+string(e.ID), func() error {
		if !a.networks[in.Network.ID] {
			return fmt.Errorf("network %s: %w", in.Network.ID, errdefs.ErrNotFound)
		}
		if e.MAC == nil && len(e.Addresses) > 0 {
			chosen.MAC = endpoint.MAC(e.Addresses[0].Addr())
		}
		a.endpoints[e.ID] = in.Network.ID
		return nil
	})
	return chosen, err
}

// DeleteEndpoint implements netdriver.Driver. FailedPrecondition while it is joined.
func (a *Acting) DeleteEndpoint(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	return a.verb(ctx, "delete endpoint "+string(e.ID), func() error {
		if a.joined[e.ID] {
			return fmt.Errorf("it is joined: %w", errdefs.ErrFailedPrecondition)
		}
		delete(a.endpoints, e.ID)
		return nil
	})
}

// Join implements netdriver.Driver. NotFound for an endpoint that it was not told of.
func (a *Acting) Join(ctx context.Context, in netdriver.Input, e endpoint.Info) (netdriver.Plan, error) {
	attachment := sandbox.Attachment{
		Link:   sandbox.Link{MAC: e.MAC, Addrs: slices.Clone(e.Addresses), Arrives: link(e)},
		Prefix: "act", Priority: e.Spec.Priority, Order: in.Network.Name, Internal: in.Network.Internal,
	}
	attachment.Gateway4, attachment.Gateway6 = gateways(in.Network)
	err := a.verb(ctx, "join "+string(e.ID), func() error {
		if _, ok := a.endpoints[e.ID]; !ok {
			return fmt.Errorf("endpoint %s: %w", e.ID, errdefs.ErrNotFound)
		}
		if a.joined[e.ID] {
			return nil
		}
		a.joined[e.ID] = true
		if a.Kernel == nil {
			return nil
		}
		return a.Kernel.Meddle("", sandbox.Step{Op: sandbox.AddLink, Link: sandbox.Link{Name: link(e), Tap: &sandbox.Tap{}}})
	})
	if err != nil {
		return netdriver.Plan{}, err
	}
	return netdriver.Plan{Attachment: &attachment}, nil
}

// ProgramExternalConnectivity implements netdriver.ExternalConnector. FailedPrecondition for an endpoint that is not joined, and for one that
// is a gateway with other ports; AlreadyExists, when it publishes them itself, for a host port that another one has.
func (a *Acting) ProgramExternalConnectivity(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	return a.verb(ctx, "program "+string(e.ID), func() error {
		has, is := a.gateways[e.ID]
		if !a.joined[e.ID] || is && !slices.Equal(has, e.Ports) {
			return fmt.Errorf("it is not joined, or has other ports: %w", errdefs.ErrFailedPrecondition)
		}
		for other, ports := range a.gateways {
			for _, b := range ports {
				same := func(p endpoint.PortBinding) bool { return p.HostPorts == b.HostPorts && p.Proto == b.Proto }
				if a.Publishes && other != e.ID && slices.ContainsFunc(e.Ports, same) {
					return fmt.Errorf("port %s is of endpoint %s: %w", b, other, errdefs.ErrAlreadyExists)
				}
			}
		}
		a.gateways[e.ID] = slices.Clone(e.Ports)
		return nil
	})
}

// RevokeExternalConnectivity implements netdriver.ExternalConnector.
func (a *Acting) RevokeExternalConnectivity(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	return a.verb(ctx, "revoke "+string(e.ID), func() error {
		delete(a.gateways, e.ID)
		return nil
	})
}

// Leave implements netdriver.Driver. FailedPrecondition while it is a gateway.
func (a *Acting) Leave(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	return a.verb(ctx, "leave "+string(e.ID), func() error {
		if _, is := a.gateways[e.ID]; is {
			return fmt.Errorf("it is a gateway: %w", errdefs.ErrFailedPrecondition)
		}
		delete(a.joined, e.ID)
		if a.Kernel == nil {
			return nil
		}
		return a.Kernel.Meddle("", sandbox.Step{Op: sandbox.DelLink, Link: sandbox.Link{Name: link(e), Tap: &sandbox.Tap{}}})
	})
}

// link is the name under which the link of an endpoint arrives.
func link(e endpoint.Info) string { return "act" + string(e.ID[:min(12, len(e.ID))]) }

func gateways(n netdriver.Network) (g4, g6 netip.Addr) {
	for _, s := range n.Subnets {
		if a := s.Gateway.Addr(); a.Is4() {
			g4 = a
		} else if a.Is6() {
			g6 = a
		}
	}
	if n.Internal {
		return netip.Addr{}, netip.Addr{}
	}
	return g4, g6
}
