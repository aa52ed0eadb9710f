package sealane_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// split is five hosts on three servers, the leader of which is cut off from the others: two hosts are with it, three with the rest. Of these
// one knows a single server.
type split struct {
	t       *testing.T
	servers *servertest.Cluster
	lan     *nstest.LAN // of the servers alone
	minor   *servertest.Server
	fleet   []*world
}

const minority = 2 // hosts

func newSplit(t *testing.T, kind servertest.Kind) *split {
	var hosts []*nstest.Host
	for i := range 3 {
		hosts = append(hosts, nstest.New(t, fmt.Sprint("server", i+1)))
	}
	s := &split{t: t, lan: nstest.NewLAN(t, prefix("198.51.100.0/24"), hosts...)}
	var nodes []servertest.Node
	for _, h := range hosts {
		nodes = append(nodes, servertest.Node{Host: h, Addr: s.lan.Addr(h)})
	}
	s.servers = servertest.Start(t, kind, servertest.Options{}, nodes...)
	s.minor = s.servers.Leader()
	at := slices.Index(s.servers.Servers, s.minor)
	s.fleet = newFleet(t, 5, func(host int) datastore.Store {
		other := (at + 1 + host%2) % 3
		switch {
		case host < minority:
			return openAt(t, s.servers, at, "split")
		case host == minority:
			return openFrom(t, s.servers, other, "split", s.servers.Servers[other].Endpoint())
		}
		return openAt(t, s.servers, other, "split")
	})
	return s
}

// attach is container that may fail.
func (w *world) attach(network, name string, addresses ...netip.Prefix) (*container, error) {
	ctx := w.t.Context()
	n, err := w.Network(ctx, network)
	if err != nil {
		return nil, err
	}
	c := w.sandbox(sandbox.Spec{Name: name})
	ep, err := n.CreateEndpoint(ctx, endpoint.Spec{Name: name, For: c.ID(), Addresses: addresses})
	if err == nil {
		err = ep.Join(ctx, c)
	}
	c.endpoints = append(c.endpoints, ep)
	return c, err
}

// churn is what a host does while it is cut off, or others are: it makes ten containers, one of a name that all want, one at an address
// that all want, removes one, and makes a network of a name and number that all want.
func (s *split) churn(at int, first *container) {
	w, t := s.fleet[at], s.t
	for k := range 10 {
		if _, err := w.attach("blue", fmt.Sprintf("c%d-%d", at, k)); err != nil {
			t.Errorf("%s: %v", w.host.Name, err)
		}
	}
	if err := first.Delete(t.Context()); err != nil {
		t.Errorf("%s: %v", w.host.Name, err)
	}
	_, err := w.attach("blue", "web")
	if err != nil && !errdefs.IsAlreadyExists(err) {
		t.Errorf("%s: web: %v", w.host.Name, err)
	}
	may := func(what string, err error) {
		t.Helper()
		switch {
		case at < minority && !errdefs.IsUnavailable(err), at >= minority && err != nil && !errdefs.IsAlreadyExists(err):
			t.Errorf("%s: %s: %v", w.host.Name, what, err)
		}
	}
	may("a static address", s.insist(at, func(try int) error {
		_, err := w.attach("blue", fmt.Sprintf("static%d-%d", at, try), prefix("10.9.255.7/16"))
		return err
	}))
	may("a network", s.insist(at, func(int) error {
		_, err := w.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: "red", Driver: "overlay", Options: map[string]string{"vni": "777"}})
		return err
	}))
}

// insist asks again where the others are: what was asked of the server at the moment when it was cut off has no answer.
func (s *split) insist(at int, ask func(try int) error) (err error) {
	const tries = 5
	for try := range tries {
		if err = ask(try); at < minority || !errdefs.IsUnavailable(err) && !datastore.IsUncertain(err) {
			break
		}
	}
	return err
}

// blue is who is where, as the hosts themselves say.
func (s *split) blue() *domain {
	d := &domain{name: "blue", Network: s.fleet[0].named("blue")}
	for at, w := range s.fleet {
		for e, err := range w.named("blue").Endpoints(s.t.Context()) {
			if err != nil {
				s.t.Fatal(err)
			}
			d.residents = append(d.residents, &resident{name: e.Spec.Name, on: d, at: at, addresses: e.Addresses, mac: e.MAC})
		}
	}
	return d
}

// Two of five hosts are with a server that is cut off, the leader until then. Both sides make and remove endpoints. Healed, no address,
// number or name is there twice, every kernel has what it must, without waiting for the server, and of what containers say to each other all the while,
// within a side and across, nothing is lost.
func TestSplitServers(t *testing.T) {
	nstest.MustNotLeak(t)
	for _, kind := range []servertest.Kind{servertest.Consul, servertest.Etcd} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel() // most of it is waiting
			s := newSplit(t, kind)
			s.fleet[4].network(sealane.NetworkSpec{Name: "blue", Driver: "overlay", Scope: netdriver.Global, IPAM: subnets("10.9.0.0/16")})
			var firsts, talkers []*container
			for at, w := range s.fleet {
				for _, c := range []struct {
					all  *[]*container
					name string
				}{{&firsts, "first"}, {&talkers, "talker"}} {
					made, err := w.attach("blue", fmt.Sprint(c.name, at))
					if err != nil {
						t.Fatalf("%s: %v", w.host.Name, err)
					}
					*c.all = append(*c.all, made)
				}
			}
			s.blue().converges(t, s.fleet)
			var streams []*nstest.Stream
			for _, c := range talkers {
				c.as().Echo("7")
			}
			for _, pair := range [][2]int{{0, 1}, {2, 3}, {1, 4}, {3, 0}} {
				streams = append(streams, talkers[pair[0]].as().Stream("udp", netip.AddrPortFrom(talkers[pair[1]].address(false), 7).String()))
			}
			s.lan.Cut(s.minor.Host)
			s.servers.Leader(s.minor)
			var all sync.WaitGroup
			for at := range s.fleet {
				all.Go(func() { s.churn(at, firsts[at]) })
			}
			all.Wait()
			s.lan.Heal()
			began := time.Now()
			var wrong string
			nstest.Eventually(t, "all kernels are right", func() bool {
				d := s.blue()
				wrong = d.isRight(s.fleet)
				return wrong == "" && len(d.residents) == s.published(d.ID())
			})
			took := time.Since(began)
			s.minor.WaitReady()
			t.Logf("healed: all hosts agree after %v, the server that was cut off is ready after %v", took.Round(time.Millisecond),
				time.Since(began).Round(time.Millisecond))
			nstest.Within(t, "agreeing", took, 15*time.Second) // 5 s, where the machine has nothing else to do
			nothingTwice(t, s.controllers())
			nstest.EndAll(t, streams)
			if red, err := s.fleet[0].Network(t.Context(), "red"); err != nil {
				t.Error(err)
			} else if err := red.Delete(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func (s *split) controllers() map[string]*sealane.Controller {
	all := map[string]*sealane.Controller{}
	for _, w := range s.fleet {
		all[w.host.Name] = w.Controller
	}
	return all
}

// published counts what the store has of a network's endpoints.
func (s *split) published(id endpoint.NetworkID) (n int) {
	for _, err := range s.fleet[0].Published(context.Background(), id) {
		if err != nil {
			return -1
		}
		n++
	}
	return n
}
