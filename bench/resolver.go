package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/holder"
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

const holdVerb, holderSocket = "hold", oursDir + "/resolver.sock"

// dismiss ends the process that keeps sockets, which ends with its file, if there is one.
func dismiss() error {
	if err := os.Remove(holderSocket); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// newRooms opens them. The process that keeps their sockets is this program too; dismiss ends it.
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
	r.resolver, err = room.New(room.Options{
		Keeper: holder.NewProcess(holderSocket, "/proc/self/exe", holdVerb, holderSocket),
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

// Names that are told before others are measured.
const fewNames, manyNames = 100, 10000

// resolverRows measure what names cost besides answering.
func resolverRows(b *bench) (measure, error) {
	return func() ([]row, error) {
		defer b.stopAll() // memory is not given back well: each run has fresh processes
		var children []*child
		for range 2 {
			c, err := b.start(Mode{Names: true}, "sealane")
			if err != nil || len(c) == 0 {
				return nil, err
			}
			children = append(children, c...)
		}
		few, many := children[0], children[1]
		given, err := few.do(order{Do: "give", N: 20 * b.rounds})
		if err != nil {
			return nil, err
		}
		rows, err := b.manyRows(few, many)
		give := row{work: "give a sandbox its resolver", runs: []values{{"sealane": median(seconds(given.Each))}}, goals: []goal{under(200e-6, "≤ 200 µs")}}
		return append([]row{give}, rows...), err
	}, nil
}

// floodRows are what a name takes beside a flood. Bare loops show what of it is the kernel's scheduler, since that one of theirs that is flooded
// is another thread.
func floodRows(b *bench) (measure, error) {
	children, err := b.start(Mode{Names: true}, "floor", "sealane")
	if err != nil {
		return nil, err
	}
	const questions = 2000
	return func() ([]row, error) {
		rounds := map[string]map[string][]float64{"ask": {}, "flooded": {}}
		for range b.rounds {
			for do, of := range rounds {
				for _, c := range children {
					r, err := c.do(order{Do: do, N: questions})
					if err != nil {
						return nil, err
					}
					of[c.name] = append(of[c.name], p99(seconds(r.Each)))
				}
			}
		}
		alone, flooded := best(rounds["ask"]), best(rounds["flooded"])
		flooded["alone"] = alone["sealane"]
		return []row{
			{work: "p99 of a name", runs: []values{alone}},
			{work: "p99 of a name while another sandbox floods", runs: []values{flooded}, goals: []goal{atMost(2, "alone", "≤ 2 × alone")}},
		}, nil
	}, nil
}

// manyRows have one tell few names and one many, and ask both in turn.
func (b *bench) manyRows(few, many *child) ([]row, error) {
	const questions = 2000
	const like = "with few"
	resident := func() (float64, error) {
		r, err := many.do(order{Do: "usage"})
		return float64(r.Usage.Resident), err
	}
	told := make(values)
	first, err := few.do(order{Do: "tell", N: fewNames})
	if err != nil {
		return nil, err
	}
	told[like] = bestOf(first.Each)
	if _, err := many.do(order{Do: "tell", N: fewNames}); err != nil {
		return nil, err
	}
	before, err := resident()
	if err != nil {
		return nil, err
	}
	rest, err := many.do(order{Do: "tell", N: manyNames - fewNames})
	if err != nil {
		return nil, err
	}
	told["sealane"] = bestOf(rest.Each[len(rest.Each)-fewNames:])
	after, err := resident()
	if err != nil {
		return nil, err
	}
	rounds := map[string][]float64{}
	for range b.rounds {
		for who, c := range map[string]*child{like: few, "sealane": many} {
			r, err := c.do(order{Do: "ask", N: questions})
			if err != nil {
				return nil, err
			}
			rounds[who] = append(rounds[who], median(seconds(r.Each)))
		}
	}
	flat := func(times float64) []goal {
		return []goal{atMost(times, like, fmt.Sprintf("≤ %g × of %d", times, fewNames))}
	}
	return []row{
		{work: fmt.Sprintf("tell a name beside %d", fewNames), runs: []values{{"sealane": told[like]}}},
		{work: fmt.Sprintf("tell a name beside %d", manyNames), runs: []values{told}, goals: flat(2)}, // what is told is in no cache then
		{work: fmt.Sprintf("a name of %d, one outstanding", manyNames), runs: []values{best(rounds)}, goals: flat(1.2)},
		{work: fmt.Sprintf("resident memory of a name, of %d", manyNames), unit: bytes,
			runs: []values{{"sealane": (after - before) / (manyNames - fewNames)}}, goals: []goal{under(2<<10, "≤ 2 KB")}},
	}, nil
}

// best is the least of all rounds: where processes are put by the kernel's scheduler, together or apart, makes a name take three times as long
// for a round or two, whoever answers.
func best(rounds map[string][]float64) values {
	v := make(values)
	for who, list := range rounds {
		v[who] = slices.Min(list)
	}
	return v
}

// bestOf is the least median of any twenty in a row.
func bestOf(each []time.Duration) float64 {
	least := math.Inf(1)
	for some := range slices.Chunk(each, 20) {
		least = min(least, median(seconds(some)))
	}
	return least
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
