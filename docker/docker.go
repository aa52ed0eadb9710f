// Package docker is sealane as Docker engines see it: a netdriver.Driver and an ipam.Driver, for the servers of package remote, that do
// with the Controller what an engine asks for.
//
// An engine knows networks, endpoints and sandboxes by ids of its own. A network of its is bound to one of ours by a record in the root
// store (binding); ids of ours are hashed from its ids, so that a request that comes again finds what the first made. It asks for pools
// and addresses before it says what for: those are the Controller's leases for front ends, and an endpoint that has come to have an
// address is found by it. It moves the link into the container and back by itself, which is sandbox.Origin's Foreign; all
// else is the same converge path as everybody's.
package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// Options are what a plugin is made of. The caller keeps what it gives.
type Options struct {
	Name       string          // of the plugin, as in docker network create -d NAME
	Driver     string          // that its networks have; "": bridge
	IPAM       string          // that its addresses come from; "": default
	Shared     bool            // its networks are found by name, and those of many hosts' engines are one of ours (shared.go)
	Host       string          // id of this host, and
	Cluster    datastore.Store // what it shares with others; nil: networks of a plugin that is Shared are refused
	Controller *sealane.Controller
	Run, Root  datastore.Store // the Controller's
	// Engine is asked what it still knows; nil: nobody is, and nothing is swept.
	Engine Engine
	// Every is how often the engine is asked, Patience how long what it asked for may stay unclaimed; 0: a minute, and ten times Every.
	Every, Patience time.Duration
	Logger          *slog.Logger // nil: nothing is logged
}

// Plugin is one name under which engines find us. Safe for concurrent use.
type Plugin struct {
	Options
	known    datastore.Memo[binding]      // of what bindings' texts mean: each verb reads one
	mu       sync.Mutex                   // guards doors
	doors    map[endpoint.NetworkID]*door // that somebody is in or waits for
	suspects map[string]time.Time         // of the sweep, which is alone with it
}

// New makes a plugin. It does nothing by itself but Sweep.
func New(o Options) *Plugin {
	const often, patience = time.Minute, 10 // patience in rounds
	if o.Driver == "" {
		o.Driver = "bridge"
	}
	if o.Every == 0 {
		o.Every = often
	}
	if o.Patience == 0 {
		o.Patience = patience * o.Every
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Plugin{Options: o, doors: map[endpoint.NetworkID]*door{}, suspects: map[string]time.Time{}}
}

// Network is the plugin's network driver. It implements netdriver.ExternalConnector and netdriver.Informer.
func (p *Plugin) Network() netdriver.Driver {
	if p.Shared {
		return sharedNetworks{networks{p}}
	}
	return networks{p}
}

// Addresses is the plugin's address driver.
func (p *Plugin) Addresses() ipam.Driver {
	if p.Shared {
		return sharedAddresses{addresses{p}}
	}
	return addresses{p}
}

// id is ours for what the engine calls theirs: the same each time, and safe in paths and link names.
func (p *Plugin) id(kind, theirs string) string { return hashed(p.Name, kind, theirs) }

func hashed(parts ...string) string {
	hash := sha256.Sum256([]byte("docker\x00" + strings.Join(parts, "\x00")))
	return hex.EncodeToString(hash[:])
}

// door lets one at a time change who has the addresses of a shared network.
type door struct {
	users int
	in    chan struct{}
}

// enter waits for the door of a network until ctx ends.
func (p *Plugin) enter(ctx context.Context, network endpoint.NetworkID) (leave func(), err error) {
	p.mu.Lock()
	d := p.doors[network]
	if d == nil {
		d = &door{in: make(chan struct{}, 1)}
		p.doors[network] = d
	}
	d.users++
	p.mu.Unlock()
	gone := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if d.users--; d.users == 0 {
			delete(p.doors, network)
		}
	}
	select {
	case d.in <- struct{}{}:
		return func() { <-d.in; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, context.Cause(ctx)
	}
}
