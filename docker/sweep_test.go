package docker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/docker"
)

// must sends a request that is answered, and returns a field of the reply.
func (e *engine) must(path, body, field string) string {
	e.t.Helper()
	status, said := e.call(path, body)
	if status != 200 {
		e.t.Fatalf("%s %s: %d %v", path, body, status, said)
	}
	text, _ := said[field].(string)
	return text
}

// network asks for a pool and makes a network of it.
func (e *engine) network(id string) (poolID, pool string) {
	e.t.Helper()
	_, said := e.call("/IpamDriver.RequestPool", `{"AddressSpace": "local"}`)
	poolID, pool = said["PoolID"].(string), said["Pool"].(string)
	gateway := e.must("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q, "Options": {"RequestAddressType": "com.docker.network.gateway"}}`, poolID), "Address")
	e.must("/NetworkDriver.CreateNetwork", fmt.Sprintf(`{"NetworkID": %q, "Options": {"com.docker.network.generic": {}},
		"IPv4Data": [{"AddressSpace": "local", "Pool": %q, "Gateway": %q}]}`, id, pool, gateway), "")
	return poolID, pool
}

func (e *engine) endpoint(network, id, poolID string) (address string) {
	e.t.Helper()
	address = e.must("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q}`, poolID), "Address")
	e.must("/NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID": %q, "EndpointID": %q, "Interface": {"Address": %q}}`, network, id, address), "")
	e.must("/NetworkDriver.Join", fmt.Sprintf(`{"NetworkID": %q, "EndpointID": %q, "SandboxKey": "/var/run/docker/netns/%s"}`, network, id, id), "")
	return address
}

// Requests that name what they ask for are answered as the first; undoing what is not there succeeds.
func TestRepeated(t *testing.T) {
	e := newEngine(t, docker.Options{})
	first, second := e.must("/IpamDriver.RequestPool", `{}`, "Pool"), e.must("/IpamDriver.RequestPool", `{}`, "Pool")
	if first == second {
		t.Errorf("%s is offered again while the engine holds it", first)
	}
	named := `{"AddressSpace": "local", "Pool": "10.5.0.0/24"}`
	pool := e.must("/IpamDriver.RequestPool", named, "PoolID")
	if again := e.must("/IpamDriver.RequestPool", named, "PoolID"); again != pool {
		t.Errorf("asked again: %s, was %s", again, pool)
	}
	gateway := fmt.Sprintf(`{"PoolID": %q, "Options": {"RequestAddressType": "com.docker.network.gateway"}}`, pool)
	create := `{"NetworkID": "n", "IPv4Data": [{"AddressSpace": "local", "Pool": "10.5.0.0/24", "Gateway": "10.5.0.1/24"}]}`
	ask := fmt.Sprintf(`{"PoolID": %q, "Address": "10.5.0.9"}`, pool)
	made := `{"NetworkID": "n", "EndpointID": "e", "Interface": {"Address": "10.5.0.9/24"}}`
	joined := `{"NetworkID": "n", "EndpointID": "e", "SandboxKey": "/x/y"}`
	ports := `{"NetworkID": "n", "EndpointID": "e", "Options": {"com.docker.network.portmap": [{"Proto": 6, "Port": 80, "HostPort": 8080, "HostPortEnd": 8080}]}}`
	var answers [2]string
	for i := range answers {
		for _, r := range [][2]string{{"/IpamDriver.RequestAddress", gateway}, {"/NetworkDriver.CreateNetwork", create}} {
			e.must(r[0], r[1], "")
		}
		if i == 0 {
			e.must("/IpamDriver.RequestAddress", ask, "")
			e.must("/IpamDriver.RequestAddress", ask, "")
		}
		for _, r := range [][2]string{{"/NetworkDriver.CreateEndpoint", made}, {"/NetworkDriver.Join", joined}, {"/NetworkDriver.ProgramExternalConnectivity", ports}} {
			_, said := e.call(r[0], r[1])
			text, _ := json.Marshal(said)
			answers[i] += string(text)
		}
	}
	if answers[0] != answers[1] || !strings.Contains(e.state(), "ports [8080:80/tcp]") {
		t.Errorf("first %s\nthen  %s\n%s", answers[0], answers[1], e.state())
	}
	if status, said := e.call("/IpamDriver.RequestPool", named); status == 200 {
		t.Errorf("a pool that a network has is given again: %v", said)
	}
	if status, said := e.call("/IpamDriver.RequestAddress", ask); status == 200 {
		t.Errorf("an address that an endpoint has is given again: %v", said)
	}
	for range 2 {
		for _, verb := range []string{"RevokeExternalConnectivity", "Leave", "DeleteEndpoint"} {
			e.must("/NetworkDriver."+verb, `{"NetworkID": "n", "EndpointID": "e"}`, "")
		}
		e.must("/IpamDriver.ReleaseAddress", ask, "")
		e.must("/IpamDriver.ReleaseAddress", fmt.Sprintf(`{"PoolID": %q, "Address": "10.5.0.1"}`, pool), "")
		e.must("/IpamDriver.ReleasePool", fmt.Sprintf(`{"PoolID": %q}`, pool), "")
		e.must("/NetworkDriver.DeleteNetwork", `{"NetworkID": "n"}`, "")
	}
	if left := e.state(); strings.Contains(left, "10.5.0.0") {
		t.Errorf("left:\n%s", left)
	}
}

// A container on networks of two of our plugins is one sandbox, which goes with its last endpoint.
func TestSandboxOfTwoPlugins(t *testing.T) {
	one := newEngine(t, docker.Options{})
	two := one.beside("sealane-other")
	for _, e := range []*engine{one, two} {
		name := e.plugin.Name
		pool, _ := e.network("n-" + name)
		address := e.must("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q}`, pool), "Address")
		e.must("/NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID": "n-%[1]s", "EndpointID": "e", "Interface": {"Address": %[2]q}}`, name, address), "")
		e.must("/NetworkDriver.Join", fmt.Sprintf(`{"NetworkID": "n-%s", "EndpointID": "e", "SandboxKey": "/x/y"}`, name), "")
	}
	for _, e := range []*engine{one, two} {
		s, err := e.ctl.Sandbox(t.Context(), "docker-y")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Info(t.Context()); err != nil {
			t.Error(err)
		}
		for _, verb := range []string{"Leave", "DeleteEndpoint"} {
			e.must("/NetworkDriver."+verb, fmt.Sprintf(`{"NetworkID": "n-%s", "EndpointID": "e"}`, e.plugin.Name), "")
		}
	}
	if _, err := one.ctl.Sandbox(t.Context(), "docker-y"); !errdefs.IsNotFound(err) {
		t.Errorf("the sandbox is left: %v", err)
	}
}

// What the engine does not know any more is given up, and what it knows is not.
func TestSweep(t *testing.T) {
	e := newEngine(t, docker.Options{Every: time.Nanosecond, Patience: time.Nanosecond})
	kept, pool := e.network("kept")
	e.network("gone")
	address := e.endpoint("kept", "e1", kept)
	e.endpoint("kept", "e2", kept)
	spare := e.must("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q}`, kept), "Address")
	e.must("/IpamDriver.RequestPool", `{}`, "")
	full := e.state()
	e.knows.networks = []docker.EngineNetwork{{ID: "kept", Subnets: []netip.Prefix{netip.MustParsePrefix(pool)},
		Endpoints: map[string]docker.EngineEndpoint{"e1": {Addresses: []netip.Addr{netip.MustParsePrefix(address).Addr()}}}}}
	if err := e.plugin.SweepOnce(context.Background()); err != nil {
		t.Fatal(err)
	}
	if now := e.state(); now != full {
		t.Errorf("what was missed once is a suspect only:\n%s", now)
	}
	for range 2 { // what networks and endpoints had is missed when they are gone
		if err := e.plugin.SweepOnce(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	want := fmt.Sprintf("  network docker-kept: %s by 172.17.0.1\n    endpoint [%s] 02:42:ac:11:00:02 joined true, gateway \"off\", ports []\n  pool %s with 2 addresses\n",
		pool, address, pool)
	if now := e.state(); now != want || strings.Contains(now, spare) {
		t.Errorf("left:\n%s\nwant:\n%s", now, want)
	}
}

// What an engine asked for without a name, and nothing claims, is its for ten minutes: it may be about to use it.
func TestSweepIsPatient(t *testing.T) {
	e := newEngine(t, docker.Options{})
	if e.plugin.Patience != 10*time.Minute || e.plugin.Every != time.Minute {
		t.Errorf("patience is %v, asked every %v", e.plugin.Patience, e.plugin.Every)
	}
	pool := e.must("/IpamDriver.RequestPool", `{"AddressSpace": "local"}`, "PoolID")
	e.must("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q}`, pool), "Address")
	before := e.state()
	for range 3 {
		if err := e.plugin.SweepOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if now := e.state(); now != before || !strings.Contains(now, "with 1 addresses") {
		t.Errorf("left:\n%s\nwas:\n%s", now, before)
	}
}

// A network that a user removed with sealane's own command keeps nobody from sweeping the others.
func TestSweepWithoutANetwork(t *testing.T) {
	ctx := context.Background()
	e := newEngine(t, docker.Options{Every: time.Nanosecond, Patience: time.Nanosecond})
	_, pool := e.network("removed")
	kept, other := e.network("kept")
	e.endpoint("kept", "e1", kept)
	n, err := e.plugin.Controller.Network(ctx, "docker-removed")
	if err == nil {
		err = n.Delete(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	e.knows.networks = []docker.EngineNetwork{{ID: "kept", Subnets: []netip.Prefix{netip.MustParsePrefix(other)}},
		{ID: "removed", Subnets: []netip.Prefix{netip.MustParsePrefix(pool)}}}
	for range 2 {
		if err := e.plugin.SweepOnce(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if now := e.state(); strings.Contains(now, "endpoint") {
		t.Errorf("an endpoint that the engine does not know is there still:\n%s", now)
	}
	e.must("/NetworkDriver.DeleteNetwork", `{"NetworkID": "removed"}`, "")
}
