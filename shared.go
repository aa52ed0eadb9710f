package sealane

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
)

// errOverlap says that somebody else has a subnet.
var errOverlap = fmt.Errorf("%w: it overlaps", errdefs.ErrAlreadyExists)

// createShared makes a network in the cluster store: its record, name, number and subnets in one transaction. Nothing of it is on this
// host until its first endpoint here.
func (c *Controller) createShared(ctx context.Context, n netdriver.Network, s IPAM, d netdriver.Driver) error {
	free, err := c.locks.exclusive(ctx, "shared") // hosts race each other, and this host's calls queue
	if err != nil {
		return err
	}
	defer free()
	if err := c.sharedIsNew(ctx, n); err != nil {
		return err
	}
	if n.Space, err = c.ownSpace(ctx, n, s, d); err != nil {
		return err
	}
	named := !slices.ContainsFunc(s.Subnets, func(sub SubnetSpec) bool { return !sub.Subnet.IsValid() && sub.Pool == "" }) &&
		len(s.Subnets) > 0
	for {
		err := c.trySharedOnce(ctx, n, s, d)
		if err == nil || named || !errors.Is(err, errOverlap) {
			return err
		}
		if ctx.Err() != nil { // a host that we do not know was quicker, again and again
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// ownSpace is the address space of a network that keeps apart from others: what it is given by name others may have as well. "" when it does
// not, when the IPAM driver has no such spaces, and when its pools are there already.
func (c *Controller) ownSpace(ctx context.Context, n netdriver.Network, s IPAM, d netdriver.Driver) (string, error) {
	can, err := d.Capability(ctx)
	if err != nil || !can.Apart || can.NoAddresses || slices.ContainsFunc(s.Subnets, func(sub SubnetSpec) bool { return sub.Pool != "" }) {
		return "", err
	}
	addresses, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return "", err
	}
	spaces, err := addresses.Capability(ctx)
	if err != nil || !spaces.Subspaces {
		return "", err
	}
	return spaces.GlobalSpace + "/" + string(n.ID), nil
}

func (c *Controller) trySharedOnce(ctx context.Context, n netdriver.Network, s IPAM, d netdriver.Driver) error {
	err := c.requestSubnets(ctx, &n, s, d)
	if err == nil {
		err = c.tryPlan(ctx, n, d)
	}
	if err == nil {
		err = c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return c.enterShared(tx, n, s, d) })
	}
	end, cancel := afterwards(ctx)
	defer cancel()
	if freed := c.forgetSubnets(end, n, err == nil); freed != nil {
		c.log.Warn("subnets of a network are not let go of", "network", n.Name, "error", freed)
	}
	return err
}

// forgetSubnets lets go of what requestSubnets got: all of it when the network was not made, else what its driver would forget anyway,
// since whoever uses the network asks for it again.
func (c *Controller) forgetSubnets(ctx context.Context, n netdriver.Network, made bool) error {
	if len(n.Subnets) == 0 {
		return nil
	}
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return err
	}
	can, err := d.Capability(ctx)
	if err != nil || made && !can.Replay {
		return err
	}
	return c.releaseSubnets(ctx, n)
}

// tryPlan has a driver that computes find out whether a network can be.
func (c *Controller) tryPlan(ctx context.Context, n netdriver.Network, d netdriver.Driver) error {
	if !c.computes(ctx, n.Driver) {
		return nil
	}
	first, _, _, err := numbers(d, n)
	if err != nil {
		return err
	}
	n.Number = first
	_, err = c.planNetwork(ctx, n, d)
	return err
}

// enterShared writes a new network with all that it claims.
func (c *Controller) enterShared(tx datastore.Tx, n netdriver.Network, s IPAM, d netdriver.Driver) error {
	old, found, err := maybe(networkTable().Get(tx, string(n.ID)))
	if err != nil {
		return err
	}
	if found && !old.Created.Equal(n.Created) {
		return taken(n, old)
	}
	if err := networkNames.claim(tx, n.Name, string(n.ID)); err != nil {
		return err
	}
	if err := c.claimPools(tx, n, s); err != nil {
		return err
	}
	if n.Number, err = claimNumber(tx, n, d); err != nil {
		return err
	}
	return networkTable().Put(tx, string(n.ID), n)
}

// spaceOf is the address space of a pool: its id is the driver's own, and what drivers put first in it.
func spaceOf(n netdriver.Network) string {
	if n.IPAM == "" {
		return defaultIPAM
	}
	return n.IPAM
}

// claimPools makes the subnets of a network its own; errOverlap names the network that has one already. Networks that keep apart may both
// have one that was named for the second.
func (c *Controller) claimPools(tx datastore.Tx, n netdriver.Network, s IPAM) error {
	table := claimTable(spaceOf(n))
	var others []claimedPool
	for p, err := range table.All(tx) {
		if err != nil {
			return err
		}
		if p.Network != n.ID {
			others = append(others, p)
		}
	}
	for _, sub := range n.Subnets {
		named := slices.ContainsFunc(s.Subnets, func(want SubnetSpec) bool { return want.Subnet == sub.Pool.Subnet })
		for _, other := range others {
			if other.Pool.Subnet.Overlaps(sub.Pool.Subnet) && !(named && other.Apart && n.Space != "") {
				return fmt.Errorf("subnet %s: %w %s of network %s: choose another subnet", sub.Pool.Subnet, errOverlap, other.Pool.Subnet, other.Network)
			}
		}
		if err := table.Put(tx, claimKey(n, sub), claimedPool{sub.Pool, n.ID, n.Space != ""}); err != nil {
			return err
		}
	}
	return nil
}

// claimKey is where a subnet's claim is: one that others may have as well has the network's id with it.
func claimKey(n netdriver.Network, sub netdriver.Subnet) string {
	if n.Space == "" {
		return sub.Pool.Subnet.String()
	}
	return sub.Pool.Subnet.String() + "@" + string(n.ID)
}

// claimNumber takes the lowest free number of the range that the network's options allow; 0 for a driver that wants none. A number that
// the network has already stays: the transaction may be a repeat.
func claimNumber(tx datastore.Tx, n netdriver.Network, d netdriver.Driver) (uint32, error) {
	first, last, option, err := numbers(d, n)
	if err != nil || option == "" {
		return 0, err
	}
	holder := map[string]string{}
	for name, id := range tx.List(string(numberNames)) {
		holder[name] = string(id)
	}
	free := uint32(0)
	for number := first; number <= last && number >= first; number++ {
		switch holder[strconv.FormatUint(uint64(number), 10)] {
		case string(n.ID):
			return number, nil
		case "":
			if free == 0 {
				free = number
			}
		}
		if number == last {
			break
		}
	}
	if free == 0 {
		if first == last {
			return 0, fmt.Errorf("option %s=%d: %w: network %s has the number", option, first, errdefs.ErrAlreadyExists,
				holder[strconv.FormatUint(uint64(first), 10)])
		}
		return 0, fmt.Errorf("%w: all numbers from %d to %d are taken: widen the range with option %s", errdefs.ErrResourceExhausted, first, last, option)
	}
	return free, numberNames.claim(tx, strconv.FormatUint(uint64(free), 10), string(n.ID))
}

func freeNumber(tx datastore.Tx, n netdriver.Network) error {
	if n.Number == 0 {
		return nil
	}
	return numberNames.free(tx, strconv.FormatUint(uint64(n.Number), 10), string(n.ID))
}

// claimedSubnets are the subnets that no new network of a space may have.
func (c *Controller) claimedSubnets(ctx context.Context, n netdriver.Network) ([]netip.Prefix, error) {
	return view(ctx, c.o.Cluster, func(tx datastore.Tx) (all []netip.Prefix, err error) {
		for p, err := range claimTable(spaceOf(n)).All(tx) {
			if err == nil && p.Pool.Subnet.IsValid() {
				all = append(all, p.Pool.Subnet)
			}
		}
		return all, nil
	})
}

// sharedIsNew finds out early that a name or id is taken, and helps on what is on its way out.
func (c *Controller) sharedIsNew(ctx context.Context, n netdriver.Network) error {
	old, err := findNetworkIn(ctx, c.o.Cluster, n)
	if err != nil || old == nil {
		return err
	}
	if old.Deleting {
		unlock, err := c.locks.exclusive(ctx, networkOwner(old.ID))
		if err != nil {
			return err
		}
		defer unlock()
		return c.deleteShared(ctx, *old, false)
	}
	return taken(n, *old)
}

// resolveShared finds the id of a network of the cluster: first among those that this host has endpoints on, so that to attach touches the
// store no more than it must, and with the store away among all that this host knows.
func (c *Controller) resolveShared(ctx context.Context, ref string) (string, error) {
	known := ""
	for n, err := range records(ctx, c.o.Run, replicaTable()) {
		if err != nil || string(n.ID) != ref && n.Name != ref {
			continue
		}
		known = string(n.ID)
		if busy, err := c.hasEndpoints(ctx, n.ID); err != nil || busy {
			return known, err
		}
	}
	soon, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	id, err := view(soon, c.o.Cluster, func(tx datastore.Tx) (string, error) { return resolve(tx, networkTable(), networkNames, ref) })
	if known != "" && err != nil && c.storeIsAway(err) {
		return known, nil
	}
	return id, err
}

// sharedNetworks yields the networks of the cluster; with the store away those that this host uses.
func (c *Controller) sharedNetworks(ctx context.Context) iter.Seq2[netdriver.Network, error] {
	return func(yield func(netdriver.Network, error) bool) {
		if c.o.Cluster == nil {
			return
		}
		soon, cancel := context.WithTimeout(ctx, enough)
		defer cancel()
		for n, err := range records(soon, c.o.Cluster, networkTable()) {
			if err != nil && n.ID == "" && c.storeIsAway(err) {
				records(ctx, c.o.Run, replicaTable())(yield)
				return
			}
			if !yield(n, err) {
				return
			}
		}
	}
}

// replica reads what this host keeps of a network that it uses: NotFound when it does not.
func (c *Controller) replica(ctx context.Context, id endpoint.NetworkID) (netdriver.Network, error) {
	if c.o.Cluster == nil {
		return netdriver.Network{}, errdefs.ErrNotFound
	}
	return view(ctx, c.o.Run, func(tx datastore.Tx) (netdriver.Network, error) {
		return c.memory.networks.Get(tx, replicaTable(), string(id))
	})
}

func (c *Controller) putReplica(ctx context.Context, n netdriver.Network) error {
	n.Problem = ""
	return c.o.Run.Update(ctx, func(tx datastore.Tx) error { return replicaTable().Put(tx, string(n.ID), n) })
}

// sharedRecord reads a network's record: what this host knows of it while it has endpoints here, whose blocks keep the network and to whom
// changes are told, else what the cluster store has; with the store away what this host knows.
func (c *Controller) sharedRecord(ctx context.Context, id endpoint.NetworkID) (netdriver.Network, error) {
	if c.o.Cluster == nil {
		return netdriver.Network{}, errdefs.ErrNotFound
	}
	known, found, err := maybe(c.replica(ctx, id))
	if err != nil {
		return known, err
	}
	if busy, err := c.hasEndpoints(ctx, id); err != nil || found && busy && !known.Deleting {
		return known, err
	}
	soon, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	n, err := view(soon, c.o.Cluster, func(tx datastore.Tx) (netdriver.Network, error) { return networkTable().Get(tx, string(id)) })
	if found && err != nil && c.storeIsAway(err) {
		return known, nil
	}
	return n, err
}

// use makes a network of the cluster ready for endpoints of this host. The caller holds it shared.
func (c *Controller) use(ctx context.Context, id endpoint.NetworkID) (netdriver.Network, error) {
	if c.cluster.twin.Load() {
		return netdriver.Network{}, c.errTwin()
	}
	n, known, err := maybe(c.replica(ctx, id))
	if err != nil {
		return n, err
	}
	busy := known
	if known {
		if busy, err = c.hasEndpoints(ctx, id); err != nil {
			return n, err
		}
	}
	if !busy { // the first here: what is known may be old
		now, err := c.sharedRecord(ctx, id)
		if err != nil {
			return n, err
		}
		if now.Deleting && !(known && c.cluster.away.Load()) {
			return now, fmt.Errorf("%w: it is being deleted", errdefs.ErrFailedPrecondition)
		}
		now.Deleting = false
		if !known || !equal(n, now) {
			if n = now; c.putReplica(ctx, n) != nil {
				return n, err
			}
		}
	}
	sh := c.sharing(id)
	if err := c.prepare(ctx, n, sh); err != nil {
		return n, err
	}
	wait, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	select {
	case <-sh.first:
	case <-wait.Done():
	}
	return n, ctx.Err()
}

// prepare asks again for the addresses of a network and of its endpoints here, once after a start: before that none may be given out.
func (c *Controller) prepare(ctx context.Context, n netdriver.Network, sh *sharing) error {
	sh.preparing.Lock()
	defer sh.preparing.Unlock()
	if sh.prepared {
		return nil
	}
	if err := c.replaySubnets(ctx, n); err != nil {
		return err
	}
	for e, err := range records(ctx, c.o.Run, endpointTable(n.ID)) {
		if err == nil {
			err = c.replayAddresses(ctx, n, e)
		}
		if errdefs.IsAlreadyExists(err) {
			sh.mu.Lock()
			sh.doubtful = true // somebody else has it: settle decides
			sh.mu.Unlock()
			poke(sh.kick)
			err = nil
		}
		if err != nil {
			return fmt.Errorf("addresses of its endpoints: %w", err)
		}
	}
	sh.prepared = true
	return nil
}

// giveUp lets go of a network that has no endpoint here: what the kernel has of it, the blocks, the replica. The caller holds it.
func (c *Controller) giveUp(ctx context.Context, id endpoint.NetworkID) error {
	n, here, err := maybe(c.replica(ctx, id))
	if err != nil || !here {
		return err
	}
	if busy, err := c.hasEndpoints(ctx, id); err != nil || busy {
		return err
	}
	n.Deleting = true
	if err := c.putReplica(ctx, n); err != nil {
		return err
	}
	return c.convergeNetwork(ctx, n, nil)
}

// dropReplica forgets a network that was given up.
func (c *Controller) dropReplica(ctx context.Context, id endpoint.NetworkID) error {
	c.unshare(id)
	if err := c.deleteAll(ctx, peerTable(id).Dir); err != nil {
		return err
	}
	return c.o.Run.Update(ctx, func(tx datastore.Tx) error { return replicaTable().Delete(tx, string(id)) })
}

// deleteShared removes a network from the cluster: it is marked, so that nobody begins to use it, the hosts that hold blocks are asked for
// them, and when none does everything goes in one transaction. The caller holds it. force: hosts that do not answer are taken for dead.
func (c *Controller) deleteShared(ctx context.Context, n netdriver.Network, force bool) (err error) {
	if err := c.networkIsFree(ctx, n.ID); err != nil {
		return err
	}
	if err := c.mark(ctx, n.ID, force); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			end, cancel := afterwards(ctx)
			defer cancel()
			if back := c.unmark(end, n.ID); back != nil && !errdefs.IsNotFound(back) {
				c.log.Warn("a network that could not be deleted stays marked; delete it again", "network", n.Name, "error", back)
			}
		}
	}()
	if err := c.giveUp(ctx, n.ID); err != nil {
		return err
	}
	if err := c.gatherBlocks(ctx, n.ID, force); err != nil {
		return err
	}
	if err := c.strip(ctx, n.ID, "", func(datastore.Tx) error { return nil }); err != nil { // blocks that were given up
		return err
	}
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return c.removeShared(tx, n) })
}

// mark says in the record that the network shall go. It is refused while endpoints are published.
func (c *Controller) mark(ctx context.Context, id endpoint.NetworkID, force bool) error {
	dead, err := c.deadHosts(ctx, force)
	if err != nil {
		return err
	}
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		n, err := networkTable().Get(tx, string(id))
		if err != nil {
			return err
		}
		var live []string
		for p, err := range publishedTable(id).All(tx) {
			if err == nil && !dead[p.Host] {
				live = append(live, fmt.Sprintf("%s (host %s)", p.Name, shortID(p.Host)))
			}
		}
		if len(live) > 0 {
			return fmt.Errorf("%w: it has endpoints: %s", errdefs.ErrFailedPrecondition, someOf(live))
		}
		n.Deleting = true
		return networkTable().Put(tx, string(id), n)
	})
}

func (c *Controller) unmark(ctx context.Context, id endpoint.NetworkID) error {
	return c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		n, err := networkTable().Get(tx, string(id))
		if err != nil || !n.Deleting {
			return err
		}
		n.Deleting = false
		return networkTable().Put(tx, string(id), n)
	})
}

// deadHosts are those that force may take for dead: unreachable, or unknown.
func (c *Controller) deadHosts(ctx context.Context, force bool) (map[string]bool, error) {
	dead := map[string]bool{}
	if !force {
		return dead, nil
	}
	for h, err := range c.Hosts(ctx) {
		if err != nil {
			return nil, err
		}
		dead[h.ID] = h.State != hostReady && h.ID != c.o.Host
	}
	return dead, nil
}

func someOf(names []string) string {
	const shown = 10
	if len(names) > shown {
		return fmt.Sprintf("%s, … (%d)", strings.Join(names[:shown], ", "), len(names))
	}
	return strings.Join(names, ", ")
}

// gatherBlocks waits until no host holds a block of a network any more.
func (c *Controller) gatherBlocks(ctx context.Context, id endpoint.NetworkID, force bool) error {
	holders, err := c.holders(ctx, id)
	if err != nil || len(holders) == 0 {
		return err
	}
	reachable := map[string]bool{}
	for h, err := range c.Hosts(ctx) {
		if err != nil {
			return err
		}
		reachable[h.ID] = h.State == hostReady
	}
	awaited := false
	for _, h := range holders {
		awaited = awaited || reachable[h]
		if err := c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return noticeTable(h).Put(tx, string(id), true) }); err != nil {
			return err
		}
	}
	if awaited {
		c.awaitBlocks(ctx, id, reachable)
	}
	if holders, err = c.holders(ctx, id); err != nil || len(holders) == 0 {
		return err
	}
	var live, dead []string
	for _, h := range holders {
		if reachable[h] {
			live = append(live, h)
		} else {
			dead = append(dead, h)
		}
	}
	switch {
	case len(live) > 0:
		return fmt.Errorf("%w: hosts have addresses of it in use: %s", errdefs.ErrFailedPrecondition, someOf(live))
	case !force:
		return fmt.Errorf("%w: hosts that do not answer have addresses of it: %s: remove the hosts if they are dead, or the network by force",
			errdefs.ErrFailedPrecondition, someOf(dead))
	}
	for _, h := range dead {
		if err := c.strip(ctx, id, h, func(datastore.Tx) error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

// awaitBlocks returns when no reachable host has a block, or after a while.
func (c *Controller) awaitBlocks(ctx context.Context, id endpoint.NetworkID, reachable map[string]bool) {
	ctx, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	for _, err := range c.o.Cluster.Watch(ctx, blockTable(id).Dir) {
		if err != nil {
			return
		}
		holders, err := c.holders(ctx, id)
		if err != nil || !slices.ContainsFunc(holders, func(h string) bool { return reachable[h] }) {
			return
		}
	}
}

// holders are the hosts with blocks of a network.
func (c *Controller) holders(ctx context.Context, id endpoint.NetworkID) ([]string, error) {
	return view(ctx, c.o.Cluster, func(tx datastore.Tx) (hosts []string, err error) {
		for b, err := range blockTable(id).All(tx) {
			if err == nil && b.Host != "" && !slices.Contains(hosts, b.Host) {
				hosts = append(hosts, b.Host)
			}
		}
		return hosts, nil
	})
}

// removeShared deletes all that a network claims, if nobody holds a block of it.
func (c *Controller) removeShared(tx datastore.Tx, n netdriver.Network) error {
	now, found, err := maybe(networkTable().Get(tx, string(n.ID)))
	if err != nil || !found {
		return err
	}
	for b, err := range blockTable(n.ID).All(tx) {
		if err == nil && b.Host != "" {
			return fmt.Errorf("%w: host %s took addresses of it at this moment; try again", errdefs.ErrConflict, b.Host)
		}
	}
	for range publishedTable(n.ID).All(tx) {
		return fmt.Errorf("%w: an endpoint was published at this moment; try again", errdefs.ErrConflict)
	}
	for range tx.List(string(endpointNames(n.ID))) { // nor a name; who finds a directory empty leaves nothing of it
		break
	}
	errs := []error{networkTable().Delete(tx, string(n.ID)), networkNames.free(tx, now.Name, string(n.ID)), freeNumber(tx, now)}
	for _, sub := range now.Subnets {
		errs = append(errs, claimTable(spaceOf(now)).Delete(tx, claimKey(now, sub)))
	}
	return errors.Join(errs...)
}

// watchNotices looks at networks whose record another host changed.
func (c *Controller) watchNotices(ctx context.Context) {
	c.follow(ctx, noticeTable(c.o.Host).Dir, func(b datastore.Batch) {
		for name := range b.Put {
			segments, err := datastore.Segments(name)
			if err != nil {
				continue
			}
			id := endpoint.NetworkID(segments[0])
			c.work.Go(func() {
				if err := c.lookAt(ctx, id); err != nil && ctx.Err() == nil && !c.storeIsAway(err) {
					c.log.Warn("a network that another host changed is not as it should be", "network", id, "error", err)
				}
			})
		}
	}, func() {})
}

// lookAt takes over a change of a network's record, or gives back the blocks of one that is to go and has no endpoint here.
func (c *Controller) lookAt(ctx context.Context, id endpoint.NetworkID) error {
	unlock, err := c.locks.exclusive(ctx, networkOwner(id))
	if err != nil {
		return err
	}
	defer unlock()
	err = c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return noticeTable(c.o.Host).Delete(tx, string(id)) })
	if err != nil {
		return err
	}
	n, here, err := maybe(c.replica(ctx, id))
	if err != nil || !here {
		return err
	}
	now, found, err := maybe(view(ctx, c.o.Cluster, func(tx datastore.Tx) (netdriver.Network, error) { return networkTable().Get(tx, string(id)) }))
	switch {
	case err != nil:
		return err
	case !found || now.Deleting:
		return c.giveUp(ctx, id)
	case equal(n, now):
		return nil
	}
	return c.takeOver(ctx, now)
}

// takeOver makes this host's part of a network match a changed record. The caller holds the network.
func (c *Controller) takeOver(ctx context.Context, n netdriver.Network) error {
	if _, here, err := maybe(c.replica(ctx, n.ID)); err != nil || !here {
		return err
	}
	if err := c.putReplica(ctx, n); err != nil {
		return err
	}
	if err := c.convergeNetwork(ctx, n, nil); err != nil {
		return err
	}
	return c.convergeMembers(ctx, n.ID, nil)
}

// updateShared writes a changed record if nobody else changed it meanwhile, and tells the hosts that use the network.
func (c *Controller) updateShared(ctx context.Context, to netdriver.Network) error {
	to.Problem = ""
	err := c.o.Cluster.Update(ctx, func(tx datastore.Tx) error {
		now, err := networkTable().Get(tx, string(to.ID))
		if err != nil {
			return err
		}
		if now.Version != to.Version-1 && !equal(now, to) {
			return fmt.Errorf("%w: it was changed at this moment; try again", errdefs.ErrConflict)
		}
		return networkTable().Put(tx, string(to.ID), to)
	})
	if err != nil {
		return err
	}
	holders, err := c.holders(ctx, to.ID)
	if err != nil {
		return err
	}
	for _, h := range holders {
		if h == c.o.Host {
			continue
		}
		if err := c.o.Cluster.Update(ctx, func(tx datastore.Tx) error { return noticeTable(h).Put(tx, string(to.ID), true) }); err != nil {
			return err
		}
	}
	return c.takeOver(ctx, to)
}

// giveUpIdle lets go of a network some time after its last endpoint here.
func (c *Controller) giveUpIdle(ctx context.Context, sh *sharing) error {
	unlock, err := c.locks.exclusive(ctx, networkOwner(sh.id))
	if err != nil {
		return err
	}
	defer unlock()
	return c.giveUp(ctx, sh.id)
}
