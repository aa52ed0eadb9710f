// Package host is the driver of the host's own network: who joins it is in the host's namespace and has the host's interfaces.
//
//	┌─ the host = sandbox ─┐
//	│   lo  eth0  …        │    what is there already
//	└──────────────────────┘
//
// The driver only computes. That only sandboxes of the host's namespace join it is the Controller's to see to.
//
// Its networks have no addresses: no IPAM is asked. Nothing is ever published of them, since an endpoint that brings no way out is never
// a gateway.
package host

import "github.com/sealane/sealane/netdriver"

// New makes the driver.
func New() netdriver.Driver { return netdriver.Planned(planner()) }
