package sealane

import (
	"bytes"
	"context"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// tellApart finds the namespaces that are networks' own: the network has something on the host too. They are no sandboxes.
func (a *adoption) tellApart(ids []sandbox.ID) {
	for _, id := range ids {
		owner := networkOwner(endpoint.NetworkID(id))
		_, links := a.seen.links[owner]
		_, terms := a.seen.terms[owner]
		if (links || terms) && !a.known[id] {
			a.known[id], a.apart = true, append(a.apart, endpoint.NetworkID(id))
		}
	}
}

// shared adopts networks of the cluster that run here, with their endpoints: what they are, and what this host told of its endpoints, the
// cluster store knows. While that is away they are left as they are.
func (a *adoption) shared(ctx context.Context) error {
	if a.c.o.Cluster == nil || len(a.apart) == 0 {
		return nil
	}
	hosts := map[string]Host{}
	for h, err := range a.c.Hosts(ctx) {
		if err != nil {
			if a.c.storeIsAway(err) {
				err = nil
			}
			return err
		}
		hosts[h.ID] = h
	}
	for _, id := range a.apart {
		if err := a.sharedNetwork(ctx, id, hosts); err != nil {
			a.c.log.Error("a network without a record is left as it is", "network", id, "error", err)
		}
	}
	return nil
}

func (a *adoption) sharedNetwork(ctx context.Context, id endpoint.NetworkID, hosts map[string]Host) error {
	c := a.c
	n, err := view(ctx, c.o.Cluster, func(tx datastore.Tx) (netdriver.Network, error) { return networkTable().Get(tx, string(id)) })
	if err != nil {
		return err
	}
	d, err := c.driver(ctx, n.Driver)
	if err != nil {
		return err
	}
	plan, err := c.planNetwork(ctx, n, d)
	if err != nil {
		return err
	}
	published := map[string]endpoint.Published{}
	for p, err := range records(ctx, c.o.Cluster, publishedTable(id)) {
		if err != nil {
			return err
		}
		published[string(p.ID)] = p
	}
	peers, _ := c.validPeers(n, published, hosts)
	h := netdriver.Held{Owner: networkOwner(id), Plan: withoutEntries(plan)}
	err = inOrder(
		func() error { return c.putReplica(ctx, n) },
		func() error { return c.rememberPeers(ctx, id, peers, nil) },
		func() error {
			return c.o.Run.Update(ctx, func(tx datastore.Tx) error { return heldTable().Put(tx, h.Owner, h) })
		})
	for _, p := range published {
		if err == nil && p.Host == c.o.Host && p.Boot == c.cluster.boot && p.GivenUp == "" {
			err = a.sharedEndpoint(ctx, n, p)
		}
	}
	return err
}

// sharedEndpoint adopts an endpoint that this host told of and whose interface is in a sandbox of ours.
func (a *adoption) sharedEndpoint(ctx context.Context, n netdriver.Network, p endpoint.Published) error {
	for _, s := range a.found {
		for _, l := range s.links {
			if !bytes.Equal(l.MAC, p.MAC) || !slices.ContainsFunc(p.Addresses, func(at netip.Prefix) bool { return slices.Contains(l.Addrs, at) }) {
				continue
			}
			plan, err := a.c.has(ctx, a.seen, endpointOwner(p.ID), netdriver.Plan{Shares: []netdriver.Share{{Space: networkOwner(n.ID)}}})
			if err != nil {
				return err
			}
			plan.Attachment = &sandbox.Attachment{Link: l}
			e := endpoint.Info{ID: p.ID, Network: n.ID, Sandbox: s.ID, MAC: p.MAC, Addresses: p.Addresses,
				Ports: bindingsOf(shareOf(plan, networkOwner(n.ID)).Terms)}
			e.Spec = endpoint.Spec{ID: p.ID, Name: p.Name, Aliases: p.Aliases, For: s.ID, Publish: e.Ports}
			return a.enter(ctx, e, plan)
		}
	}
	return nil
}
