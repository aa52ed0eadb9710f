package consul_test

import (
	"flag"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/consul"
	"github.com/sealane/sealane/datastore/storetest"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

var hosts = flag.Int("hosts", 20, "how many hosts TestWatchTraffic compares with ten")

func TestStore(t *testing.T) {
	nstest.MustNotLeak(t)
	server := servertest.One(t, servertest.Consul, servertest.Options{}).Servers[0]
	var prefixes atomic.Int64
	storetest.Run(t, func(t testing.TB) (a, b datastore.Store) {
		prefix := "test/" + strconv.FormatInt(prefixes.Add(1), 10)
		return open(t, server, consul.Options{Prefix: prefix}), open(t, server, consul.Options{Prefix: prefix})
	})
}

func TestServers(t *testing.T) {
	storetest.RunServers(t, servertest.Consul, openShort)
}

func TestWatchTraffic(t *testing.T) {
	storetest.WatchTraffic(t, servertest.Consul, func(t testing.TB, endpoints []string, prefix string, dial storetest.Dial) datastore.Store {
		return openAt(t, endpoints, consul.Options{Prefix: prefix, Dial: dial, Timeout: 20 * time.Second})
	}, 10, *hosts)
}

// openShort opens a store that waits three seconds for an answer.
func openShort(t testing.TB, endpoints []string, prefix string, dial storetest.Dial) datastore.Store {
	return openAt(t, endpoints, consul.Options{Prefix: prefix, Dial: dial, Timeout: 3 * time.Second})
}

func open(t testing.TB, server *servertest.Server, o consul.Options) *consul.Store {
	t.Helper()
	o.Dial = server.Host.DialContext
	return openAt(t, []string{server.Endpoint()}, o)
}

func openAt(t testing.TB, endpoints []string, o consul.Options) *consul.Store {
	t.Helper()
	o.Addresses = endpoints
	s, err := consul.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
