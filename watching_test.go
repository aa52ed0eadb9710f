package sealane_test

import (
	"flag"
	"fmt"
	"net/netip"
	"testing"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/consul"
	"github.com/sealane/sealane/datastore/storetest"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

// Issue 4 asks for ten hosts and a hundred: -hosts=100.
var manyHosts = flag.Int("hosts", 20, "hosts of the larger cluster whose watches are measured")

// What watches bring to a host grows with its own networks and not with the cluster: daemons as they are, on one Consul, of which the watches
// are the dearer. Each host has a network with two others and makes endpoints on it.
func TestWatchesGrowWithOwnNetworks(t *testing.T) {
	const few = 10
	server := servertest.One(t, servertest.Consul, servertest.Options{})
	small := watched(t, server, few)
	large := watched(t, server, *manyHosts)
	t.Logf("at most %d bytes a host among %d hosts, %d among %d", small, few, large, *manyHosts)
	if large > 2*small {
		t.Error("it grows with the cluster")
	}
}

// watched is how many bytes came to the host that got the most, while each host made endpoints. Its own calls are among them.
func watched(t *testing.T, c *servertest.Cluster, n int) (most int64) {
	const members, creates = 3, 5
	server := c.Servers[0]
	var hosts []*member
	wires := make([]*storetest.Wire, n)
	for i := range n {
		wires[i] = storetest.NewWire(server.Host.DialContext)
		s, err := consul.Open(consul.Options{Addresses: []string{server.Endpoint()}, Prefix: fmt.Sprint("watched/", n), Dial: wires[i].Dial})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		hosts = append(hosts, newMember(t, fmt.Sprint("h", i), netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), datastore.Store(s)))
		if err := hosts[i].start(); err != nil {
			t.Fatal(err)
		}
	}
	own := func(i int) string { return fmt.Sprint("net", i/members) }
	for i := 0; i < n; i += members {
		hosts[i].network(own(i), fmt.Sprintf("10.%d.0.0/16", i))
	}
	for i, h := range hosts { // the first endpoint brings a block of addresses
		nstest.Eventually(t, h.id+" sees "+own(i), func() bool { _, err := h.Network(t.Context(), own(i)); return err == nil })
		h.mustAttach(own(i), fmt.Sprint("first", i))
	}
	settled := func(each int) {
		for i, h := range hosts {
			others := min(n, i/members*members+members) - i/members*members - 1
			nstest.Eventually(t, h.id+" sees its peers", func() bool { return len(h.peers(own(i))) == each*others })
		}
	}
	settled(1)
	for _, w := range wires {
		w.Received.Store(0)
	}
	for k := range creates {
		for i, h := range hosts {
			h.mustAttach(own(i), fmt.Sprintf("box%d-%d", i, k))
		}
		settled(2 + k)
	}
	for _, w := range wires {
		most = max(most, w.Received.Load())
	}
	for _, h := range hosts {
		h.die()
	}
	return most
}
