package sealane

import (
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

// adopt writes records of what runs without one after a store was lost, so that it is left alone, its addresses and ports stay taken, and
// it can be deleted. The kernel gives back ids, links, addresses and ports; names, labels and options are lost.
func (c *Controller) adopt(ctx context.Context, seen *observation) error {
	a := &adoption{c: c, seen: seen, bridges: map[string]endpoint.NetworkID{}, found: map[sandbox.ID]*adopted{}}
	var err error
	if a.held, a.known, err = c.recorded(ctx); err != nil {
		return err
	}
	ids, err := c.namespaces(ctx)
	if err != nil {
		return err
	}
	a.tellApart(ids)
	if err := a.networks(ctx); err != nil {
		return err
	}
	for _, id := range ids {
		if !a.known[id] {
			if err := a.namespace(ctx, id); err != nil {
				return err
			}
		}
	}
	if err := a.shared(ctx); err != nil {
		return err
	}
	return a.strays(ctx)
}

// adoption is what is found while it goes on.
type adoption struct {
	c       *Controller
	seen    *observation
	held    map[string]bool               // owners that a record names
	known   map[sandbox.ID]bool           // sandboxes that a record names
	bridges map[string]endpoint.NetworkID // networks by the links that they have in the host
	found   map[sandbox.ID]*adopted       // sandboxes in namespaces of ours
	apart   []endpoint.NetworkID          // networks with a namespace of their own, without a record
}

// adopted is a sandbox with what its namespace contains.
type adopted struct {
	sandbox.Info
	links []sandbox.Link
}

// networks adopts those whose record was lost, and learns where each is.
func (a *adoption) networks(ctx context.Context) error {
	for owner, has := range a.seen.links {
		id, isNetwork := strings.CutPrefix(owner, "net/")
		if !isNetwork || slices.Contains(a.apart, endpoint.NetworkID(id)) {
			continue
		}
		for _, l := range has.Links {
			a.bridges[l.Name] = endpoint.NetworkID(id)
		}
		_, found, err := maybe(a.c.networkRecord(ctx, endpoint.NetworkID(id)))
		if err != nil {
			return err
		}
		if !found {
			if err := a.network(ctx, endpoint.NetworkID(id), has); err != nil {
				return err
			}
		}
	}
	return nil
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

// namespace adopts one of ours with the endpoints in it.
func (a *adoption) namespace(ctx context.Context, id sandbox.ID) error {
	ns, err := a.c.o.Spaces.Create(ctx, string(id)) // it exists: it is opened
	if err != nil {
		return err
	}
	inside, err := ns.Observe(ctx)
	err = errors.Join(err, ns.Close())
	if err != nil {
		return err
	}
	s := sandbox.Info{ID: id, Key: ns.Key(), Cookie: ns.Cookie(), Unknown: true}
	if err := a.sandbox(ctx, s); err != nil {
		return err
	}
	a.found[id] = &adopted{s, inside[""].Links}
	for owner, has := range a.seen.links {
		for _, l := range has.Links {
			if l.Veth == nil || l.Veth.Space != s.Key {
				continue
			}
			for _, in := range inside[""].Links {
				if in.Name == l.Veth.Peer {
					if err := a.endpoint(ctx, s, owner, l.Master, &in); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// strays adopts endpoints whose namespace is somebody else's and cannot be found from here, each as a sandbox of its own. Their addresses
// can be seen.
func (a *adoption) strays(ctx context.Context) error {
	for _, owner := range a.c.unnamed(a.seen, a.held) {
		id, isEndpoint := strings.CutPrefix(owner, "ep/")
		if !isEndpoint {
			continue
		}
		s := sandbox.Info{ID: sandbox.ID(id), Unknown: true}
		if err := a.sandbox(ctx, s); err != nil {
			return err
		}
		master := ""
		for _, l := range a.seen.links[owner].Links {
			master = l.Master
		}
		if err := a.endpoint(ctx, s, owner, master, nil); err != nil {
			return err
		}
	}
	return nil
}

func (a *adoption) sandbox(ctx context.Context, s sandbox.Info) error {
	a.c.log.Warn("a sandbox without a record goes on as it is", "sandbox", s.ID)
	s.Spec = sandbox.Spec{ID: s.ID, Name: shortID(string(s.ID))}
	return a.c.o.Run.Update(ctx, func(tx datastore.Tx) error { return enterSandbox(tx, s) })
}

// endpoint writes the records of an endpoint with what the kernel has of it: its host's part, and the interface in the sandbox if that
// could be seen. Without it only the addresses are known that its host's part tells, and those that ports lead to.
func (a *adoption) endpoint(ctx context.Context, s sandbox.Info, owner, master string, inside *sandbox.Link) error {
	id := strings.TrimPrefix(owner, "ep/")
	plan, terms := a.seen.plan(owner), a.seen.terms[owner]
	e := endpoint.Info{ID: endpoint.ID(id), Network: a.bridges[master], Sandbox: s.ID, Ports: bindingsOf(terms)}
	e.Spec = endpoint.Spec{ID: e.ID, Name: shortID(id), For: s.ID, Publish: e.Ports}
	if inside != nil {
		plan.Attachment = &sandbox.Attachment{Link: *inside}
		e.MAC = inside.MAC
		e.Addresses = slices.DeleteFunc(slices.Clone(inside.Addrs), func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })
	} else {
		e.Addresses = farAddresses(plan, targetsOf(terms))
	}
	return a.enter(ctx, e, plan)
}

// enter writes the records of an endpoint in a sandbox.
func (a *adoption) enter(ctx context.Context, e endpoint.Info, plan netdriver.Plan) error {
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

// farAddresses are those that were seen at the far end of an endpoint's veth, with those of others that are not among them.
func farAddresses(plan netdriver.Plan, others []netip.Prefix) []netip.Prefix {
	var seen []netip.Prefix
	for _, l := range hostShare(plan).Config.Links {
		if l.Veth != nil {
			seen = append(seen, l.Veth.Addrs...)
		}
	}
	for _, p := range others {
		if !slices.ContainsFunc(seen, func(s netip.Prefix) bool { return s.Addr() == p.Addr() }) {
			seen = append(seen, p)
		}
	}
	return seen
}

// targetsOf are the addresses that published ports lead to, each once.
func targetsOf(t firewall.Terms) []netip.Prefix {
	var targets []netip.Prefix
	for _, p := range t.Ports {
		if a := netip.PrefixFrom(p.Target, p.Target.BitLen()); !slices.Contains(targets, a) {
			targets = append(targets, a)
		}
	}
	return targets
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
