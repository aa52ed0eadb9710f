package sealane

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// Where records are in the cluster store, beside those of networks, which are as in the root store. docs/cluster.md has the table.

func hostTable() datastore.Table[Host] { return datastore.Table[Host]{Dir: "host"} }

// presenceDir has a key for each host that can reach the store.
const presenceDir = "up"

// usesTable says which networks a host has blocks or endpoints of.
func usesTable(host string) datastore.Table[bool] {
	return datastore.Table[bool]{Dir: datastore.Key("hostnet", host)}
}

func publishedTable(n endpoint.NetworkID) datastore.Table[endpoint.Published] {
	return datastore.Table[endpoint.Published]{Dir: datastore.Key("ep", string(n))}
}

// blockTable is as ipam/block writes it.
func blockTable(n endpoint.NetworkID) datastore.Table[ipam.Block] {
	return datastore.Table[ipam.Block]{Dir: datastore.Key("block", string(n))}
}

// noticeTable is a host's mailbox: networks whose record changed, and which it should look at.
func noticeTable(host string) datastore.Table[bool] {
	return datastore.Table[bool]{Dir: datastore.Key("look", host)}
}

// mailboxes are the directories in which others tell a host something or ask it for something (ipam/block).
func mailboxes(host string) []string {
	return []string{noticeTable(host).Dir, datastore.Key("wish", host)}
}

// claimedPool is the record of a subnet that a network has in an address space.
type claimedPool struct {
	Pool    ipam.Pool
	Network endpoint.NetworkID
	Apart   bool // another network that keeps apart may have it too
}

func claimTable(space string) datastore.Table[claimedPool] {
	return datastore.Table[claimedPool]{Dir: datastore.Key("pool", space)}
}

// numberNames are the numbers of networks, in the store that has the networks.
const numberNames index = "vni"

// In the run store: the networks of the cluster that are used on this host, and who else is on them, as both were last seen. So endpoints
// are made, and a restart changes nothing, while the cluster store is away.
func replicaTable() datastore.Table[netdriver.Network] {
	return datastore.Table[netdriver.Network]{Dir: "shared"}
}

func peerTable(n endpoint.NetworkID) datastore.Table[netdriver.Peer] {
	return datastore.Table[netdriver.Peer]{Dir: datastore.Key("peer", string(n))}
}

// enough is how long a call that goes on without the cluster store waits for it.
const enough = 3 * time.Second

// cluster is what a Controller has in memory of the other hosts.
type cluster struct {
	boot  string          // of this host, as drivers see it
	lost  <-chan struct{} // closed when the presence that join announced is over; nil: there is none
	known bool            // the cluster knew this host, in this boot, when it joined
	away  atomic.Bool
	twin  atomic.Bool // another live host has our id

	// replaying is held exclusively while the addresses of what runs on a network are asked for again, and shared while another host is given one.
	replaying sync.RWMutex

	mu       sync.Mutex // guards what is below
	hosts    map[string]Host
	live     map[string]bool               // who announces itself; nil: not known
	absent   map[string]context.CancelFunc // hosts that do not, each with what ends the waiting for it
	networks map[endpoint.NetworkID]*sharing
	left     map[endpoint.NetworkID]bool // that run here without a record, until they are taken over
	fresh    []*sharing                  // that nobody watches yet
	wake     chan struct{}               // a token when fresh has grown
	rejoin   chan struct{}               // a token when this host's record is not as it should be
}

func (cl *cluster) init() {
	cl.networks, cl.absent = map[endpoint.NetworkID]*sharing{}, map[string]context.CancelFunc{}
	cl.left = map[endpoint.NetworkID]bool{}
	cl.wake, cl.rejoin = make(chan struct{}, 1), make(chan struct{}, 1)
}

// poke puts a token into a channel of one.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default: // there is one
	}
}

// sharing is a network of the cluster that this host uses.
type sharing struct {
	id    endpoint.NetworkID
	kick  chan struct{} // a token when something is to be settled
	first chan struct{} // closed when the other hosts' endpoints are known, or the store does not tell
	over  chan struct{} // closed when the host does not use it any more
	known sync.Once

	preparing sync.Mutex // held while prepared comes to be true
	prepared  bool       // the addresses of its endpoints have been asked for again

	mu        sync.Mutex                    // guards what is below
	published map[string]endpoint.Published // as last seen; nil: never
	due       due                           // what is to be settled
	peers     []netdriver.Peer
	idle      time.Time // since when there is no endpoint here; zero: there are some
}

// sharing is what this host knows of a network; it is watched from now on.
func (c *Controller) sharing(id endpoint.NetworkID) *sharing {
	cl := &c.cluster
	cl.mu.Lock()
	defer cl.mu.Unlock()
	sh := cl.networks[id]
	if sh == nil {
		sh = &sharing{id: id, kick: make(chan struct{}, 1), first: make(chan struct{}), over: make(chan struct{})}
		cl.networks[id] = sh
		cl.fresh = append(cl.fresh, sh)
		poke(cl.wake)
	}
	return sh
}

// unshare ends the watching of a network.
func (c *Controller) unshare(id endpoint.NetworkID) {
	cl := &c.cluster
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if sh := cl.networks[id]; sh != nil {
		delete(cl.networks, id)
		close(sh.over)
	}
}

// resettle has endpoints of this host settled, if their network is one of the cluster's: what is published of them may be otherwise. Those
// that are not named are all of the network's, and its peers.
func (c *Controller) resettle(id endpoint.NetworkID, own ...endpoint.ID) {
	c.cluster.mu.Lock()
	defer c.cluster.mu.Unlock()
	if sh := c.cluster.networks[id]; sh != nil {
		sh.resettle(own...)
	}
}

// kickAll has every network settled.
func (cl *cluster) kickAll(doubtful bool) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	for _, sh := range cl.networks {
		sh.add(due{peers: true, all: true, doubtful: doubtful})
	}
}

// watchCluster keeps this host known to the others and follows what they do. Each of the goroutines ends with ctx.
func (c *Controller) watchCluster(ctx context.Context) {
	if c.o.Cluster == nil {
		return
	}
	c.work.Go(func() { c.beKnown(ctx) })
	c.work.Go(func() { c.watchHosts(ctx) })
	c.work.Go(func() { c.watchPresence(ctx) })
	c.work.Go(func() { c.watchNotices(ctx) })
	c.serveBlocks(ctx)
	c.work.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-c.cluster.wake:
			}
			c.cluster.mu.Lock()
			fresh := c.cluster.fresh
			c.cluster.fresh = nil
			c.cluster.mu.Unlock()
			for _, sh := range fresh {
				c.watchNetwork(ctx, sh)
			}
		}
	})
}

// follow ranges over a directory of the cluster store for as long as ctx lasts, and notes when the store is away.
func (c *Controller) follow(ctx context.Context, dir string, told func(datastore.Batch), failed func()) {
	const pause = time.Second
	for ctx.Err() == nil {
		for batch, err := range c.o.Cluster.Watch(ctx, dir) {
			if err == nil {
				c.cluster.away.Store(false)
				told(batch)
				continue
			}
			failed()
			if !c.storeIsAway(err) {
				c.log.Error("watching the cluster store broke off; beginning again", "directory", dir, "error", err)
				break
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// storeIsAway says that an error is the store's being out of reach, and remembers that.
func (c *Controller) storeIsAway(err error) bool {
	if !errdefs.IsUnavailable(err) && !errdefs.IsAborted(err) && !errors.Is(err, context.DeadlineExceeded) && !datastore.IsUncertain(err) {
		return false
	}
	if !c.cluster.away.Swap(true) {
		c.log.Warn("the cluster store is away; what is there goes on", "error", err)
	}
	return true
}

// shared is an Update of the cluster store by a call that goes on without it.
func (c *Controller) shared(ctx context.Context, fn func(datastore.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, enough)
	defer cancel()
	err := c.o.Cluster.Update(ctx, fn)
	if err == nil {
		c.cluster.away.Store(false)
	}
	return err
}
