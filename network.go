package sealane

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
)

// Network is a handle. Safe for concurrent use.
type Network interface {
	ID() endpoint.NetworkID
	Info(ctx context.Context) (netdriver.Network, error)
	CreateEndpoint(ctx context.Context, s endpoint.Spec) (endpoint.Endpoint, error)
	Endpoint(ctx context.Context, ref string) (endpoint.Endpoint, error)
	Endpoints(ctx context.Context) iter.Seq2[endpoint.Info, error]
	// Update changes what can change while it runs, or says what cannot, before any effect.
	Update(ctx context.Context, change func(*NetworkSpec) error) error
	// Delete is refused with FailedPrecondition, naming the endpoints, or the hosts that hold blocks of it.
	Delete(ctx context.Context) error
	// Forget is Delete that gives up on what a driver or host that is away still holds.
	Forget(ctx context.Context) error
}

// NetworkSpec says what network is wanted.
type NetworkSpec struct {
	ID                     endpoint.NetworkID // "": made; a front end that may repeat itself derives it from its own id
	Name                   string             // [a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}, unique in its scope
	Driver                 string             // "" "bridge"
	Scope                  netdriver.Scope    // "": the driver's
	IPAM                   IPAM
	NoIPv4, IPv6, Internal bool
	OnDemand               bool // its bridge and rules are there only while it has endpoints
	NoNames                bool // its endpoints are not found by name; links write hosts entries
	Options, Labels        map[string]string
}

// network is the handle: a name for the record.
type network struct {
	c  *Controller
	id endpoint.NetworkID
}

func (n *network) ID() endpoint.NetworkID { return n.id }

func (n *network) Info(ctx context.Context) (netdriver.Network, error) {
	r, err := view(ctx, n.c.o.Root, func(tx datastore.Tx) (netdriver.Network, error) { return networkTable().Get(tx, string(n.id)) })
	if errdefs.IsNotFound(err) {
		r, err = n.c.sharedRecord(ctx, n.id)
	}
	if err != nil {
		return r, fmt.Errorf("network %s: %w", shortID(string(n.id)), err)
	}
	r.Problem = n.c.networkProblem(ctx, r)
	return r, nil
}

// networkProblem is why a network is not as wanted: its last try failed, or its driver cannot be called.
func (c *Controller) networkProblem(ctx context.Context, n netdriver.Network) string {
	for _, owner := range []string{networkOwner(n.ID), leasesOf(n.ID)} {
		if p := c.mender.problem(owner); p != "" {
			return p
		}
	}
	if err := c.probe(ctx, n); err != nil {
		return err.Error()
	}
	return ""
}

// networkRecord reads the record of a network of this host, or one of the cluster that this host uses. It is shared with others who read
// it. NotFound when there is none.
func (c *Controller) networkRecord(ctx context.Context, id endpoint.NetworkID) (netdriver.Network, error) {
	n, found, err := maybe(view(ctx, c.o.Root, func(tx datastore.Tx) (netdriver.Network, error) {
		return c.memory.networks.Get(tx, networkTable(), string(id))
	}))
	if err != nil || found {
		return n, err
	}
	return c.replica(ctx, id)
}

// CreateNetwork makes a network: when it returns endpoints can be created. AlreadyExists names the id of the network that has the name
// or the id, or the one whose subnet overlaps; InvalidArgument and OutOfRange come before any effect.
func (c *Controller) CreateNetwork(ctx context.Context, s NetworkSpec) (Network, error) {
	id, err := c.createNetwork(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("create network %.80q: %w", s.Name, err)
	}
	c.events.tell("network", "create", string(id), "name", s.Name, "type", s.Driver)
	return &network{c, id}, nil
}

func (c *Controller) createNetwork(ctx context.Context, s NetworkSpec) (endpoint.NetworkID, error) {
	n, d, err := c.newNetwork(ctx, &s)
	if err != nil {
		return "", err
	}
	free, err := c.locks.exclusive(ctx, networkNames.key(n.Name)) // who comes later shall find the name taken, not the subnets
	if err != nil {
		return "", err
	}
	defer free()
	if n.Scope == netdriver.Global {
		return n.ID, c.createShared(ctx, n, s.IPAM, d)
	}
	unlock, err := c.locks.exclusive(ctx, networkOwner(n.ID))
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := c.networkIsNew(ctx, n); err != nil {
		return "", err
	}
	c.facts.outdate()
	if err = c.makeWay(ctx, s.IPAM); err == nil {
		err = c.requestSubnets(ctx, &n, s.IPAM, d)
	}
	if err == nil {
		err = c.establish(ctx, n, d)
	}
	if err != nil {
		c.abandon(ctx, n)
		return "", err
	}
	return n.ID, nil
}

// newNetwork checks a spec and makes the record of it, without subnets.
func (c *Controller) newNetwork(ctx context.Context, s *NetworkSpec) (n netdriver.Network, d netdriver.Driver, err error) {
	if s.Driver == "" {
		s.Driver = defaultDriver
	}
	if err = together(checkName(s.Name), checkID(string(s.ID)), checkIPAM(s), checkOptions(s.Options)); err != nil {
		return n, nil, err
	}
	if d, err = c.driver(ctx, s.Driver); err != nil {
		return n, nil, err
	}
	can, err := d.Capability(ctx)
	if err != nil {
		return n, nil, fmt.Errorf("driver %s: %w", s.Driver, err)
	}
	if s.Scope == "" {
		s.Scope = can.Scope
	}
	if s.Scope != netdriver.Local && c.o.Cluster == nil {
		return n, nil, fmt.Errorf("%w: a network of scope %s needs a cluster store", errdefs.ErrFailedPrecondition, s.Scope)
	}
	if s.ID == "" {
		s.ID = endpoint.NetworkID(newID())
	}
	return netdriver.Network{
		ID: s.ID, Name: s.Name, Driver: s.Driver, IPAM: s.IPAM.Driver, IPAMOptions: maps.Clone(s.IPAM.Options), Scope: s.Scope,
		Created: time.Now().UTC(), IPv4: !s.NoIPv4, IPv6: s.IPv6, Internal: s.Internal, OnDemand: s.OnDemand || s.Scope == netdriver.Global, NoNames: s.NoNames,
		Options: maps.Clone(s.Options), Labels: maps.Clone(s.Labels),
	}, d, nil
}

// networkIsNew finds out early, before addresses are asked for, that a name or id is taken; establish decides. What is on its way out
// is helped on first.
func (c *Controller) networkIsNew(ctx context.Context, n netdriver.Network) error {
	old, err := findNetworkIn(ctx, c.o.Root, n)
	if err != nil || old == nil {
		return err
	}
	if old.Deleting {
		return c.convergeNetwork(ctx, *old, nil)
	}
	return taken(n, *old)
}

// findNetworkIn looks in a store for a record with the id or the name of n.
func findNetworkIn(ctx context.Context, s datastore.Store, n netdriver.Network) (*netdriver.Network, error) {
	return view(ctx, s, func(tx datastore.Tx) (*netdriver.Network, error) {
		id, err := networkNames.get(tx, n.Name)
		if err != nil {
			return nil, err
		}
		for _, id := range []string{string(n.ID), id} {
			if old, found, err := maybe(networkTable().Get(tx, id)); err != nil || found {
				return &old, err
			}
		}
		return nil, nil
	})
}

func taken(n, by netdriver.Network) error {
	if n.Name == by.Name {
		return fmt.Errorf("%w: the name is taken by network %s", errdefs.ErrAlreadyExists, by.ID)
	}
	return fmt.Errorf("%w: the id is taken by network %s (%s)", errdefs.ErrAlreadyExists, by.ID, by.Name)
}

// establish records a network and makes it. A driver that computes is asked before, so that a bad option has no effect.
func (c *Controller) establish(ctx context.Context, n netdriver.Network, d netdriver.Driver) error {
	if err := c.tryPlan(ctx, n, d); err != nil {
		return err
	}
	if err := c.o.Root.Update(ctx, func(tx datastore.Tx) error { return enterNetwork(tx, &n, d) }); err != nil {
		return err
	}
	return c.convergeNetwork(ctx, n, nil)
}

// enterNetwork writes a new network, with its name and the number that it is given here.
func enterNetwork(tx datastore.Tx, n *netdriver.Network, d netdriver.Driver) error {
	old, found, err := maybe(networkTable().Get(tx, string(n.ID)))
	if err != nil {
		return err
	}
	if found && !old.Created.Equal(n.Created) {
		return taken(*n, old)
	}
	if err := networkNames.claim(tx, n.Name, string(n.ID)); err != nil {
		return err
	}
	if n.Number, err = claimNumber(tx, *n, d); err != nil {
		return err
	}
	return networkTable().Put(tx, string(n.ID), *n)
}

// abandon takes back what createNetwork came to: the same way as Delete. The caller's context may be over.
func (c *Controller) abandon(ctx context.Context, n netdriver.Network) {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	if old, err := c.networkRecord(ctx, n.ID); errdefs.IsNotFound(err) || err == nil && !old.Created.Equal(n.Created) {
		if err := c.releaseSubnets(ctx, n); err != nil {
			c.log.Warn("addresses of a network that was not made are not given back", "network", n.Name, "error", err)
		}
		return
	}
	if err := c.deleteNetwork(ctx, n); err != nil {
		c.mender.later(networkOwner(n.ID), err)
	}
}

// Network finds a network by id, then by name, then by a unique prefix of the id. NotFound, or InvalidArgument with the number of
// matches.
func (c *Controller) Network(ctx context.Context, ref string) (Network, error) {
	id, err := view(ctx, c.o.Root, func(tx datastore.Tx) (string, error) {
		return resolve(tx, networkTable(), networkNames, ref)
	})
	if errdefs.IsNotFound(err) && c.o.Cluster != nil {
		id, err = c.resolveShared(ctx, ref)
	}
	if err != nil {
		return nil, fmt.Errorf("network %.80q: %w", ref, err)
	}
	return &network{c, endpoint.NetworkID(id)}, nil
}

// Networks yields the records of all networks by id, as they were at one moment. A record that cannot be read is yielded as an error.
func (c *Controller) Networks(ctx context.Context) iter.Seq2[netdriver.Network, error] {
	return func(yield func(netdriver.Network, error) bool) {
		for _, all := range []iter.Seq2[netdriver.Network, error]{records(ctx, c.o.Root, networkTable()), c.sharedNetworks(ctx)} {
			for n, err := range all {
				if err == nil {
					n.Problem = c.networkProblem(ctx, n)
				}
				if !yield(n, err) {
					return
				}
			}
		}
	}
}

// networksHere yields the networks that may have something on this host.
func (c *Controller) networksHere(ctx context.Context) iter.Seq2[netdriver.Network, error] {
	return func(yield func(netdriver.Network, error) bool) {
		for _, all := range []iter.Seq2[netdriver.Network, error]{records(ctx, c.o.Root, networkTable()), records(ctx, c.o.Run, replicaTable())} {
			for n, err := range all {
				if !yield(n, err) {
					return
				}
			}
		}
	}
}

// Delete marks and converges: what fails on the way is finished by the next Delete, or by a restart.
func (n *network) Delete(ctx context.Context) error { return n.delete(ctx, false) }

func (n *network) Forget(ctx context.Context) error { return n.delete(ctx, true) }

func (n *network) delete(ctx context.Context, force bool) error {
	unlock, err := n.c.locks.exclusive(ctx, networkOwner(n.id))
	if err != nil {
		return fmt.Errorf("delete network: %w", err)
	}
	defer unlock()
	r, err := n.Info(ctx)
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := n.c.networkIsFree(ctx, n.id); err != nil {
		return fmt.Errorf("delete network %s: %w", r.Name, err)
	}
	switch {
	case r.Scope == netdriver.Global:
		err = n.c.deleteShared(ctx, r, force)
	case force:
		r.Forgotten = true // also after a crash
		if err = n.c.renounceNetwork(ctx, n.id); err == nil {
			err = n.c.deleteNetwork(ctx, r)
		}
	default:
		err = n.c.deleteNetwork(ctx, r)
	}
	if err != nil {
		return fmt.Errorf("delete network %s: %w", r.Name, err)
	}
	n.c.events.tell("network", "destroy", string(n.id), "name", r.Name, "type", r.Driver)
	return nil
}

// PruneNetworks deletes those of the networks that nobody is on, and says which. What is used, or gone, by now is left out; a network that
// cannot be deleted does not keep the others.
func (c *Controller) PruneNetworks(ctx context.Context, ids ...endpoint.NetworkID) (gone []endpoint.NetworkID, err error) {
	var errs []error
	for _, id := range ids {
		err := (&network{c, id}).Delete(ctx)
		switch {
		case err == nil:
			gone = append(gone, id)
		case errdefs.IsNotFound(err), errdefs.IsFailedPrecondition(err):
		default:
			errs = append(errs, err)
		}
	}
	c.events.tell("network", "prune", "", "reclaimed", "0") // the bytes that Docker tells of
	return gone, together(errs...)
}

// networkIsFree refuses with the names of the endpoints.
func (c *Controller) networkIsFree(ctx context.Context, id endpoint.NetworkID) error {
	var names []string
	for e, err := range records(ctx, c.o.Run, endpointTable(id)) {
		if err != nil {
			return err
		}
		names = append(names, e.Spec.Name)
	}
	const shown = 10
	switch {
	case len(names) == 0:
		return nil
	case len(names) > shown:
		return fmt.Errorf("%w: it has %d endpoints: %s, …", errdefs.ErrFailedPrecondition, len(names), strings.Join(names[:shown], ", "))
	}
	return fmt.Errorf("%w: it has endpoints: %s", errdefs.ErrFailedPrecondition, strings.Join(names, ", "))
}

// deleteNetwork says in the record that the network shall go, and converges. The caller holds the network.
func (c *Controller) deleteNetwork(ctx context.Context, n netdriver.Network) error {
	n.Deleting = true
	err := c.o.Root.Update(ctx, func(tx datastore.Tx) error { return networkTable().Put(tx, string(n.ID), n) })
	if err != nil {
		return err
	}
	return c.convergeNetwork(ctx, n, nil)
}

func (n *network) Update(ctx context.Context, change func(*NetworkSpec) error) error {
	unlock, err := n.c.locks.exclusive(ctx, networkOwner(n.id))
	if err != nil {
		return fmt.Errorf("update network: %w", err)
	}
	defer unlock()
	from, err := n.Info(ctx)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if err := n.update(ctx, from, change); err != nil {
		return fmt.Errorf("update network %s: %w", from.Name, err)
	}
	n.c.events.tell("network", "update", string(n.id), "name", from.Name, "type", from.Driver)
	return nil
}

func (n *network) update(ctx context.Context, from netdriver.Network, change func(*NetworkSpec) error) error {
	s := specOf(from)
	if err := change(&s); err != nil {
		return err
	}
	to, err := changed(from, s)
	if err != nil {
		return err
	}
	d, err := n.c.driver(ctx, from.Driver)
	if err != nil {
		return err
	}
	if err := together(checkOptions(to.Options), checkChange(d, from, to)); err != nil {
		return err
	}
	to.Version++
	n.c.facts.outdate()
	if _, err := n.c.planNetwork(ctx, to, d); err != nil {
		return err
	}
	if to.Scope == netdriver.Global {
		return n.c.updateShared(ctx, to)
	}
	err = n.c.o.Root.Update(ctx, func(tx datastore.Tx) error { return networkTable().Put(tx, string(n.id), to) })
	if err != nil {
		return err
	}
	if err := n.c.convergeNetwork(ctx, to, nil); err != nil {
		return err
	}
	return n.c.convergeMembers(ctx, n.id, nil)
}

// specOf is the spec that would make the network as it is.
func specOf(n netdriver.Network) NetworkSpec {
	s := NetworkSpec{ID: n.ID, Name: n.Name, Driver: n.Driver, Scope: n.Scope, NoIPv4: !n.IPv4, IPv6: n.IPv6, Internal: n.Internal,
		OnDemand: n.OnDemand, NoNames: n.NoNames, Options: maps.Clone(n.Options), Labels: maps.Clone(n.Labels),
		IPAM: IPAM{Driver: n.IPAM, Options: maps.Clone(n.IPAMOptions)}}
	for _, sub := range n.Subnets {
		s.IPAM.Subnets = append(s.IPAM.Subnets, SubnetSpec{Subnet: sub.Pool.Subnet, Range: sub.Pool.Range, Gateway: sub.Gateway.Addr(),
			Aux: maps.Clone(sub.Aux)})
	}
	return s
}

// changed is the record that a changed spec asks for. What no driver can change is refused here.
func changed(from netdriver.Network, s NetworkSpec) (netdriver.Network, error) {
	to := from
	to.Options, to.Labels, to.Internal = s.Options, s.Labels, s.Internal
	was := specOf(from)
	was.Options, was.Labels, was.Internal = s.Options, s.Labels, s.Internal
	if !equal(was, s) {
		return to, fmt.Errorf("%w: only labels, options and internal can change; make another network for the rest", errdefs.ErrFailedPrecondition)
	}
	return to, nil
}

// Endpoint finds an endpoint of this network by id, then by name, then by a unique prefix of the id.
func (n *network) Endpoint(ctx context.Context, ref string) (endpoint.Endpoint, error) {
	id, err := view(ctx, n.c.o.Run, func(tx datastore.Tx) (string, error) {
		return resolve(tx, endpointTable(n.id), endpointNames(n.id), ref)
	})
	if errdefs.IsNotFound(err) && n.c.o.Cluster != nil {
		far, err := view(ctx, n.c.o.Cluster, func(tx datastore.Tx) (string, error) {
			return resolve(tx, publishedTable(n.id), endpointNames(n.id), ref)
		})
		if err != nil {
			return nil, fmt.Errorf("endpoint %.80q: %w", ref, err)
		}
		return &farEndpoint{n.c, n.id, endpoint.ID(far)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("endpoint %.80q: %w", ref, err)
	}
	return &endpointHandle{n.c, n.id, endpoint.ID(id)}, nil
}

// Endpoints yields the records of the network's endpoints on this host by id, as they were at one moment.
func (n *network) Endpoints(ctx context.Context) iter.Seq2[endpoint.Info, error] {
	return func(yield func(endpoint.Info, error) bool) {
		for e, err := range records(ctx, n.c.o.Run, endpointTable(n.id)) {
			e.Problem = n.c.mender.problem(endpointOwner(e.ID))
			if !yield(e, err) {
				return
			}
		}
	}
}
