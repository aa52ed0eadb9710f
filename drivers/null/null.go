// Package null is the driver of a network without a wire: who joins it has its loopback and nothing else.
//
//	┌─ sandbox ─┐
//	│    lo     │    and nothing else
//	└───────────┘
//
// It is the template of a room: a driver's directory has these files, in this order of reading.
// The driver only computes.
//
// Its networks have no addresses: no IPAM is asked. Nothing is ever published of them, since an endpoint that brings no way out is never
// a gateway.
package null

import "github.com/sealane/sealane/netdriver"

// New makes the driver.
func New() netdriver.Driver { return netdriver.Planned(planner()) }
