package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/drivers"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/nshost"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/block"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
	sealanenetns "github.com/sealane/sealane/sandbox/netns"
)

// overlayRows compares two containers on an overlay of two hosts with a bare VXLAN device between the same two namespaces, first over the
// same hosts, whose rules it passes, then over hosts that nobody gave rules; and joining an overlay with joining a bridge. The hosts are
// namespaces of this process; the store that they share is in memory.
func overlayRows(*bench) (measure, error) {
	return func() (rows []row, err error) {
		p, err := newOverlayPair()
		if p != nil {
			defer func() { err = errors.Join(err, p.close()) }()
		}
		if err != nil {
			return nil, err
		}
		rows, err = p.talk()
		if err != nil {
			return nil, err
		}
		attach, err := p.attach()
		return append(rows,
			row{work: "overlay: attach on a bridge, and a write", runs: []values{{"sealane": attach["bridge + a write"]}}},
			row{work: "overlay: attach", runs: []values{attach}, goals: []goal{atMost(1.5, "bridge + a write", "≤ 1.5 × bridge + a write")}},
		), err
	}, nil
}

// talk sends over the overlay and the bare devices in turn. Of throughput and latency the best of five rounds counts, since where packets are
// handled is a matter of luck, and the worst tells how much; of the processor's time the median.
func (p *overlayPair) talk() ([]row, error) {
	const rounds = 5
	paths := []struct{ name, address string }{{"sealane", p.inner}, {"floor", p.bare}, {"untouched", p.untouched}}
	rate, wait, spent := map[string][]float64{}, map[string][]float64{}, map[string][]float64{}
	for round := range rounds {
		for i := range paths {
			path := paths[(round+i)%len(paths)]
			before := processTime()
			sent, took, err := p.send(path.address)
			if err != nil {
				return nil, err
			}
			rate[path.name] = append(rate[path.name], sent/1e3/took.Seconds())
			spent[path.name] = append(spent[path.name], (processTime()-before).Seconds()/(sent/1e9))
			w, err := p.latency(path.address)
			if err != nil {
				return nil, err
			}
			wait[path.name] = append(wait[path.name], w)
		}
	}
	against := func(of map[string][]float64, floor string, choose func([]float64) float64) []values {
		return []values{{"sealane": choose(of["sealane"]), "floor": choose(of[floor])}}
	}
	return []row{
		{work: "overlay: kilobytes per second between hosts", unit: perSecond, runs: against(rate, "floor", slices.Max), goals: []goal{atLeastFloor(0.9)}},
		{work: "overlay: kilobytes per second, slowest round", unit: perSecond, runs: against(rate, "floor", slices.Min)},
		{work: "overlay: kilobytes per second, floor over hosts without rules", unit: perSecond, runs: against(rate, "untouched", slices.Max)},
		{work: "overlay: processor's time for a gigabyte", runs: against(spent, "floor", median)},
		{work: "overlay: processor's time, floor over hosts without rules", runs: against(spent, "untouched", median)},
		{work: "overlay: a request between hosts", runs: against(wait, "floor", slices.Min), goals: []goal{atMostFloor(1.22)}},
		{work: "overlay: a request, slowest round", runs: against(wait, "floor", slices.Max)},
		{work: "overlay: a request, floor over hosts without rules", runs: against(wait, "untouched", slices.Min)},
	}, nil
}

// processTime is what this process has used of the processors, with what the kernel did meanwhile in its name: sending, receiving, and the
// packets that one led to.
func processTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// overlayPair is two hosts with a container each.
type overlayPair struct {
	hosts, plain           [2]*overlayHost // plain: without rules, a daemon and containers
	inner, bare, untouched string          // addresses of the second container: on the overlay, and of devices over hosts and plain ones
	server                 net.Listener
	cleanup                []func() error
}

type overlayHost struct {
	*nshost.Host
	run     string
	tunnel  netip.Addr
	spaces  *sealanenetns.Provider
	control *sealane.Controller
	box     *nshost.Host
}

// newOverlayPair is two hosts beside two without daemons; containers reach each other by bare tunnels as well.
func newOverlayPair() (*overlayPair, error) {
	p := &overlayPair{}
	if err := p.pair(&p.plain); err != nil {
		return p, err
	}
	store := datastore.NewMemory()
	if err := p.share(func() (datastore.Store, error) { return store, nil }); err != nil {
		return p, err
	}
	return p, p.containers()
}

// share makes the two hosts with their daemons, each of which opens the store that they share, and an overlay with a container on each.
func (p *overlayPair) share(open func() (datastore.Store, error)) error {
	if err := p.pair(&p.hosts); err != nil {
		return err
	}
	for i, h := range p.hosts {
		store, err := open()
		if err == nil {
			err = p.daemon(h, fmt.Sprint("h", i+1), store)
		}
		if err != nil {
			return fmt.Errorf("host %d: %w", i+1, err)
		}
	}
	subnet := sealane.IPAM{Subnets: []sealane.SubnetSpec{{Subnet: netip.MustParsePrefix("10.213.0.0/16")}}}
	_, err := p.hosts[0].control.CreateNetwork(context.Background(), sealane.NetworkSpec{Name: overlayNetwork, Driver: "overlay", Scope: netdriver.Global, IPAM: subnet})
	for i, h := range p.hosts {
		if err == nil {
			err = p.container(h, fmt.Sprint("box", i+1))
		}
	}
	return err
}

// container makes one on the overlay that can be entered.
func (p *overlayPair) container(h *overlayHost, name string) error {
	ctx := context.Background()
	if err := eventually(func() error { _, err := h.control.Network(ctx, overlayNetwork); return err }); err != nil {
		return err
	}
	sb, ep, err := h.join(overlayNetwork, name)
	if err != nil {
		return err
	}
	p.cleanup = append(p.cleanup, func() error { return sb.Delete(ctx) })
	info, err := sb.Info(ctx)
	if err != nil {
		return err
	}
	if h.box, err = nshost.At(info.Key); err != nil {
		return err
	}
	p.cleanup = append(p.cleanup, h.box.Close)
	e, err := ep.Info(ctx)
	if err == nil {
		p.inner = e.Addresses[0].Addr().String()
	}
	return err
}

// pair makes two hosts with a link between them.
func (p *overlayPair) pair(hosts *[2]*overlayHost) error {
	for i := range hosts {
		host, err := nshost.New()
		if err != nil {
			return err
		}
		p.cleanup = append(p.cleanup, host.Close)
		hosts[i] = &overlayHost{Host: host, tunnel: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}
	}
	if err := hosts[0].Connect("up", hosts[1].Host, "up"); err != nil {
		return err
	}
	for _, h := range hosts {
		if err := h.Raise("up", netip.PrefixFrom(h.tunnel, 24)); err != nil {
			return err
		}
	}
	return nil
}

// daemon opens the rooms and the Controller of a host.
func (p *overlayPair) daemon(h *overlayHost, id string, store datastore.Store) (err error) {
	if h.run, err = os.MkdirTemp("/dev/shm", "sealane-bench-"); err != nil {
		return err
	}
	p.cleanup = append(p.cleanup, func() error { return os.RemoveAll(h.run) })
	if h.spaces, err = sealanenetns.New(sealanenetns.Options{Host: h.Path(), Run: h.run}); err != nil {
		return err
	}
	p.cleanup = append(p.cleanup, h.spaces.Close, func() error { return h.spaces.Drain(context.Background()) })
	walls, err := nftables.New(nftables.Options{Host: h.Path()})
	if err != nil {
		return err
	}
	addresses, err := pool.New(pool.Options{HostID: id})
	if err != nil {
		return err
	}
	blocks, err := block.New(context.Background(), block.Options{Pool: addresses, Store: store, Host: id, Patience: time.Second})
	if err != nil {
		return err
	}
	h.control, err = sealane.New(context.Background(), sealane.Options{
		Run: datastore.NewMemory(), Root: datastore.NewMemory(), Cluster: store, Host: id, Hostname: id, Advertise: h.tunnel,
		Spaces: h.spaces, Firewalls: walls, Drivers: drivers.All(), IPAM: map[string]ipam.Driver{"default": blocks},
	})
	if err == nil {
		p.cleanup = append(p.cleanup, h.control.Close)
	}
	return err
}

const overlayNetwork, bridgeNetwork = "bench", "near"

// containers has those of the overlay reach each other by bare tunnels too, and makes a network to compare joining with.
func (p *overlayPair) containers() error {
	near := sealane.IPAM{Subnets: []sealane.SubnetSpec{{Subnet: netip.MustParsePrefix("10.214.0.0/16")}}}
	_, err := p.hosts[0].control.CreateNetwork(context.Background(), sealane.NetworkSpec{Name: bridgeNetwork, Driver: "bridge", IPAM: near})
	if err != nil {
		return err
	}
	for i := range p.hosts {
		if err := errors.Join(p.tunnel(p.hosts, i, 99), p.tunnel(p.plain, i, 98)); err != nil {
			return fmt.Errorf("bare tunnel: %w", err)
		}
	}
	p.bare, p.untouched = "10.99.0.2", "10.98.0.2"
	err = nsthread.DoFD(p.hosts[1].box.FD(), func() (err error) { p.server, err = net.Listen("tcp4", "0.0.0.0:7"); return err })
	if err != nil {
		return err
	}
	p.cleanup = append(p.cleanup, p.server.Close)
	go p.serve()
	for _, address := range []string{p.inner, p.bare, p.untouched} {
		if err := eventually(func() error { _, err := p.latencyOf(address, 1); return err }); err != nil {
			return fmt.Errorf("reach %s: %w", address, err)
		}
	}
	return nil
}

// eventually tries until there is no error, for what follows from the store.
func eventually(try func() error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); ; <-tick.C {
		if err := try(); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// tunnel makes a VXLAN device over two hosts right in a container, whose address begins with 10 and net.
func (p *overlayPair) tunnel(over [2]*overlayHost, i int, net byte) error {
	h, other, box := over[i], over[1-i], p.hosts[i].box
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Namespace = fmt.Sprint("bare", net), 1450, netlink.NsFd(box.FD())
	device := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 7, Port: 4790, SrcAddr: h.tunnel.AsSlice(), Group: other.tunnel.AsSlice(), Learning: true}
	if err := h.Netlink().LinkAdd(device); err != nil {
		return err
	}
	return box.Raise(attrs.Name, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, net, 0, byte(i + 1)}), 24))
}

// join puts a new sandbox on a network.
func (h *overlayHost) join(network, name string) (sandbox.Sandbox, endpoint.Endpoint, error) {
	ctx := context.Background()
	n, err := h.control.Network(ctx, network)
	if err != nil {
		return nil, nil, err
	}
	sb, err := h.control.CreateSandbox(ctx, sandbox.Spec{Name: name})
	if err != nil {
		return nil, nil, err
	}
	ep, err := n.CreateEndpoint(ctx, endpoint.Spec{Name: name, For: sb.ID()})
	if err != nil {
		return nil, nil, err
	}
	return sb, ep, ep.Join(ctx, sb)
}

// serve takes what it is sent, and answers the first byte of each connection: with nothing after 's', which only takes, and else with
// each byte.
func (p *overlayPair) serve() {
	for {
		c, err := p.server.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			var kind [1]byte
			if _, err := io.ReadFull(c, kind[:]); err != nil {
				return
			}
			if kind[0] != 's' {
				_, _ = io.Copy(c, c)
				return
			}
			buf, n := make([]byte, 256<<10), 0
			for {
				m, err := c.Read(buf)
				if n += m; err != nil {
					break
				}
			}
			fmt.Fprint(c, n)
		}()
	}
}

func (p *overlayPair) dial(address, kind string) (c *net.TCPConn, err error) {
	err = nsthread.DoFD(p.hosts[0].box.FD(), func() error {
		plain, err := net.DialTimeout("tcp4", net.JoinHostPort(address, "7"), time.Second)
		if err != nil {
			return err
		}
		c = plain.(*net.TCPConn)
		_, err = io.WriteString(c, kind)
		return err
	})
	return c, err
}

// send is how many bytes arrive when we send for a second, and how long that took.
func (p *overlayPair) send(address string) (n float64, took time.Duration, err error) {
	c, err := p.dial(address, "s")
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	buf, start := make([]byte, 256<<10), time.Now()
	for time.Since(start) < time.Second {
		if _, err := c.Write(buf); err != nil {
			return 0, 0, err
		}
	}
	if err := c.CloseWrite(); err != nil {
		return 0, 0, err
	}
	_, err = fmt.Fscan(c, &n)
	return n, time.Since(start), err
}

// latency is how long a byte there and back takes, the median of many.
func (p *overlayPair) latency(address string) (float64, error) { return p.latencyOf(address, 3000) }

func (p *overlayPair) latencyOf(address string, times int) (float64, error) {
	c, err := p.dial(address, "r")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	var took []float64
	var b [1]byte
	for range times {
		start := time.Now()
		if _, err := c.Write(b[:]); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return 0, err
		}
		took = append(took, time.Since(start).Seconds())
	}
	return median(took), nil
}

// attach joins sandboxes to the overlay and to a bridge in turn, and writes to the store.
func (p *overlayPair) attach() (values, error) {
	took := map[string][]float64{}
	h, ctx := p.hosts[0], context.Background()
	for i := range 60 {
		for _, network := range []string{overlayNetwork, bridgeNetwork} {
			start := time.Now()
			sb, _, err := h.join(network, fmt.Sprintf("%s%d", network, i))
			if err != nil {
				return nil, err
			}
			took[network] = append(took[network], time.Since(start).Seconds())
			if err := sb.Delete(ctx); err != nil {
				return nil, err
			}
		}
	}
	store := datastore.NewMemory()
	defer store.Close()
	start := time.Now()
	err := store.Update(ctx, func(tx datastore.Tx) error { return tx.Put(filepath.Join("a", "b"), []byte("c")) })
	write := time.Since(start).Seconds()
	return values{"sealane": median(took[overlayNetwork]), "bridge + a write": median(took[bridgeNetwork]) + write}, err
}

func (p *overlayPair) close() error {
	var errs []error
	for i := len(p.cleanup) - 1; i >= 0; i-- {
		errs = append(errs, p.cleanup[i]())
	}
	return errors.Join(errs...)
}
