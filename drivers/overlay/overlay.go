// Package overlay is the driver of networks that live on several hosts: on each of them a namespace of the network's own, with a bridge
// to which every endpoint is tied by a veth, and a VXLAN device (RFC 7348) to the other hosts.
//
//	┌─ sandbox ─┐    ┌─ sandbox ─┐
//	│   eth0    │    │   eth0    │    made inside the sandbox, never moved
//	└─────┬─────┘    └─────┬─────┘
//	┌─ namespace of the network ──────────┐
//	│     sv…              sv…            │   veths, a new name at each join
//	│     └───── br0 ──────┴──── sx0 ─────┼── VXLAN, UDP from the host to the other hosts
//	│            │ routes, masquerades    │
//	│           so0                       │
//	└────────────┼────────────────────────┘
//	        so-<network>                      a /31 of the host's own, masqueraded by it
//	             │
//	           uplink
//
// The bridge has the same addresses and MAC on every host: an endpoint's gateway is always near. The bridge knows all endpoints of the
// other hosts as permanent neighbours and answers for them, and the VXLAN device knows behind which host each is: nothing is learnt, and
// nothing flooded between hosts but with the option flood, what is for many or for all. Two networks may have the same subnet, so that ports and sources are translated twice: host to
// namespace, namespace to endpoint.
//
// The driver only computes.
package overlay

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/netdriver"
)

// New makes the driver. It implements netdriver.Numbered, netdriver.Binder and netdriver.Changer.
func New() netdriver.Driver { return driver{netdriver.Planned(planner{})} }

type driver struct{ netdriver.Driver }

// Numbers are the VNIs that a network may have.
func (driver) Numbers(n netdriver.Network) (first, last uint32, option string, err error) {
	o, err := ParseOptions(n.Options)
	if err != nil {
		return 0, 0, "", err
	}
	vnis := o.vnis()
	return vnis.First, vnis.Last, "vni", nil
}

// Binding is the option host_binding_ipv4.
func (driver) Binding(n netdriver.Network) netip.Addr {
	o, _ := ParseOptions(n.Options) // of bad ones nothing was made
	return o.Binding
}

// CheckChange lets what each host can follow alone change: MTU, prefix, addresses of published ports and of what leaves, transit. Subnets
// may be added.
func (driver) CheckChange(from, to netdriver.Network) error {
	was, err := ParseOptions(from.Options)
	if err != nil {
		return err
	}
	becomes, err := ParseOptions(to.Options)
	if err != nil {
		return err
	}
	kept := len(to.Subnets) >= len(from.Subnets) && slices.EqualFunc(from.Subnets, to.Subnets[:len(from.Subnets)], sameSubnet)
	for _, c := range []struct {
		field string
		same  bool
	}{
		{"option vni", was.VNI == becomes.VNI},
		{"option port", was.Port == becomes.Port},
		{"internal", from.Internal == to.Internal},
		{"subnets", kept},
	} {
		if !c.same {
			return fmt.Errorf("%s of overlay network %s cannot change while it exists: make another: %w", c.field, from.Name, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

func sameSubnet(a, b netdriver.Subnet) bool {
	return a.Pool.Subnet == b.Pool.Subnet && a.Gateway == b.Gateway
}
