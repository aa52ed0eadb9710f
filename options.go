package sealane

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// Options is what a Controller is made of. cmd/sealane and examples choose the rooms. The caller keeps what it gives and closes it
// after the Controller.
type Options struct {
	Instance string          // owner of tables, aliases and namespaces; "": sealane. A second one of a name in a namespace is refused
	Run      datastore.Store // required: dies with the boot
	Root     datastore.Store // nil: Run
	Cluster  datastore.Store // nil: this host alone
	Drivers  map[string]netdriver.Driver
	IPAM     map[string]ipam.Driver
	// Find is asked for a driver that is in neither map: plugins. It may be nil.
	Find      func(ctx context.Context, name string) (netdriver.Driver, ipam.Driver, error)
	Spaces    sandbox.Provider  // required
	Firewalls firewall.Opener   // nil: no firewall
	Resolver  resolver.Resolver // nil: no names, as without Firewalls, which lead to it
	Files     resolver.Files    // nil: sandboxes have no hosts, hostname and resolv.conf of ours
	// AtGateways has a Resolver that is able (resolver.Gateways) answer at the gateway addresses of networks too, for containers whose
	// resolv.conf somebody else writes.
	AtGateways bool
	Host       string        // id of this host, the same at each start; required with Cluster
	Hostname   string        // its name, shown to other hosts
	Advertise  netip.Addr    // where tunnels of other hosts end; zero: no network reaches from host to host
	HostLost   time.Duration // after which an unreachable host's endpoints are freed; 0: never
	// Quarantined says that a store was lost and replaced by an empty one: nothing is swept, and what runs without a record is taken
	// over as it is, as sandboxes whose Info says Unknown.
	Quarantined bool
	Logger      *slog.Logger // nil: nothing is logged
}

// complete checks what is required and fills in defaults.
func (o *Options) complete() error {
	if o.Run == nil || o.Spaces == nil {
		return fmt.Errorf("new controller: %w: Options.Run and Options.Spaces are required", errdefs.ErrInvalidArgument)
	}
	if o.Cluster != nil && o.Host == "" {
		return fmt.Errorf("new controller: %w: Options.Host is required with a cluster store", errdefs.ErrInvalidArgument)
	}
	if o.Root == nil {
		o.Root = o.Run
	}
	if o.Instance == "" {
		o.Instance = "sealane"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return checkName(o.Instance)
}
