package docker

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// A shared network is one network of ours to which engines on many hosts are bound, each by a network of its own that names it:
//
//	docker network create -d sealane-overlay --ipam-driver sealane-overlay -o network=blue --ipam-opt network=blue blue
//
// The first request for its pool makes it, if sealane network create has not, and it goes with the last binding. An address is leased by an
// endpoint in no sandbox, which makes way for the endpoint that the engine asks for with the address: so the blocks of this host are held,
// and what peers are told is always an endpoint.

// optNetwork is the option by which both halves of the plugin are told the name.
const optNetwork = "network"

// Labels of what we made for engines.
const (
	labelMade  = "com.sealane.docker.made"  // a network: it goes with its last binding
	labelLease = "com.sealane.docker.lease" // an endpoint: it holds an address
)

// poolName is how a pool of a shared network is called to the engine: the network's id and the subnet's number.
const poolName = "shared/"

// hostBindings say, in the cluster store, which hosts have bindings to a network.
func hostBindings(n endpoint.NetworkID) datastore.Table[bool] {
	return datastore.Table[bool]{Dir: datastore.Key("bound", string(n))}
}

// sharedAddresses is the address driver of a plugin for shared networks.
type sharedAddresses struct{ addresses }

// RequestPool finds the network that the option names, or makes it, and answers with its subnet.
func (a sharedAddresses) RequestPool(ctx context.Context, q ipam.PoolRequest) (ipam.Pool, error) {
	n, err := a.p.shared(ctx, q)
	if err == nil && q.IPv6 && !hasIPv6(subnetsOf(n)) {
		n, err = a.p.widen(ctx, n, q)
	}
	if err != nil {
		return ipam.Pool{}, err
	}
	for i, sub := range n.Subnets {
		if sub.Pool.Subnet.Addr().Is6() != q.IPv6 && !q.Subnet.IsValid() || q.Subnet.IsValid() && q.Subnet != sub.Pool.Subnet {
			continue
		}
		return ipam.Pool{ID: ipam.PoolID(fmt.Sprintf("%s%s/%d", poolName, n.ID, i)), Subnet: sub.Pool.Subnet, Range: q.Range, Gateway: sub.Gateway.Addr()}, nil
	}
	return ipam.Pool{}, fmt.Errorf("network %s: %w: it has subnets %v and not what is asked for; IPv6 is for who makes it to ask for (--ipv6)",
		n.Name, errdefs.ErrFailedPrecondition, subnetsOf(n))
}

func subnetsOf(n netdriver.Network) []netip.Prefix {
	var all []netip.Prefix
	for _, s := range n.Subnets {
		all = append(all, s.Pool.Subnet)
	}
	return all
}

// canShare refuses where there is no store: a daemon serves this plugin all the same, because systemd may have opened its socket and an engine
// would wait.
func (p *Plugin) canShare() error {
	if p.Cluster != nil {
		return nil
	}
	return fmt.Errorf("%w: networks of %s are shared by hosts, and this daemon has no store to share them by: start it with --store consul://HOST:PORT or etcd://HOST:PORT, or use the driver sealane",
		errdefs.ErrFailedPrecondition, p.Name)
}

// shared finds the network that options name, or makes it: whoever comes second finds it.
func (p *Plugin) shared(ctx context.Context, q ipam.PoolRequest) (netdriver.Network, error) {
	name := q.Options[optNetwork]
	if err := p.canShare(); err != nil {
		return netdriver.Network{}, err
	}
	if name == "" {
		return netdriver.Network{}, fmt.Errorf("%w: say which shared network is meant: -o network=NAME --ipam-opt network=NAME", errdefs.ErrInvalidArgument)
	}
	n, err := p.Controller.Network(ctx, name)
	if errdefs.IsNotFound(err) {
		spec := sealane.NetworkSpec{Name: name, Driver: p.Driver, IPv6: q.IPv6, Labels: map[string]string{labelMade: p.Name},
			Options: maps.Clone(q.Options)}
		delete(spec.Options, optNetwork)
		if q.Subnet.IsValid() {
			spec.IPAM.Subnets = []sealane.SubnetSpec{{Subnet: q.Subnet, Range: q.Range}}
		}
		n, err = p.Controller.CreateNetwork(ctx, spec)
		if errdefs.IsAlreadyExists(err) {
			n, err = p.Controller.Network(ctx, name)
		}
	}
	if err != nil {
		return netdriver.Network{}, err
	}
	info, err := n.Info(ctx)
	if err == nil && info.Driver != p.Driver {
		err = fmt.Errorf("network %s: %w: its driver is %s, and %s is for networks of %s", name, errdefs.ErrFailedPrecondition, info.Driver, p.Name, p.Driver)
	}
	return info, err
}

// widen gives a network that an engine is making its IPv6 subnet: that is asked for after the other, which made the network. It is made again
// under the same id, if nobody is bound to it yet.
func (p *Plugin) widen(ctx context.Context, n netdriver.Network, q ipam.PoolRequest) (netdriver.Network, error) {
	users, err := p.users(ctx, n.ID)
	if err != nil || users > 0 || n.Labels[labelMade] == "" {
		return n, err // RequestPool says what it has
	}
	h, err := p.Controller.Network(ctx, string(n.ID))
	if err == nil {
		err = h.Delete(ctx)
	}
	if err != nil {
		return n, err
	}
	spec := sealane.NetworkSpec{ID: n.ID, Name: n.Name, Driver: n.Driver, IPv6: true, Internal: n.Internal, Labels: n.Labels, Options: n.Options}
	for _, sub := range n.Subnets {
		spec.IPAM.Subnets = append(spec.IPAM.Subnets, sealane.SubnetSpec{Subnet: sub.Pool.Subnet, Range: sub.Pool.Range, Gateway: sub.Gateway.Addr()})
	}
	if q.Subnet.IsValid() {
		spec.IPAM.Subnets = append(spec.IPAM.Subnets, sealane.SubnetSpec{Subnet: q.Subnet, Range: q.Range})
	}
	if h, err = p.Controller.CreateNetwork(ctx, spec); err != nil {
		return n, err
	}
	return h.Info(ctx)
}

// users are the hosts that are bound to a network.
func (p *Plugin) users(ctx context.Context, id endpoint.NetworkID) (n int, err error) {
	if p.Cluster == nil {
		return 0, nil
	}
	err = p.Cluster.View(ctx, func(tx datastore.Tx) error {
		n = 0
		for range tx.List(hostBindings(id).Dir) {
			n++
		}
		return nil
	})
	return n, err
}

// ReleasePool gives up a network that was made for an engine which then did not bind one to it.
func (a sharedAddresses) ReleasePool(ctx context.Context, id ipam.PoolID) error {
	n, _, err := a.p.subnet(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return a.p.release(ctx, n.ID)
}

// subnet finds the network and the subnet that a pool is.
func (p *Plugin) subnet(ctx context.Context, id ipam.PoolID) (netdriver.Network, netdriver.Subnet, error) {
	network, number, ok := strings.Cut(strings.TrimPrefix(string(id), poolName), "/")
	i, err := strconv.Atoi(number)
	if err != nil || !ok {
		return netdriver.Network{}, netdriver.Subnet{}, fmt.Errorf("pool %.80q: %w", id, errdefs.ErrNotFound)
	}
	h, err := p.Controller.Network(ctx, network)
	if err != nil {
		return netdriver.Network{}, netdriver.Subnet{}, err
	}
	n, err := h.Info(ctx)
	if err == nil && (i < 0 || i >= len(n.Subnets)) {
		err = fmt.Errorf("pool %.80q: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return n, netdriver.Subnet{}, err
	}
	return n, n.Subnets[i], nil
}

// RequestAddress answers for the gateway with the network's: it is the same on all hosts. Another address is leased.
func (a sharedAddresses) RequestAddress(ctx context.Context, q ipam.AddressRequest) (ipam.Address, error) {
	n, sub, err := a.p.subnet(ctx, q.Pool)
	if err != nil {
		return ipam.Address{}, err
	}
	if q.Gateway {
		if q.Address.IsValid() && q.Address != sub.Gateway.Addr() {
			return ipam.Address{}, fmt.Errorf("gateway %s: %w: that of network %s is %s", q.Address, errdefs.ErrFailedPrecondition, n.Name, sub.Gateway.Addr())
		}
		return ipam.Address{Prefix: sub.Gateway}, nil
	}
	open, err := a.p.enter(ctx, n.ID)
	if err != nil {
		return ipam.Address{}, err
	}
	defer open()
	if q.Address.IsValid() {
		by, err := a.p.Controller.Holder(ctx, n.ID, q.Address)
		if err != nil {
			return ipam.Address{}, err
		}
		if by != "" && !a.p.isLease(ctx, n.ID, by) {
			return ipam.Address{}, fmt.Errorf("address %s: %w: endpoint %.12s has it", q.Address, errdefs.ErrAlreadyExists, by)
		}
		if by != "" {
			return ipam.Address{Prefix: netip.PrefixFrom(q.Address, sub.Pool.Subnet.Bits())}, nil // asked again
		}
	}
	return a.p.lease(ctx, n, sub, q.Address)
}

// lease makes an endpoint that holds an address.
func (p *Plugin) lease(ctx context.Context, n netdriver.Network, sub netdriver.Subnet, want netip.Addr) (ipam.Address, error) {
	h, err := p.Controller.Network(ctx, string(n.ID))
	if err != nil {
		return ipam.Address{}, err
	}
	six := sub.Pool.Subnet.Addr().Is6()
	spec := endpoint.Spec{ID: endpoint.ID(p.id("lease", rand.Text())), NoIPv4: six, NoIPv6: !six, ByAddress: true, Gateway: endpoint.None, Labels: map[string]string{labelLease: p.Name}}
	if want.IsValid() {
		spec.Addresses = []netip.Prefix{netip.PrefixFrom(want, sub.Pool.Subnet.Bits())}
	}
	e, err := h.CreateEndpoint(ctx, spec)
	if err != nil {
		return ipam.Address{}, err
	}
	info, err := e.Info(ctx)
	if err != nil {
		return ipam.Address{}, err
	}
	for _, got := range info.Addresses {
		if sub.Pool.Subnet.Contains(got.Addr()) {
			return ipam.Address{Prefix: got}, nil
		}
	}
	return ipam.Address{}, fmt.Errorf("network %s: %w: no address of %s", n.Name, errdefs.ErrResourceExhausted, sub.Pool.Subnet)
}

// isLease says that an endpoint holds an address and is nothing else.
func (p *Plugin) isLease(ctx context.Context, on endpoint.NetworkID, id endpoint.ID) bool {
	info, err := p.Controller.Endpoint(on, id).Info(ctx)
	return err == nil && info.Spec.Labels[labelLease] != ""
}

// ReleaseAddress ends the lease, or an endpoint that the engine could not tell us to delete.
func (a sharedAddresses) ReleaseAddress(ctx context.Context, id ipam.PoolID, address netip.Addr) error {
	n, _, err := a.p.subnet(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	by, err := a.p.Controller.Holder(ctx, n.ID, address)
	if err != nil || by == "" {
		return err
	}
	return a.p.deleteEndpoint(ctx, n.ID, by)
}

// sharedNetworks is the network driver of a plugin for shared networks.
type sharedNetworks struct{ networks }

// CreateNetwork binds the engine's network to the one that the option names.
func (d sharedNetworks) CreateNetwork(ctx context.Context, in netdriver.Input) (netdriver.Plan, error) {
	if err := d.p.canShare(); err != nil {
		return netdriver.Plan{}, err
	}
	name := in.Network.Options[optNetwork]
	n, err := d.p.Controller.Network(ctx, name)
	if name == "" || errdefs.IsNotFound(err) {
		return netdriver.Plan{}, fmt.Errorf("%w: say the same name twice, to the driver and to its IPAM driver: -o network=NAME --ipam-driver %s --ipam-opt network=NAME",
			errdefs.ErrInvalidArgument, d.p.Name)
	}
	if err != nil {
		return netdriver.Plan{}, err
	}
	info, err := n.Info(ctx)
	if err != nil {
		return netdriver.Plan{}, err
	}
	for key, value := range in.Network.Options {
		if key != optNetwork && info.Options[key] != value {
			return netdriver.Plan{}, fmt.Errorf("option %s: %w: network %s was made without it; give it by --ipam-opt to the one that makes it, or use sealane network create",
				key, errdefs.ErrFailedPrecondition, name)
		}
	}
	for i, sub := range in.Network.Subnets {
		if !slices.Contains(subnetsOf(info), sub.Pool.Subnet) {
			return netdriver.Plan{}, fmt.Errorf("subnet %d, %s: %w: network %s has %v; name %s as the IPAM driver", i, sub.Pool.Subnet, errdefs.ErrFailedPrecondition,
				name, subnetsOf(info), d.p.Name)
		}
	}
	if d.p.Cluster != nil {
		if err := d.p.Cluster.Update(ctx, func(tx datastore.Tx) error { return hostBindings(info.ID).Put(tx, d.p.Host, true) }); err != nil {
			return netdriver.Plan{}, err
		}
	}
	return netdriver.Plan{}, d.p.bind(ctx, binding{Plugin: d.p.Name, Docker: string(in.Network.ID), Network: info.ID})
}

// DeleteNetwork drops the binding, with what the engine's network has left, and the network with the last one.
func (d sharedNetworks) DeleteNetwork(ctx context.Context, n netdriver.Network) error {
	b, ours, err := d.p.vacate(ctx, n, func(b binding, e endpoint.Info) bool { return e.Spec.Labels[labelNetwork] == b.Docker })
	if err != nil || ours == nil {
		return err
	}
	if err := d.p.unbind(ctx, b.Docker); err != nil {
		return err
	}
	return d.p.release(ctx, b.Network)
}

// release lets a network go that engines made, when no host is bound to it any more.
func (p *Plugin) release(ctx context.Context, id endpoint.NetworkID) error {
	all, err := p.allBound(ctx)
	if err != nil {
		return err
	}
	for _, b := range all {
		if b.Network == id {
			return nil
		}
	}
	last := true
	if p.Cluster != nil {
		err := p.Cluster.Update(ctx, func(tx datastore.Tx) error {
			last = true
			for host := range tx.List(hostBindings(id).Dir) {
				last = last && host == p.Host
			}
			return hostBindings(id).Delete(tx, p.Host)
		})
		if err != nil {
			return err
		}
	}
	n, err := p.Controller.Network(ctx, string(id))
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := n.Info(ctx)
	if err != nil || info.Labels[labelMade] == "" || !last {
		return err
	}
	if err := n.Delete(ctx); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) { // somebody uses it: it is theirs now
		return err
	}
	return nil
}

// CreateEndpoint puts an endpoint in the place of the leases of its addresses.
func (d sharedNetworks) CreateEndpoint(ctx context.Context, in netdriver.Input, e endpoint.Info) (netdriver.Interface, error) {
	b, err := d.p.mustBeBound(ctx, string(in.Network.ID))
	if err != nil {
		return netdriver.Interface{}, err
	}
	open, err := d.p.enter(ctx, b.Network)
	if err != nil {
		return netdriver.Interface{}, err
	}
	defer open()
	id := endpoint.ID(d.p.id("endpoint", string(e.ID)))
	for _, a := range e.Addresses {
		by, err := d.p.Controller.Holder(ctx, b.Network, a.Addr())
		if err == nil && by != "" && by != id && d.p.isLease(ctx, b.Network, by) {
			err = d.p.deleteEndpoint(ctx, b.Network, by)
		}
		if err != nil {
			return netdriver.Interface{}, err
		}
	}
	info, err := d.p.createEndpoint(ctx, b, endpoint.Spec{
		ID: id, Addresses: e.Addresses, NoIPv6: !hasIPv6(e.Addresses), MAC: e.MAC, Gateway: endpoint.None,
		Exposed: e.Spec.Exposed, Options: e.Spec.Options, Labels: map[string]string{labelEndpoint: string(e.ID), labelNetwork: b.Docker},
	})
	if err != nil {
		return netdriver.Interface{}, err
	}
	var chosen netdriver.Interface
	if e.MAC == nil {
		chosen.MAC = info.MAC
	}
	return chosen, nil
}

func hasIPv6(addresses []netip.Prefix) bool {
	for _, a := range addresses {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}
