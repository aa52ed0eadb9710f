package docker_test

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/docker"
)

// work is what was asked of stores, kernel and firewall, by kind.
type work struct {
	mu   sync.Mutex // guards done
	done map[string]int
}

func (w *work) add(kind string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done == nil {
		w.done = map[string]int{}
	}
	w.done[kind] += n
}

// deed is a fake's Fault that lets everything pass. Of "host: ip link add sv1a…" the names are left out.
func (w *work) deed(deed string) error {
	for _, step := range strings.Split(deed, " && ") {
		words := strings.Fields(step)
		w.add(strings.Join(words[:min(len(words), 4)], " "), 1)
	}
	return nil
}

// since is what was done since the last call.
func (w *work) since() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.done
	w.done = nil
	return was
}

// counted is a store whose work is noted: records read one by one and by lists, written, and commits.
type counted struct {
	datastore.Store
	name string
	*work
}

func (c counted) View(ctx context.Context, fn func(datastore.Tx) error) error {
	return c.Store.View(ctx, func(tx datastore.Tx) error { return fn(countedTx{tx, c}) })
}

func (c counted) Update(ctx context.Context, fn func(datastore.Tx) error) error {
	c.add(c.name+" commits", 1)
	return c.Store.Update(ctx, func(tx datastore.Tx) error { return fn(countedTx{tx, c}) })
}

type countedTx struct {
	datastore.Tx
	counted
}

func (t countedTx) Get(key string) ([]byte, error) {
	t.add(t.name+" records read", 1)
	return t.Tx.Get(key)
}

func (t countedTx) List(dir string) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for name, value := range t.Tx.List(dir) {
			if t.add(t.name+" records listed", 1); !yield(name, value) {
				return
			}
		}
	}
}

func (t countedTx) Put(key string, value []byte) error {
	t.add(t.name+" records written", 1)
	t.add("bytes", len(value))
	return t.Tx.Put(key, value)
}

func (t countedTx) Delete(key string) error {
	t.add(t.name+" records deleted", 1)
	return t.Tx.Delete(key)
}

// What an endpoint's verbs ask of stores, kernel and firewall does not grow with the number of endpoints: the thousandth of one client reads,
// writes and does what the first did.
func TestThousandthEndpoint(t *testing.T) {
	verbs := func(beside int) map[string]map[string]int {
		var w work
		e := newEngine(t, docker.Options{Run: counted{datastore.NewMemory(), "run", &w}, Root: counted{datastore.NewMemory(), "root", &w}})
		e.kernel.Fault, e.walls.Fault = w.deed, w.deed
		pool, _ := e.network("n1")
		for i := range beside {
			e.endpoint("n1", fmt.Sprintf("e%04d", i), pool)
		}
		done := map[string]map[string]int{}
		const named = `{"NetworkID": "n1", "EndpointID": "last"`
		step := func(verb, rest, field string) string {
			w.since()
			said := e.must("/"+verb, rest, field)
			_, verb, _ = strings.Cut(verb, ".")
			done[verb] = w.since()
			return said
		}
		address := step("IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q}`, pool), "Address")
		step("NetworkDriver.CreateEndpoint", fmt.Sprintf(named+`, "Interface": {"Address": %q}}`, address), "")
		step("NetworkDriver.Join", named+`, "SandboxKey": "/var/run/docker/netns/last"}`, "")
		step("NetworkDriver.ProgramExternalConnectivity", named+`, "Options": {"com.docker.network.portmap": [{"Proto": 6, "Port": 80}]}}`, "")
		step("NetworkDriver.EndpointOperInfo", named+"}", "")
		step("NetworkDriver.RevokeExternalConnectivity", named+"}", "")
		step("NetworkDriver.Leave", named+"}", "")
		step("NetworkDriver.DeleteEndpoint", named+"}", "")
		address, _, _ = strings.Cut(address, "/")
		step("IpamDriver.ReleaseAddress", fmt.Sprintf(`{"PoolID": %q, "Address": %q}`, pool, address), "")
		return done
	}
	few, many := verbs(1), verbs(999)
	for verb, first := range few {
		last := many[verb]
		bytes, grown := first["bytes"], last["bytes"]-first["bytes"]
		delete(first, "bytes")
		delete(last, "bytes")
		for _, w := range []map[string]int{first, last} {
			delete(w, "forget") // in the background, after one verb or during the next
		}
		if !maps.Equal(first, last) || grown*10 > bytes { // an address may have more digits
			t.Errorf("%s does %v and writes %d bytes at first, and %v and %d beside 999", verb, first, bytes, last, bytes+grown)
		}
		t.Logf("%s: %v, %d bytes", verb, first, bytes)
	}
	if join := few["Join"]; join["host: ip link add"] == 0 || join["run records written"] == 0 || few["ProgramExternalConnectivity"]["apply"] == 0 {
		t.Errorf("what verbs do is not seen: %v", few)
	}
}
