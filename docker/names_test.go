package docker_test

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealane/sealane/docker"
	"github.com/sealane/sealane/internal/nstest"
)

// told is an engine that tells of containers, and whose listeners can be cut off.
type told struct {
	list
	mu         sync.Mutex
	containers map[string]docker.EngineContainer
	listening  chan chan string // of each listener, what changed; closed: it is cut off
}

func (e *told) Container(_ context.Context, id string) (docker.EngineContainer, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.containers[id], nil
}

func (e *told) Changes(ctx context.Context, _ string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		changed := make(chan string)
		select {
		case e.listening <- changed:
		case <-ctx.Done():
			return
		}
		for more := yield("", nil); more; {
			select {
			case id, ok := <-changed:
				if !ok {
					yield("", errors.New("cut off"))
					return
				}
				more = yield(id, nil)
			case <-ctx.Done():
				return
			}
		}
	}
}

// calls says what an endpoint of the engine's is called.
func (e *told) calls(container, network, endpoint string, names ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[container] = docker.EngineContainer{Ends: []docker.EngineEnd{{Network: network, Endpoint: endpoint, Names: names}}}
}

// aliases are those of the endpoint with an address.
func (e *engine) aliases(address string) []string {
	e.t.Helper()
	for n, err := range e.ctl.Networks(e.t.Context()) {
		if err != nil {
			e.t.Fatal(err)
		}
		h, err := e.ctl.Network(e.t.Context(), string(n.ID))
		if err != nil {
			e.t.Fatal(err)
		}
		for i, err := range h.Endpoints(e.t.Context()) {
			if err == nil && slices.Contains(i.Addresses, netip.MustParsePrefix(address)) {
				return i.Spec.Aliases
			}
		}
	}
	return nil
}

// Names come from a list and from changes, over engines that end, and go with the endpoint. What is no name is passed over.
func TestFollowNames(t *testing.T) {
	engine := &told{containers: map[string]docker.EngineContainer{}, listening: make(chan chan string)}
	e := newEngine(t, docker.Options{Engine: engine})
	pool, subnet := e.network("n")
	first, second := e.endpoint("n", "e1", pool), e.endpoint("n", "e2", pool)
	engine.networks = []docker.EngineNetwork{{ID: "n", Subnets: []netip.Prefix{netip.MustParsePrefix(subnet)}, Endpoints: map[string]docker.EngineEndpoint{
		"e1": {Container: "c1"}, "e9": {Container: "c9"}}}}
	engine.calls("c1", "n", "e1", "web", "*.apps", "a=b", "a b", "", "www", "web", "0123456789ab")
	engine.calls("c9", "n", "e9", "unknown")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); e.plugin.FollowNames(ctx) }()
	becomes := func(address string, want ...string) {
		t.Helper()
		nstest.Eventually(t, "the names of "+address, func() bool { return slices.Equal(e.aliases(address), want) })
	}
	changed := <-engine.listening
	becomes(first, "web", "www", "0123456789ab")
	engine.calls("c2", "n", "e2", "db")
	changed <- "c2"
	becomes(second, "db")
	close(changed)
	engine.calls("c1", "n", "e1", "neu") // told to nobody: the list says it
	changed = <-engine.listening
	becomes(first, "neu")
	e.must("/NetworkDriver.Leave", `{"NetworkID": "n", "EndpointID": "e1"}`, "")
	e.must("/NetworkDriver.DeleteEndpoint", `{"NetworkID": "n", "EndpointID": "e1"}`, "")
	changed <- "c1" // late
	engine.calls("c2", "n", "e2")
	changed <- "c2"
	becomes(second)
	stop()
	<-ended
}

// An engine's API is read as it is: the list, one container, and events, of which those of others are passed over.
func TestEngineAPI(t *testing.T) {
	var asked []string
	mux := http.NewServeMux()
	mux.HandleFunc("/containers/c1/json", func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(`{"Id": "0123456789abcdef", "Name": "/web", "Config": {"Hostname": "h", "Domainname": "example.org"}, "NetworkSettings": {"Networks": {
			"blue": {"NetworkID": "n1", "EndpointID": "e1", "Aliases": ["www"]}, "none": {"NetworkID": "n2", "EndpointID": ""}}}}`))
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery)
		for _, event := range []string{
			`{"Type": "network", "Action": "connect", "Actor": {"ID": "n1", "Attributes": {"container": "c1", "type": "sealane"}}}`,
			`{"Type": "network", "Action": "connect", "Actor": {"ID": "n2", "Attributes": {"container": "c2", "type": "bridge"}}}`,
			`{"Type": "network", "Action": "disconnect", "Actor": {"ID": "n1", "Attributes": {"container": "c3", "type": "sealane"}}}`, `{`,
			`{"Type": "container", "Action": "rename", "Actor": {"ID": "c4", "Attributes": {}}}`,
		} {
			w.Write([]byte(event + "\n"))
		}
	})
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	engine, err := docker.NewEngine("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	c, err := engine.Container(t.Context(), "c1")
	want := docker.EngineContainer{Ends: []docker.EngineEnd{{Network: "n1", Endpoint: "e1", Names: []string{"web", "www", "0123456789ab", "h", "h.example.org"}}}}
	if diff := cmp.Diff(want, c); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
	var ids []string
	var last error
	for id, err := range engine.Changes(t.Context(), "sealane") {
		ids, last = append(ids, id), err
	}
	if want := []string{"", "c1", "c4", ""}; !slices.Equal(ids, want) || last == nil {
		t.Errorf("changes %q, want %q, and then %v", ids, want, last)
	}
	if len(asked) != 1 || !strings.Contains(asked[0], "since=") {
		t.Errorf("asked %q", asked)
	}
}

// What an engine tells is read without a panic, and a container's names stay those of one container.
func FuzzEngine(f *testing.F) {
	f.Add([]byte(`{"Type": "network", "Action": "connect", "Actor": {"ID": "n1", "Attributes": {"container": "c1", "type": "sealane"}}}`))
	f.Add([]byte(`{"Id": "0123456789abcdef", "Name": "/web", "NetworkSettings": {"Networks": {"blue": {"NetworkID": "n1", "EndpointID": "e1"}}}}`))
	f.Add([]byte(`{"Id": "n1", "IPAM": {"Config": [{"Subnet": "10.0.0.0/8"}]}, "Containers": {"c": {"EndpointID": "e", "IPv4Address": "10.0.0.2/8"}}}`))
	f.Fuzz(func(t *testing.T, told []byte) {
		docker.ReadEvent(told, "sealane")
		for _, e := range docker.ReadContainer(told).Ends {
			if e.Endpoint == "" || !json.Valid(told) {
				t.Errorf("%+v of %s", e, told)
			}
		}
		for _, s := range docker.ReadNetwork(told).Subnets {
			if !s.IsValid() || s != s.Masked() {
				t.Errorf("subnet %s of %s", s, told)
			}
		}
	})
}
