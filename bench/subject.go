package main

import (
	"fmt"
	"time"

	"github.com/sealane/sealane/firewall"
)

// Mode says what is asked of a subject.
type Mode struct {
	IPv6   bool // both families, else IPv4 only
	Pool   bool // namespaces are taken from a pool of ready ones
	Silent bool // the floor's ports send nothing by themselves; the other subjects decide for themselves
	Names  bool // the subject answers for names and attaches nothing
	Docker bool // the subject is a plugin of an engine
	// Resolver gives each sandbox of sealane's names and a resolver.
	Resolver bool
	Ports    int // published TCP ports of each sandbox; the floor has none
}

// Subject attaches namespaces to one bridge network on the host that its process is alone on. All methods but Close may be called
// by several goroutines at once.
type Subject interface {
	// Attach makes a namespace and joins it to the network: when it returns, packets pass.
	Attach() (Handle, error)
	// Detach undoes it. It returns when the caller of a real runtime would be let go; devices may disappear later.
	Detach(Handle) error
	Close() error
}

// Handle is what a subject remembers of one attachment.
type Handle any

// Preparer is a subject that makes n namespaces ready when told, outside the time that is measured.
type Preparer interface{ Prepare(n int) error }

// Publisher is a subject that publishes TCP ports of an attachment that runs.
type Publisher interface {
	// Publish adds host ports, each to the same port of the container, in one call.
	Publish(h Handle, ports firewall.Range) error
	// Unpublish takes away what one Publish added.
	Unpublish(h Handle, ports firewall.Range) error
}

// Restarter is a subject that can be stopped and started while what it attached stays.
type Restarter interface {
	// Restart says how long the new one needed until it served.
	Restart() (time.Duration, error)
}

// open makes the subject of a name. It is called in the process and the namespaces that the subject has for itself.
func open(name string, mode Mode) (Subject, error) {
	if mode.Names {
		return newNames(name)
	}
	if mode.Docker && name == "floor" {
		return newPorts(mode)
	}
	if mode.Docker {
		return newPlugin(mode)
	}
	switch name {
	case "floor":
		return newFloor(mode)
	case "sealane":
		return newOurs(mode)
	case "moby":
		return newMoby(mode)
	}
	return nil, fmt.Errorf("there is no subject %q", name)
}

// subjects is all that open knows.
func subjects() []string { return []string{"floor", "sealane", "miekg", "moby"} }
