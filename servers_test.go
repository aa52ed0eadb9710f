package sealane_test

import (
	"flag"
	"fmt"
	"slices"
	"testing"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/consul"
	"github.com/sealane/sealane/datastore/etcd"
	"github.com/sealane/sealane/internal/servertest"
)

// scenarios are what hosts agree on, whatever the store: the multi-host tests of libnetwork (networks and services seen, taken, used and
// removed from every host; the death of a host) and what goes beyond them.
var scenarios = []struct {
	name  string
	hosts int
	show  func(*testing.T, []*member)
}{
	{"SharedNetworkIsSeenByAll", 3, sharedNetworkIsSeenByAll},
	{"ChangesAndNamesReachTheOthers", 2, changesAndNamesReachTheOthers},
	{"RebootedAndUnreachableHosts", 3, rebootedAndUnreachableHosts},
	{"RemovedHost", 3, removedHost},
	{"ForgetEndpointOfDeadHost", 2, forgetEndpointOfDeadHost},
	{"ForgetEndpointOfLiveHost", 3, forgetEndpointOfLiveHost},
	{"StoreAway", 2, storeAway},
	{"OneOwnerWhoeverAsksAtOnce", 5, oneOwnerWhoeverAsksAtOnce},
	{"Partition", 5, partition},
	{"AttachTouchesTheStoreOnce", 2, attachTouchesTheStoreOnce},
	{"BlocksHoldTheNetwork", 3, blocksHoldTheNetwork},
	{"TwinsStartTogether", 1, twinsStartTogether},
	{"SameSubnetTwice", 2, sameSubnetTwice},
	{"ChosenIPv6", 3, chosenIPv6},
}

var servers = flag.Bool("servers", true, "run the scenarios on Consul and etcd too")

func TestScenariosOnServers(t *testing.T) {
	if !*servers {
		return
	}
	for _, kind := range []servertest.Kind{servertest.Consul, servertest.Etcd} {
		t.Run(fmt.Sprint(kind), func(t *testing.T) {
			server := servertest.One(t, kind, servertest.Options{})
			for _, s := range scenarios {
				t.Run(s.name, func(t *testing.T) {
					s.show(t, clusterOn(t, s.hosts, func(int) datastore.Store {
						return openAt(t, server, 0, "test/"+s.name)
					}))
				})
			}
		})
	}
}

// openAt opens a store by the servers of a cluster, one first, from where that is, and closes it with the test.
func openAt(t *testing.T, c *servertest.Cluster, server int, prefix string) datastore.Store {
	t.Helper()
	all := c.Endpoints()
	return openFrom(t, c, server, prefix, slices.Concat(all[server:], all[:server])...)
}

// openFrom opens a store by those servers of a cluster that are named.
func openFrom(t *testing.T, c *servertest.Cluster, server int, prefix string, endpoints ...string) datastore.Store {
	t.Helper()
	dial := c.Servers[server].Host.DialContext
	var s datastore.Store
	var err error
	if c.Kind == servertest.Consul {
		s, err = consul.Open(consul.Options{Addresses: endpoints, Prefix: prefix, Dial: dial})
	} else {
		s, err = etcd.Open(etcd.Options{Endpoints: endpoints, Prefix: prefix, Dial: dial})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
