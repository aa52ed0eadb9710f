package storetest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

// In WatchTraffic a network has members hosts and a host is on networks of them, whatever the number of hosts.
const (
	members  = 5
	networks = 2
	creates  = 4 // endpoints that each host makes on each of its networks
)

// WatchTraffic shows that what watches bring to a host grows with its own networks and not with the cluster: so many bytes a host with few
// hosts, and at most twice as many with many hosts. Both are multiples of 5. Each host watches what a daemon watches: the hosts, its own
// mailbox and the endpoints of its networks, and makes endpoints.
func WatchTraffic(t *testing.T, kind servertest.Kind, open OpenAt, few, many int) {
	nstest.MustNotLeak(t)
	server := servertest.One(t, kind, servertest.Options{}).Servers[0]
	small := Traffic(t, server, open, few)
	large := Traffic(t, server, open, many)
	if large > 2*small {
		t.Errorf("%d bytes a host among %d hosts, %d among %d: it grows with the cluster", small, few, large, many)
	}
}

// Traffic is how many bytes came to the host that got the most, what was said of its own writes among them.
func Traffic(t testing.TB, server *servertest.Server, open OpenAt, hosts int) int64 {
	t.Helper()
	prefix := "traffic/" + strconv.Itoa(hosts)
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	writer := open(t, []string{server.Endpoint()}, prefix, server.Host.DialContext)
	for h := range hosts {
		put(t, writer, datastore.Key("host", strconv.Itoa(h)), record())
		mailbox := datastore.Key("look", strconv.Itoa(h)) // opened, as a daemon does: nobody wrote in it yet
		update(t, writer, func(tx datastore.Tx) error { return tx.Delete(mailbox + "/" + strconv.Itoa(h)) })
	}
	wires, stores := make([]*Wire, hosts), make([]datastore.Store, hosts)
	var watching, ready sync.WaitGroup
	seen := make(chan struct{})
	for h := range hosts {
		wires[h] = NewWire(server.Host.DialContext)
		s := open(t, []string{server.Endpoint()}, prefix, wires[h].Dial)
		stores[h] = s
		follow := func(dir string, seen chan<- struct{}) {
			ready.Add(1)
			watching.Go(func() { gather(ctx, s, dir, ready.Done, seen) })
		}
		follow("host", nil)
		follow(datastore.Key("look", strconv.Itoa(h)), nil)
		for n := range networks {
			follow(network(h, n), seen)
		}
	}
	ready.Wait()
	for _, w := range wires {
		w.Received.Store(0)
	}
	start, made := time.Now(), 0
	for i := range creates {
		for h := range hosts {
			for n := range networks {
				put(t, stores[h], fmt.Sprintf("%s/%d-%d", network(h, n), h, i), record())
				made++
				for range members { // one after the other, so that no two changes come in one batch
					await(t, ctx, seen)
				}
			}
		}
	}
	took := time.Since(start)
	var most int64
	for _, w := range wires {
		most = max(most, w.Received.Load())
	}
	cancel()
	watching.Wait()
	t.Logf("%d hosts, %d networks, %d endpoints: watches brought at most %d bytes to a host; from a write until all hosts of the network saw it %v",
		hosts, hosts*networks/members, made, most, (took / time.Duration(made)).Round(10*time.Microsecond))
	return most
}

func await(t testing.TB, ctx context.Context, seen <-chan struct{}) {
	t.Helper()
	select {
	case <-seen:
	case <-ctx.Done():
		t.Fatal("a watch did not see a change")
	}
}

// record is 400 bytes that cannot be packed much, as ids and addresses cannot.
func record() string {
	b := make([]byte, 200)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// network is the directory of the nth network of a host.
func network(host, n int) string {
	return datastore.Key("ep", fmt.Sprintf("net%d-%d", host/members, n))
}

// gather follows a directory, and says when it is read, and each record that appears.
func gather(ctx context.Context, s datastore.Store, dir string, ready func(), seen chan<- struct{}) {
	first := sync.OnceFunc(ready)
	defer first()
	for b := range s.Watch(ctx, dir) {
		for range b.Put {
			if seen == nil {
				break
			}
			select {
			case seen <- struct{}{}:
			case <-ctx.Done():
			}
		}
		first()
	}
}
