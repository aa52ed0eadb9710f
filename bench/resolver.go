package main

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/holder"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/resolver"
	room "github.com/sealane/sealane/resolver/dns"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
)

// rooms are those that a daemon's names need, put together as it does.
type rooms struct {
	spaces   *netns.Provider
	walls    *nftables.Opener
	resolver *room.Resolver
}

const holdVerb = "hold"

// newRooms opens them. The process that keeps their sockets is this program too.
func newRooms(ready int) (r rooms, err error) {
	netlink := netns.Kind{Domain: unix.AF_NETLINK, Type: unix.SOCK_RAW, Protocol: unix.NETLINK_NETFILTER}
	r.spaces, err = netns.New(netns.Options{Run: oursDir, Ready: ready, Sockets: []netns.Kind{
		{Domain: unix.AF_INET, Type: unix.SOCK_DGRAM}, {Domain: unix.AF_INET, Type: unix.SOCK_STREAM}, netlink,
	}})
	if err != nil {
		return r, err
	}
	r.walls, err = nftables.New(nftables.Options{Socket: func(path string) (int, error) { return r.spaces.Socket(path, netlink) }})
	if err != nil {
		return r, err
	}
	const path = oursDir + "/resolver.sock"
	r.resolver, err = room.New(room.Options{
		Keeper: holder.NewProcess(path, "/proc/self/exe", holdVerb, path),
		Socket: func(path string, typ int) (int, error) {
			return r.spaces.Socket(path, netns.Kind{Domain: unix.AF_INET, Type: typ})
		},
	})
	return r, err
}

// give has the resolver answer in a new sandbox for what it is told of network b1, and says what that took.
func (r rooms) give(id string) (sandbox.Namespace, time.Duration, error) {
	ctx := context.Background()
	ns, err := r.spaces.Create(ctx, id)
	if err != nil {
		return nil, 0, err
	}
	began := time.Now()
	redirects, err := r.resolver.Set(ctx, ns, resolver.View{Sandbox: sandbox.ID(id), Zones: []endpoint.NetworkID{"b1"}})
	if err != nil {
		return nil, 0, err
	}
	wall, err := r.walls.Open(ctx, ns.Key())
	if err == nil {
		err = wall.Apply(ctx, []firewall.Change{{Owner: "sb/" + id, Want: firewall.Terms{Redirects: redirects}}})
	}
	if err == nil {
		err = wall.Close()
	}
	return ns, time.Since(began), err
}

// takeBack ends what give began.
func (r rooms) takeBack(ns sandbox.Namespace, id string) error {
	if err := r.resolver.Remove(context.Background(), sandbox.ID(id)); err != nil {
		return err
	}
	if err := ns.Close(); err != nil {
		return err
	}
	return r.spaces.Remove(context.Background(), id)
}

// Give gives n sandboxes their resolver, one after the other.
func (n *names) Give(times int) (each []time.Duration, err error) {
	for i := range times {
		id := fmt.Sprintf("%04x", i)
		ns, took, err := n.rooms.give(id)
		if err != nil {
			return nil, err
		}
		each = append(each, took)
		if err := n.rooms.takeBack(ns, id); err != nil {
			return nil, err
		}
	}
	return each, nil
}

// Tell tells so many more names, each by a call of its own.
func (n *names) Tell(more int) (each []time.Duration, err error) {
	for range more {
		n.told++
		p := endpoint.Published{ID: endpoint.ID(fmt.Sprint("e", n.told)), Name: fmt.Sprint("name", n.told),
			Addresses: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(2 + n.told>>16), byte(n.told >> 8), byte(n.told)}), 8)}}
		began := time.Now()
		if err := n.rooms.resolver.SetZone(context.Background(), "b1", resolver.Change{Name: "blue", Put: []endpoint.Published{p}}); err != nil {
			return nil, err
		}
		each = append(each, time.Since(began))
	}
	return each, nil
}

// Flooded is Ask, one outstanding, while another sandbox asks without waiting for answers.
func (n *names) Flooded(questions int) (each []time.Duration, err error) {
	const id = "f100d0"
	ns, _, err := n.rooms.give(id)
	if err != nil {
		return nil, err
	}
	defer n.rooms.takeBack(ns, id)
	question, err := ask().Pack()
	if err != nil {
		return nil, err
	}
	fd := -1
	err = nsthread.Do(ns.Key(), func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrInet4{Addr: n.at.Addr().As4(), Port: int(n.at.Port())})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		runtime.LockOSThread()
		defer unix.Close(fd)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Write(fd, question)
			}
		}
	}()
	each, _, err = n.Ask(questions, 1)
	close(stop)
	<-stopped
	return each, err
}

// resolverRows measure what names cost besides answering.
func resolverRows(b *bench) (measure, error) {
	const few, many, questions = 100, 10000, 5000
	return func() ([]row, error) {
		defer b.stopAll() // memory is not given back well: each run has fresh processes
		children, err := b.start(Mode{Names: true}, "sealane")
		if err != nil || len(children) == 0 {
			return nil, err
		}
		c := children[0]
		// The resident memory is asked for after what comes before and after each order.
		give := func(do string, n int) (each []float64, resident float64, err error) {
			r, err := c.do(order{Do: do, N: n})
			if err != nil {
				return nil, 0, err
			}
			u, err := c.do(order{Do: "usage"})
			return seconds(r.Each), float64(u.Usage.Resident), err
		}
		given, _, err := give("give", 20*b.rounds)
		if err != nil {
			return nil, err
		}
		alone, _, err := give("ask", questions)
		if err != nil {
			return nil, err
		}
		flooded, _, err := give("flooded", questions)
		if err != nil {
			return nil, err
		}
		var told, asked, memory [2]float64
		last := 0.0
		for i, n := range []int{few, many - few} {
			if _, last, err = give("tell", 0); err != nil {
				return nil, err
			}
			each, now, err := give("tell", n)
			if err != nil {
				return nil, err
			}
			answers, _, err := give("ask", questions)
			if err != nil {
				return nil, err
			}
			told[i], asked[i], memory[i] = median(each[len(each)-few:]), median(answers), (now-last)/float64(n)
		}
		const like = "with few"
		return []row{
			{work: "give a sandbox its resolver", runs: []values{{"sealane": median(given)}}, goals: []goal{under(200e-6, "≤ 200 µs")}},
			{work: "p99 of a name while another sandbox floods", runs: []values{{"sealane": p99(flooded), "alone": p99(alone)}},
				goals: []goal{atMost(2, "alone", "≤ 2 × alone")}},
			{work: fmt.Sprintf("tell a name beside %d", many), runs: []values{{"sealane": told[1], like: told[0]}},
				goals: []goal{atMost(1.2, like, fmt.Sprintf("≤ 1.2 × beside %d", few))}},
			{work: fmt.Sprintf("a name of %d, one outstanding", many), runs: []values{{"sealane": asked[1], like: asked[0]}},
				goals: []goal{atMost(1.2, like, fmt.Sprintf("≤ 1.2 × of %d", few))}},
			{work: fmt.Sprintf("resident memory of a name, of %d", many), unit: bytes, runs: []values{{"sealane": memory[1]}}, goals: []goal{under(2<<10, "≤ 2 KB")}},
		}, nil
	}, nil
}

func p99(list []float64) float64 {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[len(sorted)*99/100]
}

// namedRows attach to a network with names.
func namedRows(b *bench) (measure, error) {
	modes := []Mode{{Ports: 1, Resolver: true}, {Ports: 1, IPv6: true, Resolver: true}}
	var subjects [][]*child
	for _, mode := range modes {
		children, err := b.start(mode, "floor", "sealane")
		if err != nil {
			return nil, err
		}
		plain, err := b.start(Mode{Ports: 1, IPv6: mode.IPv6}, "sealane")
		if err != nil {
			return nil, err
		}
		for _, c := range plain {
			c.name = "without"
		}
		subjects = append(subjects, append(children, plain...))
	}
	return func() (rows []row, err error) {
		for i, mode := range modes {
			attach, _, err := b.turns(subjects[i])
			if err != nil {
				return nil, err
			}
			rows = append(rows, row{work: "attach with a port and names, " + mode.families(), runs: []values{attach},
				goals: []goal{atMostFloor(1.5), atMost(1.2, "without", "≤ 1.2 × without names")}})
		}
		return rows, nil
	}, nil
}
