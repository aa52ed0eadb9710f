package sealane

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"net"
	"slices"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
)

// settlePeers computes a network's peers anew, and when they changed has the kernel and the names follow. seen says that the store told of
// both endpoints and hosts: after a start one comes before the other, and without hosts each peer would seem to have none, and be cut off.
func (c *Controller) settlePeers(ctx context.Context, n netdriver.Network, sh *sharing) (seen bool, err error) {
	c.cluster.mu.Lock()
	hosts := maps.Clone(c.cluster.hosts)
	c.cluster.mu.Unlock()
	sh.mu.Lock()
	if hosts == nil || sh.published == nil {
		sh.mu.Unlock()
		return false, nil
	}
	was := sh.peers
	peers, bad := c.validPeers(n, sh.published, hosts)
	sh.peers = peers
	sh.mu.Unlock()
	for id, why := range bad {
		c.log.Debug("the record of another host's endpoint is passed over", "network", n.Name, "endpoint", id, "reason", why)
	}
	put, drop := changedPeers(was, peers)
	if len(put)+len(drop) == 0 {
		return true, nil
	}
	if err := c.convergePeers(ctx, n, put, drop); err != nil {
		sh.mu.Lock()
		sh.peers = was // so that the next try sees the difference
		sh.mu.Unlock()
		return true, err
	}
	return true, nil
}

// convergePeers brings the peers where they are used.
func (c *Controller) convergePeers(ctx context.Context, n netdriver.Network, put []netdriver.Peer, drop []endpoint.ID) error {
	if err := c.rememberPeers(ctx, n.ID, put, drop); err != nil {
		return err
	}
	leave, err := c.locks.shared(ctx, networkOwner(n.ID))
	if err != nil {
		return err
	}
	defer leave()
	up, err := c.locks.exclusive(ctx, "up/"+string(n.ID))
	if err != nil {
		return err
	}
	defer up()
	if n, here, err := maybe(c.replica(ctx, n.ID)); err != nil || !here || n.Deleting {
		return err
	}
	if err := c.tellNames(ctx, n, namesOf(put), drop...); err != nil {
		return err
	}
	return c.convergeNetwork(ctx, n, nil)
}

// validPeers are the endpoints of other hosts that make sense: what another host writes is input. Of two that want one address or MAC the
// one that comes first by id has it.
func (c *Controller) validPeers(n netdriver.Network, published map[string]endpoint.Published, hosts map[string]Host) (peers []netdriver.Peer,
	bad map[endpoint.ID]string) {
	bad = map[endpoint.ID]string{}
	taken := map[string]bool{}
	for _, sub := range n.Subnets {
		taken[sub.Gateway.Addr().String()] = true
	}
	for _, name := range slices.Sorted(maps.Keys(published)) {
		p := published[name]
		if p.Host == c.o.Host {
			continue
		}
		if why := c.wrongPeer(n, p, hosts[p.Host], taken); why != "" {
			bad[p.ID] = why
			continue
		}
		for _, a := range p.Addresses {
			taken[a.Addr().String()] = true
		}
		taken[p.MAC.String()] = true
		peers = append(peers, netdriver.Peer{Published: p, Tunnel: hosts[p.Host].Advertise})
	}
	return peers, bad
}

// wrongPeer says what is wrong with the record of another host's endpoint; "" nothing.
func (c *Controller) wrongPeer(n netdriver.Network, p endpoint.Published, h Host, taken map[string]bool) string {
	switch {
	case p.GivenUp != "":
		return "it was given up"
	case h.ID == "" || h.Boot != p.Boot:
		return "its host is unknown, or was started anew"
	case !h.Advertise.IsValid() || h.Advertise.IsMulticast() || h.Advertise.IsUnspecified() || h.Advertise.IsLoopback():
		return "its host has no tunnel address"
	case h.Advertise == c.o.Advertise:
		return "its host says it is where this one is"
	case len(p.MAC) != 6 || p.MAC[0]&1 != 0 || bytes.Equal(p.MAC, make(net.HardwareAddr, 6)):
		return "it has no MAC"
	case taken[p.MAC.String()]:
		return "its MAC is another's"
	case p.Name != "" && checkName(p.Name) != nil:
		return "its name is none"
	}
	for _, a := range p.Addresses {
		inside := func(s netdriver.Subnet) bool {
			return s.Pool.Subnet.Contains(a.Addr()) && s.Pool.Subnet.Bits() == a.Bits()
		}
		if !slices.ContainsFunc(n.Subnets, inside) && len(n.Subnets) > 0 {
			return "it has an address of no subnet"
		}
		if taken[a.Addr().String()] {
			return "its address is another's"
		}
	}
	return ""
}

// changedPeers compares two lists that are sorted by id.
func changedPeers(was, is []netdriver.Peer) (put []netdriver.Peer, drop []endpoint.ID) {
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(is) == 0 || len(was) > 0 && was[0].ID < is[0].ID:
			drop, was = append(drop, was[0].ID), was[1:]
		case len(was) == 0 || is[0].ID < was[0].ID:
			put, is = append(put, is[0]), is[1:]
		default:
			if !equal(was[0], is[0]) {
				put = append(put, is[0])
			}
			was, is = was[1:], is[1:]
		}
	}
	return put, drop
}

// Peers are the endpoints of a network on other hosts, by id. The slice is shared: nobody changes it.
func (c *Controller) Peers(id endpoint.NetworkID) []netdriver.Peer {
	c.cluster.mu.Lock()
	sh := c.cluster.networks[id]
	c.cluster.mu.Unlock()
	if sh == nil {
		return nil
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.peers
}

// rememberPeers writes peers to the run store, for a restart with the cluster store away.
func (c *Controller) rememberPeers(ctx context.Context, id endpoint.NetworkID, put []netdriver.Peer, drop []endpoint.ID) error {
	const atOnce = datastore.MaxKeys - 2
	for some := range slices.Chunk(put, atOnce) {
		err := c.o.Run.Update(ctx, func(tx datastore.Tx) error {
			for _, p := range some {
				if err := peerTable(id).Put(tx, string(p.ID), p); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	for some := range slices.Chunk(drop, atOnce) {
		err := c.o.Run.Update(ctx, func(tx datastore.Tx) error {
			for _, gone := range some {
				if err := peerTable(id).Delete(tx, string(gone)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// recallPeers begins with the peers, and their names, that were known before a restart.
func (c *Controller) recallPeers(ctx context.Context, sh *sharing) {
	var peers []netdriver.Peer
	for p, err := range records(ctx, c.o.Run, peerTable(sh.id)) {
		if err == nil {
			peers = append(peers, p)
		}
	}
	slices.SortFunc(peers, func(a, b netdriver.Peer) int { return cmp.Compare(a.ID, b.ID) })
	if n, here, err := maybe(c.replica(ctx, sh.id)); err == nil && here {
		if err := c.tellNames(ctx, n, namesOf(peers)); err != nil {
			peers = nil // told when they are seen
		}
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.peers = peers
}

func namesOf(peers []netdriver.Peer) (all []endpoint.Published) {
	for _, p := range peers {
		all = append(all, p.Published)
	}
	return all
}
