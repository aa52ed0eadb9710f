package netdriver

import (
	"context"

	"github.com/sealane/sealane/endpoint"
)

// Planner is a driver that only computes. Both functions are pure and safe for concurrent use; validating is planning: a bad option
// is InvalidArgument, what this host cannot do FailedPrecondition, what is not built yet NotImplemented.
type Planner interface {
	Type() Capability
	PlanNetwork(in Input) (Plan, error)
	// PlanEndpoint is asked for the plan of a Join. It is also asked at CreateEndpoint, before there is a Nonce or a sandbox, and
	// the plan thrown away: an endpoint that could never join is refused before it is recorded.
	PlanEndpoint(in Input, e endpoint.Info) (Plan, error)
}

// Planned makes a Driver of a Planner: Create and Join answer with the plan, undoing is applying the empty one. It chooses neither
// address nor MAC. Optional abilities of p are hidden: a room that has some embeds the Driver and adds them.
func Planned(p Planner) Driver { return planned{p} }

type planned struct{ planner Planner }

func (d planned) Capability(context.Context) (Capability, error) {
	c := d.planner.Type()
	c.Computes = true
	return c, nil
}

func (d planned) CreateNetwork(_ context.Context, in Input) (Plan, error) {
	return d.planner.PlanNetwork(in)
}

func (d planned) DeleteNetwork(context.Context, Network) error { return nil }

func (d planned) CreateEndpoint(_ context.Context, in Input, e endpoint.Info) (Interface, error) {
	_, err := d.planner.PlanEndpoint(in, e)
	return Interface{}, err
}

func (d planned) DeleteEndpoint(context.Context, Network, endpoint.Info) error { return nil }

func (d planned) Join(_ context.Context, in Input, e endpoint.Info) (Plan, error) {
	return d.planner.PlanEndpoint(in, e)
}

func (d planned) Leave(context.Context, Network, endpoint.Info) error { return nil }
