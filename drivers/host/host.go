// Package host is the driver of the host's own network: who joins it is in the host's namespace and has the host's interfaces.
//
//	┌─ the host = sandbox ─┐
//	│   lo  eth0  …        │    what is there already
//	└──────────────────────┘
//
// The driver only computes. That only sandboxes of the host's namespace join it is the Controller's to see to.
//
// Its networks have no addresses: they are made with the IPAM driver "null", as Docker's are. Nothing is ever published of them, since an
// endpoint that brings no way out is never a gateway.
package host

import (
	"context"

	"github.com/sealane/sealane/netdriver"
)

// New makes the driver. It implements netdriver.GatewayAllocator.
func New() netdriver.Driver { return driver{netdriver.Planned(planner{})} }

type driver struct{ netdriver.Driver }

// SkipGateway: nobody routes.
func (driver) SkipGateway(_ context.Context, labels map[string]string) (skip4, skip6 bool, err error) {
	_, err = ParseOptions(labels)
	return true, true, err
}
