package netdriver

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
)

// Bare is the Planner of a driver of that type whose networks give no interface: nothing is there to be made, no address to be given, and
// an endpoint brings no Attachment. options refuses what a network's Options may not be, as InvalidArgument.
func Bare(typ string, options func(map[string]string) error) Planner { return bare{typ, options} }

type bare struct {
	typ     string
	options func(map[string]string) error
}

func (b bare) Type() Capability {
	return Capability{Type: b.typ, Scope: Local, Connectivity: Local, NoAddresses: true}
}

func (b bare) PlanNetwork(in Input) (Plan, error) {
	err := b.options(in.Network.Options)
	if err == nil && len(in.Network.Subnets) > 0 {
		err = fmt.Errorf("subnet %s: a network of driver %s has no addresses: %w", in.Network.Subnets[0].Pool.Subnet, b.typ, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return Plan{}, fmt.Errorf("plan network %s: %w", in.Network.Name, err)
	}
	return Plan{}, nil
}

func (b bare) PlanEndpoint(in Input, e endpoint.Info) (Plan, error) {
	why := ""
	switch {
	case len(e.Spec.Addresses) > 0:
		why = "an address"
	case e.Spec.MAC != nil:
		why = "a MAC address"
	case len(e.Spec.Sysctls) > 0:
		why = "sysctls of an interface"
	case e.Spec.Interface != "":
		why = "an interface name"
	default:
		return b.PlanNetwork(in)
	}
	return Plan{}, fmt.Errorf("plan endpoint %s on network %s: a network of driver %s gives no interface that could have %s: %w",
		e.Spec.Name, in.Network.Name, b.typ, why, errdefs.ErrInvalidArgument)
}
