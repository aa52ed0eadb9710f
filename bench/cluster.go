package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/consul"
	"github.com/sealane/sealane/datastore/etcd"
	"github.com/sealane/sealane/datastore/storetest"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nshost"
	"github.com/sealane/sealane/internal/servertest"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
	"github.com/sealane/sealane/sandbox/sandboxtest"
)

// clusterRows measures what hosts have to do with each other by way of a real server, of either store: how soon one can use what another made
// (the floor is the store's own time from a write to its watch), and what watches bring to each of ten hosts and of a hundred; and, of any
// store, what it takes to program many peers.
func clusterRows(*bench) (measure, error) {
	return func() (rows []row, err error) {
		for _, kind := range []servertest.Kind{servertest.Consul, servertest.Etcd} {
			err := withServer(kind, func(t testing.TB, server *servertest.Server) error {
				usable, err := usableRows(t, server, kind)
				rows = append(append(rows, usable...), trafficRows(t, server, kind)...)
				return err
			})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind, err)
			}
		}
		took, err := thousandPeers()
		return append(rows, row{work: "cluster: 1,000 remote peers in one batch", runs: []values{{"sealane": took}}, goals: []goal{under(0.1, "< 100 ms")}}), err
	}, nil
}

// withServer runs do once beside a server. Tests have the same; what it wants of a test, a benchmark has too.
func withServer(kind servertest.Kind, do func(testing.TB, *servertest.Server) error) error {
	err := errors.New("it does not start, or gave no answer: is it installed? `make servers` does that")
	begun := false
	testing.Init()
	testing.Benchmark(func(b *testing.B) {
		if begun {
			return
		}
		begun = true
		err = do(b, servertest.One(b, kind, servertest.Options{}).Servers[0])
	})
	return err
}

// client opens a store at a server; it is closed with t.
func client(t testing.TB, kind servertest.Kind, endpoints []string, prefix string, dial storetest.Dial) (s datastore.Store, err error) {
	const patience = 20 * time.Second // of a machine that has a hundred hosts to serve
	if kind == servertest.Consul {
		s, err = consul.Open(consul.Options{Addresses: endpoints, Prefix: prefix, Dial: dial, Timeout: patience})
	} else {
		s, err = etcd.Open(etcd.Options{Endpoints: endpoints, Prefix: prefix, Dial: dial, Timeout: patience})
	}
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	return s, err
}

// usableRows makes endpoints on one host and waits until the kernel of the other knows them, in turns with the store's own echo. The time
// is from the call until both hosts are done: the endpoint is made, and joined.
func usableRows(t testing.TB, server *servertest.Server, kind servertest.Kind) (rows []row, err error) {
	const times = 200
	open := func() (datastore.Store, error) {
		return client(t, kind, []string{server.Endpoint()}, "across", server.Host.DialContext)
	}
	p := &overlayPair{}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.share(open); err != nil {
		return nil, err
	}
	learnt, err := p.learnt()
	if err != nil {
		return nil, err
	}
	defer learnt.Close()
	echo, err := newEcho(t.Context(), open)
	if err != nil {
		return nil, err
	}
	var known, usable, told []time.Duration
	for i := range times {
		took, err := echo.Took(t.Context())
		if err != nil {
			return nil, err
		}
		there, both, err := p.usable(fmt.Sprint("web", i), learnt)
		if err != nil {
			return nil, err
		}
		told, known, usable = append(told, took), append(known, there), append(usable, both)
	}
	worst := func(all []time.Duration) float64 { return slices.Sorted(slices.Values(all))[len(all)*99/100].Seconds() }
	half := func(all []time.Duration) float64 { return median(seconds(all)) }
	return []row{
		{work: fmt.Sprintf("cluster: in another host's kernel, %s", kind), runs: []values{{"sealane": half(known), "floor": half(told)}}},
		{work: fmt.Sprintf("cluster: in another host's kernel, 99th of 100, %s", kind), runs: []values{{"sealane": worst(known), "floor": worst(told)}}},
		{work: fmt.Sprintf("cluster: usable on another host, %s", kind), runs: []values{{"sealane": half(usable), "floor": half(told)}}},
		{work: fmt.Sprintf("cluster: usable on another host, 99th of 100, %s", kind), runs: []values{{"sealane": worst(usable), "floor": worst(told)}},
			goals: []goal{atMost(3, "floor", "≤ 3 × write to watch")}},
	}, nil
}

func newEcho(ctx context.Context, open func() (datastore.Store, error)) (*storetest.Echo, error) {
	writer, err := open()
	if err != nil {
		return nil, err
	}
	watcher, err := open()
	if err != nil {
		return nil, err
	}
	return storetest.NewEcho(ctx, writer, watcher)
}

// learnt listens to what the overlay comes to know on the second host.
func (p *overlayPair) learnt() (*nshost.Neighbours, error) {
	second := p.hosts[1]
	n, err := second.control.Network(context.Background(), overlayNetwork)
	if err != nil {
		return nil, err
	}
	inside, err := nshost.At(filepath.Join(second.run, "netns", string(n.ID())))
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	return inside.Neighbours()
}

// usable is how long it takes to make an endpoint on the first host until the second knows it, and until it is joined as well.
func (p *overlayPair) usable(name string, learnt *nshost.Neighbours) (known, usable time.Duration, err error) {
	ctx, first := context.Background(), p.hosts[0]
	n, err := first.control.Network(ctx, overlayNetwork)
	if err != nil {
		return 0, 0, err
	}
	sb, err := first.control.CreateSandbox(ctx, sandbox.Spec{Name: name})
	if err != nil {
		return 0, 0, err
	}
	p.cleanup = append(p.cleanup, func() error { return sb.Delete(ctx) })
	begin := time.Now()
	ep, err := n.CreateEndpoint(ctx, endpoint.Spec{Name: name, For: sb.ID()})
	if err != nil {
		return 0, 0, err
	}
	info, err := ep.Info(ctx)
	if err != nil {
		return 0, 0, err
	}
	var there errgroup.Group
	there.Go(func() error {
		err := learnt.Await(info.MAC)
		known = time.Since(begin)
		return err
	})
	err = ep.Join(ctx, sb)
	err = errors.Join(err, there.Wait())
	return known, time.Since(begin), err
}

// trafficRows has hosts of five watch what a daemon watches, and make endpoints.
func trafficRows(t testing.TB, server *servertest.Server, kind servertest.Kind) []row {
	open := func(t testing.TB, endpoints []string, prefix string, dial storetest.Dial) datastore.Store {
		s, err := client(t, kind, endpoints, prefix, dial)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	few := float64(storetest.Traffic(t, server, open, 10))
	many := float64(storetest.Traffic(t, server, open, 100))
	return []row{
		{work: fmt.Sprintf("cluster: what watches bring to one of 10 hosts, %s", kind), unit: bytes, runs: []values{{"sealane": few}}},
		{work: fmt.Sprintf("cluster: what watches bring to one of 100 hosts, %s", kind), unit: bytes, runs: []values{{"sealane": many, "of 10": few}},
			goals: []goal{atMost(2, "of 10", "≤ 2 × of 10")}},
	}
}

// thousandPeers programs and removes them a few times.
func thousandPeers() (took float64, err error) {
	const peers, rounds = 1000, 10
	host, err := nshost.New()
	if err != nil {
		return 0, err
	}
	defer host.Close()
	if err := host.Raise("lo", netip.MustParsePrefix("192.0.2.1/32")); err != nil { // where the tunnel ends
		return 0, err
	}
	run, err := os.MkdirTemp("/dev/shm", "sealane-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(run)
	spaces, err := netns.New(netns.Options{Host: host.Path(), Run: run})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, spaces.Drain(context.Background()), spaces.Close()) }()
	return peersIn(spaces, sandboxtest.Tunnel(peers), rounds)
}

// peersIn is the median of several times in a network's own namespace.
func peersIn(spaces *netns.Provider, want sandbox.Config, rounds int) (float64, error) {
	const owner = "net/1"
	ctx, none, id := context.Background(), sandboxtest.Tunnel(0), strings.Repeat("1", 64)
	space, err := spaces.Create(ctx, id)
	if err == nil {
		_, err = space.Apply(ctx, owner, sandbox.Config{}, none)
	}
	var took []float64
	for range rounds {
		if err != nil {
			break
		}
		begin := time.Now()
		if _, err = space.Apply(ctx, owner, none, want); err == nil {
			took = append(took, time.Since(begin).Seconds())
			_, err = space.Apply(ctx, owner, want, none)
		}
	}
	return median(took), errors.Join(err, spaces.Remove(ctx, id))
}
