// Package bridge is the driver of networks that live on one host: a bridge of the network's own, to which every endpoint is tied by
// a veth.
//
//	┌─ sandbox ─┐    ┌─ sandbox ─┐
//	│   eth0    │    │   eth0    │    made inside the sandbox, never moved
//	└─────┬─────┘    └─────┬─────┘
//	      sv…              sv…         veths, a new name at each join
//	┌─────┴────────────────┴─────┐
//	│ sl-<network>               │     the bridge, with the gateway addresses
//	└─────────────┬──────────────┘
//	      table inet sealane           isolation, published ports, masquerade
//	              │
//	            uplink
//
// The driver only computes. It never adopts a bridge that exists: a name that is taken is AlreadyExists when the plan is applied.
package bridge

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/netdriver"
)

// New makes the driver. It implements netdriver.GatewayAllocator, netdriver.Binder and netdriver.Changer.
func New() netdriver.Driver { return driver{netdriver.Planned(planner{})} }

type driver struct{ netdriver.Driver }

// SkipGateway: a bridge in mode isolated has no address.
func (driver) SkipGateway(_ context.Context, labels map[string]string) (skip4, skip6 bool, err error) {
	o, err := ParseOptions(labels)
	return o.Mode4 == firewall.Isolated, o.Mode6 == firewall.Isolated, err
}

// Binding is the option host_binding_ipv4.
func (driver) Binding(n netdriver.Network) netip.Addr {
	o, _ := ParseOptions(n.Options) // of bad ones nothing was made
	return o.Binding
}

// CheckChange lets all options change but the device's name, and nothing of the record that addresses hang on.
func (driver) CheckChange(from, to netdriver.Network) error {
	was, err := ParseOptions(from.Options)
	if err != nil {
		return err
	}
	becomes, err := ParseOptions(to.Options)
	if err != nil {
		return err
	}
	isolated := func(o Options) [2]bool { return [2]bool{o.Mode4 == firewall.Isolated, o.Mode6 == firewall.Isolated} }
	for _, c := range []struct {
		field string
		same  bool
	}{
		{"option name", was.Name == becomes.Name},
		{"gateway mode isolated", isolated(was) == isolated(becomes)},
		{"internal", from.Internal == to.Internal},
		{"subnets", slices.EqualFunc(from.Subnets, to.Subnets, sameSubnet)},
	} {
		if !c.same {
			return fmt.Errorf("%s of bridge network %s cannot change while it exists: make another: %w", c.field, from.Name, errdefs.ErrFailedPrecondition)
		}
	}
	_, err = planner{}.PlanNetwork(netdriver.Input{Network: to})
	return err
}

func sameSubnet(a, b netdriver.Subnet) bool {
	return a.Pool.Subnet == b.Pool.Subnet && a.Gateway == b.Gateway && a.Aux[routerAux(a.Pool.Subnet)] == b.Aux[routerAux(b.Pool.Subnet)]
}

// routerAux is Docker's name of the auxiliary address that containers use as gateway instead of the bridge.
func routerAux(subnet netip.Prefix) string {
	if subnet.Addr().Is4() {
		return "DefaultGatewayIPv4"
	}
	return "DefaultGatewayIPv6"
}
