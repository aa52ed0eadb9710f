package sealane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// lostKey is in the run store from when a store was found lost until all that ran without a record was taken over. Until then nothing is swept
// and nothing given up, by whichever daemon.
const lostKey = "lost/store"

// noteLost finds out whether anything may run without a record.
func (c *Controller) noteLost(ctx context.Context) (err error) {
	if c.lost = c.o.Quarantined; c.lost {
		return c.o.Run.Update(ctx, func(tx datastore.Tx) error { return tx.Put(lostKey, []byte("true")) })
	}
	c.lost, err = view(ctx, c.o.Run, func(tx datastore.Tx) (bool, error) {
		_, lost, err := maybe(tx.Get(lostKey))
		return lost, err
	})
	return err
}

// noneLost notes that all that runs has a record.
func (c *Controller) noneLost(ctx context.Context) error {
	return c.o.Run.Update(ctx, func(tx datastore.Tx) error { return tx.Delete(lostKey) })
}

// adopt writes records of what runs without one after a store was lost, so that it is left alone, its addresses and ports stay taken, and
// it can be deleted. The kernel gives back ids, links, addresses and ports; names, labels and options are lost, but for what the cluster was
// told.
func (c *Controller) adopt(ctx context.Context, seen *observation) error {
	a, err := c.newAdoption(ctx, seen)
	if err != nil {
		return err
	}
	ids, err := c.namespaces(ctx)
	if err != nil {
		return err
	}
	a.tellApart(ids)
	local, err := a.networks(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !a.known[id] {
			if err := a.namespace(ctx, id); err != nil {
				return err
			}
		}
	}
	for _, id := range local {
		if err := a.ports(ctx, id, "", nil); err != nil {
			return err
		}
	}
	if err := a.shared(ctx); err != nil || len(c.cluster.allLeft()) > 0 {
		return err
	}
	return c.noneLost(ctx)
}

// adoption is what is found while it goes on.
type adoption struct {
	c       *Controller
	seen    *observation
	held    map[string]bool               // owners that a record names
	known   map[sandbox.ID]bool           // sandboxes that a record names
	bridges map[string]endpoint.NetworkID // networks by the links that they have in the host
	in      map[string]sandbox.Info       // sandboxes by the keys of their namespaces
	apart   []endpoint.NetworkID          // networks without a record that have a namespace of their own, or may be of the cluster
}

func (c *Controller) newAdoption(ctx context.Context, seen *observation) (*adoption, error) {
	a := &adoption{c: c, seen: seen, bridges: map[string]endpoint.NetworkID{}, in: map[string]sandbox.Info{}}
	for s, err := range c.Sandboxes(ctx) {
		if err == nil && s.Key != "" {
			a.in[s.Key] = s
		}
	}
	var err error
	a.held, a.known, err = c.recorded(ctx)
	for owner, has := range seen.links {
		if id, isNetwork := strings.CutPrefix(owner, "net/"); isNetwork {
			for _, l := range has.Links {
				a.bridges[l.Name] = endpoint.NetworkID(id)
			}
		}
	}
	return a, err
}

// networks adopts those of this host whose record was lost. Those that may be of the cluster are noted beside those with a namespace of their
// own. local are all of this host with a link in its namespace.
func (a *adoption) networks(ctx context.Context) (local []endpoint.NetworkID, err error) {
	for owner, has := range a.seen.links {
		name, isNetwork := strings.CutPrefix(owner, "net/")
		id := endpoint.NetworkID(name)
		if !isNetwork || slices.Contains(a.apart, id) {
			continue
		}
		_, inRoot, err := maybe(view(ctx, a.c.o.Root, func(tx datastore.Tx) (netdriver.Network, error) { return networkTable().Get(tx, name) }))
		if err != nil {
			return nil, err
		}
		_, shared, err := maybe(a.c.replica(ctx, id))
		switch {
		case err != nil:
			return nil, err
		case shared && a.held[owner]:
		case inRoot:
			local = append(local, id)
		case a.held[owner] || a.c.o.Cluster == nil:
			if err := a.network(ctx, id, has); err != nil {
				return nil, err
			}
			local = append(local, id)
		default:
			a.apart = append(a.apart, id)
		}
	}
	return local, nil
}

// network writes a record from a bridge's addresses, which are its gateways, from its terms, and from what its endpoints hold where the run
// store was not lost. Its options are.
func (a *adoption) network(ctx context.Context, id endpoint.NetworkID, has sandbox.Config) error {
	name, err := a.name(ctx, id)
	if err != nil {
		return err
	}
	n := netdriver.Network{ID: id, Name: name, Driver: defaultDriver, IPAM: defaultIPAM, Scope: netdriver.Local, Unknown: true}
	n.Internal = slices.ContainsFunc(a.seen.terms[networkOwner(id)].Networks, func(t firewall.Network) bool { return t.Internal })
	d, err := a.c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return err
	}
	for _, l := range has.Links {
		for _, p := range l.Addrs {
			if p.Addr().IsLinkLocalUnicast() || p.Addr().IsLoopback() {
				continue
			}
			pool, err := d.RequestPool(ctx, ipam.PoolRequest{Subnet: p.Masked(), IPv6: p.Addr().Is6(), Owner: networkOwner(id)})
			if err != nil {
				return fmt.Errorf("subnet %s of network %s: %w", p.Masked(), id, err)
			}
			n.Subnets = append(n.Subnets, netdriver.Subnet{Pool: pool, Gateway: p})
			n.IPv4, n.IPv6 = n.IPv4 || p.Addr().Is4(), n.IPv6 || p.Addr().Is6()
		}
	}
	a.c.log.Warn("a network without a record goes on as it is; its options and labels are lost", "network", id, "name", name)
	if err := a.c.o.Root.Update(ctx, func(tx datastore.Tx) error {
		return errors.Join(networkNames.claim(tx, n.Name, string(id)), networkTable().Put(tx, string(id), n))
	}); err != nil {
		return err
	}
	h := netdriver.Held{Owner: networkOwner(id), Plan: a.seen.plan(networkOwner(id))}
	return a.c.o.Run.Update(ctx, func(tx datastore.Tx) error { return heldTable().Put(tx, h.Owner, h) })
}

// name is what the endpoints of a network call it, if any is on record and nobody else has the name, and the beginning of its id.
func (a *adoption) name(ctx context.Context, id endpoint.NetworkID) (string, error) {
	name := shortID(string(id))
	err := a.c.o.Run.View(ctx, func(tx datastore.Tx) error {
		for h, err := range heldTable().All(tx) {
			on := func(l sandbox.Link) bool { return a.bridges[l.Master] == id }
			if err == nil && h.Plan.Attachment != nil && slices.ContainsFunc(hostShare(h.Plan).Config.Links, on) && checkName(h.Plan.Attachment.Order) == nil {
				name = h.Plan.Attachment.Order
			}
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	holder, err := view(ctx, a.c.o.Root, func(tx datastore.Tx) (string, error) { return networkNames.get(tx, name) })
	if holder != "" && holder != string(id) {
		name = shortID(string(id))
	}
	return name, err
}

// namespace adopts one of ours.
func (a *adoption) namespace(ctx context.Context, id sandbox.ID) error {
	ns, err := a.c.o.Spaces.Create(ctx, string(id)) // it exists: it is opened
	if err != nil {
		return err
	}
	if err := ns.Close(); err != nil {
		return err
	}
	s := sandbox.Info{ID: id, Key: ns.Key(), Cookie: ns.Cookie()}
	a.in[s.Key] = s
	return a.sandbox(ctx, s)
}

func (a *adoption) sandbox(ctx context.Context, s sandbox.Info) error {
	a.c.log.Warn("a sandbox without a record goes on as it is", "sandbox", s.ID)
	s.Spec.ID, s.Spec.Name, s.Unknown = s.ID, shortID(string(s.ID)), true
	return a.c.o.Run.Update(ctx, func(tx datastore.Tx) error { return a.c.memory.enterSandbox(tx, s) })
}

// ports adopts the endpoints that are tied to the bridge of a network, which is in the network's own namespace or in the host's, space "". own
// is what this host told others of its endpoints.
func (a *adoption) ports(ctx context.Context, on endpoint.NetworkID, space string, own map[endpoint.ID]endpoint.Published) error {
	links, err := a.tied(ctx, on, space)
	if err != nil {
		return err
	}
	for _, l := range links {
		far, err := a.far(ctx, l)
		if err != nil {
			return err
		}
		e := whose(l, far, own)
		if a.held[endpointOwner(e.ID)] {
			continue
		}
		known := netdriver.Plan{Shares: []netdriver.Share{{Space: space, Config: sandbox.Config{Links: []sandbox.Link{l}}}}}
		plan, err := a.c.has(ctx, a.seen, endpointOwner(e.ID), known)
		if err != nil {
			return err
		}
		e.Network = on
		if err := a.endpoint(ctx, e, far, plan, space); err != nil {
			return err
		}
	}
	return nil
}

// tied are the ports of a network's bridge.
func (a *adoption) tied(ctx context.Context, on endpoint.NetworkID, space string) (links []sandbox.Link, err error) {
	if space == "" {
		for _, owner := range a.c.unnamed(a.seen, a.held) {
			for _, l := range a.seen.links[owner].Links {
				if strings.HasPrefix(owner, "ep/") && a.bridges[l.Master] == on {
					links = append(links, l)
				}
			}
		}
		return links, nil
	}
	there, err := a.c.observeSpace(ctx, a.seen, space)
	if err != nil || there == nil {
		return nil, err
	}
	for _, l := range there.links[""].Links {
		if l.Veth != nil && l.Master != "" {
			links = append(links, l)
		}
	}
	return links, nil
}

// farEnd is where the other end of an endpoint's veth is.
type farEnd struct {
	in    sandbox.ID    // the sandbox in a namespace of ours; "": in somebody else's, which cannot be found from here
	link  *sandbox.Link // there, if in is set
	addrs []netip.Prefix
}

func (a *adoption) far(ctx context.Context, l sandbox.Link) (far farEnd, err error) {
	if l.Veth == nil {
		return far, nil
	}
	s, ours := a.in[l.Veth.Space]
	if !ours {
		return farEnd{addrs: l.Veth.Addrs}, nil
	}
	ns, err := a.c.namespace(ctx, s)
	if err != nil {
		return far, err
	}
	inside, err := ns.Observe(ctx)
	a.c.done(s, ns)
	for _, in := range inside[""].Links {
		if in.Name == l.Veth.Peer {
			far = farEnd{s.ID, &in, slices.DeleteFunc(slices.Clone(in.Addrs), func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })}
		}
	}
	return far, err
}

// endpoint writes the records of an endpoint with what the kernel has of it: its part outside the sandbox, and the interface inside if that
// could be seen. In somebody else's namespace it is the one of a sandbox of its own. Addresses that nobody told are those that can be seen,
// and that ports in the space of its network lead to.
func (a *adoption) endpoint(ctx context.Context, e endpoint.Info, far farEnd, plan netdriver.Plan, space string) error {
	terms := shareOf(plan, space).Terms
	e.Ports = bindingsOf(terms)
	if e.Sandbox = far.in; far.in == "" {
		e.Sandbox = sandbox.ID(e.ID)
		if err := a.sandbox(ctx, sandbox.Info{ID: e.Sandbox, Spec: sandbox.Spec{Namespace: sandbox.Origin{Foreign: true}}}); err != nil {
			return err
		}
	}
	if far.link != nil {
		plan.Attachment = &sandbox.Attachment{Link: *far.link}
		if e.MAC == nil {
			e.MAC = far.link.MAC
		}
	}
	if e.Addresses == nil {
		e.Addresses = withTargets(far.addrs, terms)
	}
	if e.MAC == nil {
		e.MAC = derivedMAC(e.Addresses) // as it is unless somebody chose another
	}
	e.Spec.ID, e.Spec.For, e.Spec.Publish = e.ID, e.Sandbox, e.Ports
	e.Spec.Name = cmp.Or(e.Spec.Name, shortID(string(e.ID)))
	return a.enter(ctx, e, plan)
}

// enter writes the records of an endpoint in a sandbox, unless that was deleted at this moment.
func (a *adoption) enter(ctx context.Context, e endpoint.Info, plan netdriver.Plan) error {
	unlock, err := a.c.locks.exclusive(ctx, sandboxOwner(e.Sandbox))
	if err != nil {
		return err
	}
	defer unlock()
	if _, there, err := maybe(a.c.sandboxRecord(ctx, e.Sandbox)); err != nil || !there {
		return err
	}
	owner, id := endpointOwner(e.ID), string(e.ID)
	a.held[owner] = true
	return a.c.o.Run.Update(ctx, func(tx datastore.Tx) error {
		return errors.Join(
			endpointNames(e.Network).claim(tx, e.Spec.Name, id),
			endpointTable(e.Network).Put(tx, id, e),
			memberTable(e.Sandbox).Put(tx, id, e.Network),
			heldTable().Put(tx, owner, netdriver.Held{Owner: owner, Sandbox: e.Sandbox, Plan: plan}))
	})
}

// withTargets are addresses with those on top that published ports lead to.
func withTargets(addrs []netip.Prefix, t firewall.Terms) []netip.Prefix {
	for _, p := range t.Ports {
		if !slices.ContainsFunc(addrs, func(a netip.Prefix) bool { return a.Addr() == p.Target }) {
			addrs = append(addrs, netip.PrefixFrom(p.Target, p.Target.BitLen()))
		}
	}
	return addrs
}

// bindingsOf reads published ports back from terms, those of both families as one.
func bindingsOf(t firewall.Terms) []endpoint.PortBinding {
	var bindings []endpoint.PortBinding
	for _, p := range t.Ports {
		b := endpoint.PortBinding{Proto: p.Proto, Host: p.Host, HostPorts: p.HostPorts, Ports: p.Ports}
		if b.Host.IsUnspecified() {
			b.Host = netip.Addr{}
		}
		if !slices.Contains(bindings, b) {
			bindings = append(bindings, b)
		}
	}
	return bindings
}
