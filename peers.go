package sealane

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// published is what the other hosts are told of an endpoint. It is told once, when the endpoint is made, with the names and ports of the
// sandbox that it is made for: joining touches the cluster store no more.
func (c *Controller) published(ctx context.Context, e endpoint.Info) endpoint.Published {
	in := cmp.Or(e.Sandbox, e.Spec.For)
	s, _, err := maybe(c.sandboxRecord(ctx, in))
	if err != nil {
		s = sandbox.Info{} // without its names it is reached all the same
	}
	ports, _, err := maybe(view(ctx, c.o.Run, func(tx datastore.Tx) (endpoint.Ports, error) { return portsTable().Get(tx, string(in)) }))
	if err != nil {
		ports = endpoint.Ports{}
	}
	return endpoint.Published{ID: e.ID, Name: e.Spec.Name, Aliases: e.DNSNames(s)[1:], Addresses: e.Addresses, MAC: e.MAC,
		Host: c.o.Host, Boot: c.cluster.boot, Ports: containerPorts(e.Spec, ports)}
}

// publish tells the other hosts of an endpoint. AlreadyExists when another one has the name. With the store away it is nil: the endpoint
// is known to this host, and the rest follows when the store is back.
func (c *Controller) publish(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	if n.Scope != netdriver.Global {
		return nil
	}
	sh := c.sharing(n.ID)
	if c.cluster.away.Load() {
		poke(sh.kick)
		return nil
	}
	p := c.published(ctx, e)
	err := c.shared(ctx, func(tx datastore.Tx) error { return c.enterPublished(tx, n.ID, p) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errGivenUp):
		poke(c.cluster.rejoin)
	case ctx.Err() != nil || !c.storeIsAway(err):
		return err
	}
	poke(sh.kick)
	return nil
}

// enterPublished writes the record of an endpoint with its name. The host is known, the network stays.
func (c *Controller) enterPublished(tx datastore.Tx, id endpoint.NetworkID, p endpoint.Published) error {
	if err := c.fence(tx); err != nil {
		return err
	}
	n, err := networkTable().Get(tx, string(id))
	if err == nil && n.Deleting {
		err = fmt.Errorf("%w: it is being deleted", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return fmt.Errorf("network %s: %w", shortID(string(id)), err)
	}
	if err := endpointNames(id).claim(tx, p.Name, string(p.ID)); err != nil {
		return err
	}
	return errors.Join(usesTable(p.Host).Put(tx, string(id), true), publishedTable(id).Put(tx, string(p.ID), p))
}

// withdrawRecord deletes the record of an endpoint of a host with its name.
func withdrawRecord(tx datastore.Tx, id endpoint.NetworkID, ep, host string) error {
	p, found, err := maybe(publishedTable(id).Get(tx, ep))
	if err != nil || !found || p.Host != host {
		return err
	}
	return errors.Join(publishedTable(id).Delete(tx, ep), endpointNames(id).free(tx, p.Name, ep))
}

// errForced says that somebody gave an endpoint up by force while its host is alive.
var errForced = fmt.Errorf("%w: it was given up by force on another host", errdefs.ErrNotFound)

func isGivenUp(tx datastore.Tx, on endpoint.NetworkID, id endpoint.ID) (bool, error) {
	p, _, err := maybe(publishedTable(on).Get(tx, string(id)))
	return p.GivenUp != "", err
}

// withdrawPublished takes an endpoint from the other hosts, before it goes from the kernel. With the store away that follows.
func (c *Controller) withdrawPublished(ctx context.Context, n netdriver.Network, id endpoint.ID) error {
	if n.Scope != netdriver.Global || c.o.Cluster == nil {
		return nil
	}
	sh := c.sharing(n.ID)
	if !c.cluster.away.Load() {
		err := c.shared(ctx, func(tx datastore.Tx) error {
			if gone, err := isGivenUp(tx, n.ID, id); err != nil || gone {
				return err // whoever gave it up waits until its addresses are given back: see settleEndpoint
			}
			return withdrawRecord(tx, n.ID, string(id), c.o.Host)
		})
		if err == nil || ctx.Err() != nil || !c.storeIsAway(err) {
			return err
		}
	}
	poke(sh.kick)
	return nil
}

// watchNetwork follows the endpoints of a network that this host uses, and settles what differs. Both goroutines end with ctx, and when
// the host does not use it any more.
func (c *Controller) watchNetwork(ctx context.Context, sh *sharing) {
	ctx, cancel := context.WithCancel(ctx)
	c.work.Go(func() {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-sh.over:
		}
	})
	c.work.Go(func() {
		c.follow(ctx, publishedTable(sh.id).Dir, func(b datastore.Batch) {
			sh.take(b)
			poke(sh.kick)
		}, func() { sh.known.Do(func() { close(sh.first) }) })
	})
	c.work.Go(func() { c.keepSettled(ctx, sh) })
}

// take notes what a directory of endpoints contains. What does not parse is nobody.
func (sh *sharing) take(b datastore.Batch) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if b.Full || sh.published == nil {
		sh.published = map[string]endpoint.Published{}
	}
	for name, value := range b.Put {
		var p endpoint.Published
		if err := json.Unmarshal(value, &p); err != nil || string(p.ID) != name {
			delete(sh.published, name)
			continue
		}
		sh.published[name] = p
	}
	for _, name := range b.Delete {
		delete(sh.published, name)
	}
}

// keepSettled settles a network whenever something changed, and with growing pauses while that fails.
func (c *Controller) keepSettled(ctx context.Context, sh *sharing) {
	const soon, late, linger = 100 * time.Millisecond, 2 * time.Second, time.Minute
	pause := soon
	again := time.NewTimer(late)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sh.kick:
		case <-again.C:
		}
		idle, err := c.settleNetwork(ctx, sh)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !c.storeIsAway(err) {
				c.log.Warn("a shared network is not as wanted; trying again", "network", sh.id, "error", err)
			}
			again.Reset(pause)
			pause = min(2*pause, late)
			continue
		case idle > linger:
			if err := c.giveUpIdle(ctx, sh); err == nil || ctx.Err() != nil {
				continue
			}
			again.Reset(late)
		case idle > 0:
			again.Reset(linger)
		}
		pause = soon
	}
}

// peersKnown lets those go on who wait for the other hosts' endpoints.
func (sh *sharing) peersKnown() { sh.known.Do(func() { close(sh.first) }) }

// settleNetwork makes the peers what the store says, and the store what this host's endpoints say. It returns for how long there was none
// of these.
func (c *Controller) settleNetwork(ctx context.Context, sh *sharing) (idle time.Duration, err error) {
	n, here, err := maybe(c.replica(ctx, sh.id))
	if err != nil || !here || c.cluster.twin.Load() {
		return 0, err
	}
	seen, err := c.settlePeers(ctx, n, sh)
	if err != nil {
		return 0, err
	}
	if seen {
		sh.peersKnown() // a call that waits for them may hold an endpoint that is to be settled
	}
	own := map[endpoint.ID]endpoint.Info{}
	for e, err := range records(ctx, c.o.Run, endpointTable(n.ID)) {
		if err != nil {
			return 0, err
		}
		own[e.ID] = e
	}
	sh.mu.Lock()
	published, doubtful := maps.Clone(sh.published), sh.doubtful
	sh.doubtful = false
	if len(own) > 0 {
		sh.idle = time.Time{}
	} else if sh.idle.IsZero() {
		sh.idle = time.Now()
	}
	since := sh.idle
	sh.mu.Unlock()
	if len(own) == 0 {
		if err := c.leaveDown(ctx, n); err != nil {
			return 0, err
		}
	}
	if published == nil && !doubtful {
		return 0, nil // nobody knows what is published; the watch will tell
	}
	if len(own) > 0 {
		if err := c.prepare(ctx, n, sh); err != nil {
			return 0, err
		}
	}
	var errs []error
	for id := range c.unsettled(ctx, own, published, doubtful) {
		errs = append(errs, c.settleEndpoint(ctx, n, id, doubtful))
	}
	if err := errors.Join(errs...); err != nil {
		sh.mu.Lock()
		sh.doubtful = sh.doubtful || doubtful
		sh.mu.Unlock()
		return 0, err
	}
	if since.IsZero() {
		return 0, nil
	}
	return max(time.Since(since), 1), nil
}

// leaveDown takes a network without endpoints out of the kernel, where the call that removed the last did not get so far.
func (c *Controller) leaveDown(ctx context.Context, n netdriver.Network) error {
	leave, err := c.locks.shared(ctx, networkOwner(n.ID))
	if err != nil {
		return err
	}
	defer leave()
	return c.lower(ctx, n)
}

// unsettled are this host's endpoints that the store has otherwise, or that it has and this host does not.
func (c *Controller) unsettled(ctx context.Context, own map[endpoint.ID]endpoint.Info, published map[string]endpoint.Published, all bool) map[endpoint.ID]bool {
	ids := map[endpoint.ID]bool{}
	for id, e := range own {
		if p, found := published[string(id)]; all || !found || !equal(p, c.published(ctx, e)) {
			ids[id] = true
		}
	}
	for name, p := range published {
		if _, here := own[endpoint.ID(name)]; p.Host == c.o.Host && !here {
			ids[endpoint.ID(name)] = true
		}
	}
	return ids
}

// settleEndpoint publishes or withdraws an endpoint of this host as its record says. One whose addresses were given to somebody else while
// this host was away is taken down; one whose name was taken goes on without it. doubtful: look, even if the store has the record.
func (c *Controller) settleEndpoint(ctx context.Context, n netdriver.Network, id endpoint.ID, doubtful bool) error {
	unlock, err := c.hold(ctx, n.ID, id)
	if err != nil {
		return err
	}
	defer unlock()
	e, here, err := maybe(view(ctx, c.o.Run, func(tx datastore.Tx) (endpoint.Info, error) { return endpointTable(n.ID).Get(tx, string(id)) }))
	if err != nil {
		return err
	}
	if !here {
		return c.strikePublished(ctx, n, id)
	}
	p := c.published(ctx, e)
	now, found, err := maybe(view(ctx, c.o.Cluster, func(tx datastore.Tx) (endpoint.Published, error) {
		return publishedTable(n.ID).Get(tx, string(id))
	}))
	if err != nil || found && !doubtful && equal(now, p) {
		return err
	}
	if doubtful || !found {
		switch err := c.confirm(ctx, n, e); {
		case errdefs.IsAlreadyExists(err), errdefs.IsNotFound(err):
			return c.takeDown(ctx, n, e, err)
		case err != nil:
			return err
		}
	}
	err = c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		if gone, err := isGivenUp(tx, n.ID, id); err != nil {
			return err
		} else if gone {
			return errForced
		}
		return c.enterPublished(tx, n.ID, p)
	})
	switch {
	case errors.Is(err, errForced):
		if err := c.takeDown(ctx, n, e, err); err != nil {
			return err
		}
		return c.strikePublished(ctx, n, id)
	case errdefs.IsAlreadyExists(err):
		return c.dropName(ctx, n, e, err)
	case errdefs.IsNotFound(err):
		return c.takeDown(ctx, n, e, err)
	case errors.Is(err, errGivenUp):
		poke(c.cluster.rejoin)
	}
	return err
}

// strikePublished deletes the record of an endpoint that is no more, when its addresses can be given to another.
func (c *Controller) strikePublished(ctx context.Context, n netdriver.Network, id endpoint.ID) error {
	if _, err := c.withdrawn.wait(ctx); err != nil {
		return err
	}
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return withdrawRecord(tx, n.ID, string(id), c.o.Host) })
}

// takeDown removes an endpoint whose addresses are somebody else's, that was given up, or whose network is gone. The caller holds it.
func (c *Controller) takeDown(ctx context.Context, n netdriver.Network, e endpoint.Info, why error) error {
	c.log.Warn("an endpoint, its address or its network was given up; taking it down", "network", n.Name,
		"endpoint", e.Spec.Name, "error", why)
	if err := (&endpointHandle{c, n.ID, e.ID}).remove(ctx, n, e, true); err != nil {
		return err
	}
	c.events.tell("endpoint", "conflict", string(e.ID), "name", e.Spec.Name, "network", string(n.ID), "reason", why.Error())
	c.events.tell("endpoint", "destroy", string(e.ID), "name", e.Spec.Name, "network", string(n.ID))
	return nil
}

// dropName takes an endpoint's name away because another has it in the cluster; the endpoint goes on under its id. The caller holds it.
func (c *Controller) dropName(ctx context.Context, n netdriver.Network, e endpoint.Info, why error) error {
	name := e.Spec.Name
	e.Spec.Name = shortID(string(e.ID))
	if name == e.Spec.Name {
		return why
	}
	e.Problem = fmt.Sprintf("its name %s was taken while this host was away", name)
	err := c.o.Run.Update(ctx, func(tx datastore.Tx) error {
		return errors.Join(endpointNames(n.ID).free(tx, name, string(e.ID)), endpointNames(n.ID).claim(tx, e.Spec.Name, string(e.ID)),
			endpointTable(n.ID).Put(tx, string(e.ID), e))
	})
	if err != nil {
		return err
	}
	c.log.Warn("a name was taken while this host was away", "network", n.Name, "name", name, "endpoint", e.ID, "error", why)
	c.events.tell("endpoint", "conflict", string(e.ID), "name", name, "network", string(n.ID), "reason", why.Error())
	p := c.published(ctx, e)
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return c.enterPublished(tx, n.ID, p) })
}

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
