// Package null is the driver of a network without a wire: who joins it has its loopback and nothing else.
//
//	┌─ sandbox ─┐
//	│    lo     │    and nothing else
//	└───────────┘
//
// It is the template of a room: a driver's directory has these files, in this order of reading.
// The driver only computes.
//
// Its networks have no addresses: they are made with the IPAM driver "null", as Docker's are. Nothing is ever published of them, since an
// endpoint that brings no way out is never a gateway.
package null

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
