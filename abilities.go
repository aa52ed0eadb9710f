package sealane

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// The optional abilities of drivers and rooms are asked for here and nowhere else, each with what happens without it.

// driver finds a network driver by name: built in, else a plugin. NotFound names what there is no plugin for.
func (c *Controller) driver(ctx context.Context, name string) (netdriver.Driver, error) {
	if d := c.o.Drivers[name]; d != nil {
		return d, nil
	}
	if c.o.Find != nil {
		if d, _, err := c.o.Find(ctx, name); err != nil || d != nil {
			return d, err
		}
	}
	return nil, fmt.Errorf("network driver %q: %w: it is not built in, and no plugin of that name answers", name, errdefs.ErrNotFound)
}

// ipamDriver finds an address driver by name; "" is "default".
func (c *Controller) ipamDriver(ctx context.Context, name string) (ipam.Driver, error) {
	if name == "" {
		name = defaultIPAM
	}
	if d := c.o.IPAM[name]; d != nil {
		return d, nil
	}
	if c.o.Find != nil {
		if _, d, err := c.o.Find(ctx, name); err != nil || d != nil {
			return d, err
		}
	}
	return nil, fmt.Errorf("IPAM driver %q: %w: it is not built in, and no plugin of that name answers", name, errdefs.ErrNotFound)
}

// presume says that a key is likely to be absent. Without the ability it is asked for.
func presume(tx datastore.Tx, key string) {
	if p, able := tx.(datastore.Presumer); able {
		p.Presume(key)
	}
}

// survey asks what the host is like. Without the ability drivers are told an MTU of 1500 and nothing else.
func (c *Controller) survey(ctx context.Context, links []string) (sandbox.Survey, error) {
	s, able := c.o.Spaces.(sandbox.Surveyor)
	if !able {
		return sandbox.Survey{MTU: 1500}, nil
	}
	return s.Survey(ctx, links)
}

// linksNow are the numbers of the host's links, by name. Without the ability (nil) none can be told from another.
func (c *Controller) linksNow(ctx context.Context) (map[string]int, error) {
	i, able := c.o.Spaces.(sandbox.Indexer)
	if !able {
		return nil, nil
	}
	return i.Indexes(ctx)
}

// namespaces lists the ids of the namespaces that our provider made. Without the ability there are none to sweep.
func (c *Controller) namespaces(ctx context.Context) ([]sandbox.ID, error) {
	l, able := c.o.Spaces.(sandbox.Lister)
	if !able {
		return nil, nil
	}
	return l.List(ctx)
}

// Usage is how much of a network's subnets is taken, by subnet; nil for a driver that does not count.
func (c *Controller) Usage(ctx context.Context, n netdriver.Network) map[netip.Prefix]ipam.Usage {
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return nil
	}
	counter, able := d.(ipam.Counter)
	if !able {
		return nil
	}
	usage := map[netip.Prefix]ipam.Usage{}
	for _, sub := range n.Subnets {
		if u, err := counter.Usage(sub.Pool.ID); err == nil {
			usage[sub.Pool.Subnet] = u
		}
	}
	return usage
}

// underlay yields the MTU of the link that has an address, and each change of it. Without the ability (nil) it is read when a network is
// next planned.
func (c *Controller) underlay(ctx context.Context, addr netip.Addr) iter.Seq2[int, error] {
	if u, able := c.o.Spaces.(sandbox.Underlay); able && addr.IsValid() {
		return u.Underlay(ctx, addr)
	}
	return nil
}

// goneNamespaces yields the keys of namespaces that ended. Without the ability (nil) an end is noticed when the sandbox is next used.
func (c *Controller) goneNamespaces(ctx context.Context) iter.Seq[string] {
	if g, able := c.o.Spaces.(sandbox.Gone); able {
		return g.Gone(ctx)
	}
	return nil
}

// skipGateway asks a driver which families need no gateway address. Without the ability both do.
func skipGateway(ctx context.Context, d netdriver.Driver, options map[string]string) (skip4, skip6 bool, err error) {
	if g, able := d.(netdriver.GatewayAllocator); able {
		return g.SkipGateway(ctx, options)
	}
	return false, false, nil
}

// checkChange asks whether a network may become what is wanted. Without the ability only labels change.
func checkChange(d netdriver.Driver, from, to netdriver.Network) error {
	if ch, able := d.(netdriver.Changer); able {
		return ch.CheckChange(from, to)
	}
	from.Labels = to.Labels
	if !equal(from, to) {
		return fmt.Errorf("%w: driver %s changes nothing but labels of a network that exists", errdefs.ErrFailedPrecondition, from.Driver)
	}
	return nil
}

// forget ends what connection tracking remembers of withdrawn addresses. Without the ability nothing is remembered.
func (c *Controller) forget(ctx context.Context, withdrawn []netip.Addr) error {
	if f, able := c.o.Firewalls.(firewall.Forgetter); able {
		return f.Forget(ctx, withdrawn)
	}
	return nil
}

// reservePorts holds host ports by a bound socket and chooses free ones. Without the ability a port must be named, and another process
// that has it is not noticed.
func (c *Controller) reservePorts(ctx context.Context, p firewall.Proto, host netip.Addr, want firewall.Range) (firewall.Range, io.Closer, error) {
	if r, able := c.o.Firewalls.(firewall.Reserver); able {
		return r.Reserve(ctx, p, host, want)
	}
	if want == (firewall.Range{}) {
		return want, nil, fmt.Errorf("%w: nobody here can choose a free host port: name one", errdefs.ErrInvalidArgument)
	}
	return want, io.NopCloser(nil), nil
}

// Binding is the host address of ports that are published without one on a network; zero, and without the ability: all.
func (c *Controller) Binding(ctx context.Context, n netdriver.Network) netip.Addr {
	d, err := c.driver(ctx, n.Driver)
	if err != nil {
		return netip.Addr{}
	}
	if b, able := d.(netdriver.Binder); able {
		return b.Binding(n)
	}
	return netip.Addr{}
}

// numbers asks a driver for the range that a network's number is taken from, and the option that widens it. Without the ability (option
// "") networks have none.
func numbers(d netdriver.Driver, n netdriver.Network) (first, last uint32, option string, err error) {
	if d, able := d.(netdriver.Numbered); able {
		return d.Numbers(n)
	}
	return 0, 0, "", nil
}

// announces says that the cluster store can tell who is there. Without the ability every host counts as alive until it is removed.
func (c *Controller) announces() bool {
	_, able := c.o.Cluster.(datastore.Presence)
	return able
}

// announce tells the other hosts that this one can reach the store, until lost is closed. Without the ability it is nil: never.
func (c *Controller) announce(ctx context.Context) (lost <-chan struct{}, err error) {
	p, able := c.o.Cluster.(datastore.Presence)
	if !able {
		return nil, nil
	}
	return p.Announce(ctx, presenceDir+"/"+datastore.Key(c.o.Host), []byte(c.cluster.boot))
}

// confirm finds out whether an endpoint's addresses are still this host's to give: AlreadyExists when they are another's. Without the
// ability they are.
func (c *Controller) confirm(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	d, err := c.ipamDriver(ctx, n.IPAM)
	if err != nil {
		return err
	}
	confirmer, able := d.(ipam.Confirmer)
	if !able {
		return nil
	}
	for _, a := range e.Addresses {
		for _, sub := range n.Subnets {
			if !sub.Pool.Subnet.Contains(a.Addr()) {
				continue
			}
			if err := confirmer.Confirm(ctx, sub.Pool.ID, a.Addr()); err != nil {
				return err
			}
		}
	}
	return nil
}

// serveBlocks has IPAM drivers answer those of other hosts. Without the ability they have nothing to say to each other.
func (c *Controller) serveBlocks(ctx context.Context) {
	for name, d := range c.o.IPAM {
		s, able := d.(interface {
			Serve(context.Context, func(context.Context, func() error) error) error
		})
		if !able {
			continue
		}
		c.work.Go(func() {
			if err := s.Serve(ctx, c.grant); err != nil && ctx.Err() == nil {
				c.log.Error("an IPAM driver does not answer other hosts any more", "driver", name, "error", err)
			}
		})
	}
}

// grant tries to give another host an address of ours, which none of our endpoints is about to be given again after a start.
func (c *Controller) grant(ctx context.Context, try func() error) error {
	return c.withdrawn.retry(ctx, func() error {
		c.cluster.replaying.RLock()
		defer c.cluster.replaying.RUnlock()
		return try()
	})
}

// publishes says that a driver publishes ports itself. Without the ability we do.
func publishes(ctx context.Context, d netdriver.Driver) (bool, error) {
	if _, able := d.(netdriver.ExternalConnector); !able {
		return false, nil
	}
	can, err := d.Capability(ctx)
	return can.Publishes, err
}

// tellGateway tells a driver that an endpoint carries its sandbox's way out, with ports when it publishes them, or that it does not.
// Without the ability it need not know.
func tellGateway(ctx context.Context, d netdriver.Driver, on bool, n netdriver.Network, e endpoint.Info) error {
	x, able := d.(netdriver.ExternalConnector)
	switch {
	case !able:
		return nil
	case on:
		return x.ProgramExternalConnectivity(ctx, n, e)
	}
	return x.RevokeExternalConnectivity(ctx, n, e)
}

// probe says why a driver that acts cannot be called; nil as far as nobody knows. Without the ability that shows when it is called.
func (c *Controller) probe(ctx context.Context, n netdriver.Network) error {
	if c.computes(ctx, n.Driver) || n.Unknown {
		return nil
	}
	d, err := c.driver(ctx, n.Driver)
	if err != nil {
		return err
	}
	if p, able := d.(netdriver.Prober); able {
		return p.Probe(ctx)
	}
	return nil
}

// sweepNames lets go of what the resolver and the files keep for sandboxes that are no more. A resolver without the ability keeps nothing.
func (c *Controller) sweepNames(ctx context.Context, keep []sandbox.ID) error {
	if s, able := c.o.Resolver.(resolver.Sweeper); able {
		if err := s.Sweep(ctx, keep); err != nil {
			return fmt.Errorf("sweep resolver: %w", err)
		}
	}
	if c.o.Files == nil {
		return nil
	}
	return c.o.Files.Sweep(ctx, keep)
}

// setGateway says where a network is asked about. A resolver without the ability is asked in sandboxes only.
func (c *Controller) setGateway(ctx context.Context, ns sandbox.Namespace, g resolver.Gateway) error {
	if r, able := c.o.Resolver.(resolver.Gateways); able {
		return r.SetGateway(ctx, ns, g)
	}
	return nil
}

// EndpointInfo is what a driver tells of an endpoint beside its record; nil without the ability, or when the driver fails.
func (c *Controller) EndpointInfo(ctx context.Context, n netdriver.Network, e endpoint.Info) map[string]any {
	d, err := c.driver(ctx, n.Driver)
	if err != nil {
		return nil
	}
	i, able := d.(netdriver.Informer)
	if !able {
		return nil
	}
	told, err := i.EndpointInfo(ctx, n, e)
	if err != nil {
		c.log.Warn("driver does not tell about an endpoint", "driver", n.Driver, "endpoint", e.ID, "error", err)
		return nil
	}
	return told
}
