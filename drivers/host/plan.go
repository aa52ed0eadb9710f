package host

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
)

type planner struct{}

// Type implements netdriver.Planner.
func (planner) Type() netdriver.Capability {
	return netdriver.Capability{Type: "host", Scope: netdriver.Local, Connectivity: netdriver.Local, NoAddresses: true}
}

// PlanNetwork plans nothing: all is there already.
func (planner) PlanNetwork(in netdriver.Input) (netdriver.Plan, error) {
	if _, err := ParseOptions(in.Network.Options); err != nil {
		return netdriver.Plan{}, fmt.Errorf("plan network %s: %w", in.Network.Name, err)
	}
	if len(in.Network.Subnets) > 0 {
		return netdriver.Plan{}, fmt.Errorf("plan network %s: subnet %s: a network of driver host has no addresses: %w",
			in.Network.Name, in.Network.Subnets[0].Pool.Subnet, errdefs.ErrInvalidArgument)
	}
	return netdriver.Plan{}, nil
}

// PlanEndpoint plans nothing: all is there already, so that the endpoint brings no Attachment.
func (p planner) PlanEndpoint(in netdriver.Input, e endpoint.Info) (netdriver.Plan, error) {
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
		return p.PlanNetwork(in)
	}
	return netdriver.Plan{}, fmt.Errorf("plan endpoint %s on network %s: a network of driver host gives no interface that could have %s: %w",
		e.Spec.Name, in.Network.Name, why, errdefs.ErrInvalidArgument)
}
