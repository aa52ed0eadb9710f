package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/nstest"
)

var verbKills = flag.Int("verbkills", 2, "kills of the daemon at each verb of TestKilledAtEveryVerb")

// TestKilledAtEveryVerb kills the daemon while it is at a verb that an engine asked for: from the moment when it was asked to the one when
// it has answered. It is started again and asked again, as engines do; the container runs, its port answers, and when the engine has
// taken everything down nothing is left. What an engine that was not answered cannot know of, a pool without a name, goes when it is
// asked what it knows.
func TestKilledAtEveryVerb(t *testing.T) {
	host, outside := hosts(t)
	host.MustReturn()
	e := newCaller(t, host, outside)
	e.runs(nobody, 0)
	for n := range *verbKills {
		for verb := range e.took {
			e.runs(verb, (float64(n)+mathrand.Float64())/float64(*verbKills))
		}
		e.swept()
	}
	t.Logf("%d kills at %d verbs, %d of them before the answer; slowest start %s", e.kills, len(e.took), e.unanswered, e.slowest.Round(time.Millisecond))
}

// nobody is killed at this verb.
const nobody = -1

// caller is an engine's side of the plugin, and a container.
type caller struct {
	*victim
	client    *http.Client
	container *nstest.Host
	outside   *nstest.Host
	bare      []string
	first     string          // the pool that is given when all are free
	took      []time.Duration // by each verb of a run, when nobody is killed
	at        int             // the verb of this run
	fatal     int             // the verb at which the daemon is killed
	fraction  float64         // of the time that the verb takes, before the kill
	slowest   time.Duration

	kills, unanswered int
}

func newCaller(t *testing.T, host, outside *nstest.Host) *caller {
	e := &caller{victim: newVictim(t, host), container: nstest.New(t, "container"), outside: outside}
	l, err := net.Listen("unix", e.dir+"/engine.sock")
	if err != nil {
		t.Fatal(err)
	}
	api := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "[]") })} // it has no networks
	go api.Serve(l)
	t.Cleanup(func() { api.Close() })
	t.Setenv("DOCKER_HOST", "unix://"+e.dir+"/engine.sock")
	e.client = &http.Client{Transport: &http.Transport{DialContext: dialer(e.dir + "/plugins/sealane.sock"), DisableKeepAlives: true}}
	e.container.Echo("7")
	e.start()
	e.bare = host.Inventory()
	e.first = e.anyPool()
	return e
}

func (e *caller) start(flags ...string) {
	e.t.Helper()
	e.flags = append([]string{"--docker", "--plugin-dir", e.dir + "/plugins"}, flags...)
	e.slowest = max(e.slowest, e.serve())
}

// said is what a caller needs of the answers.
type said struct {
	PoolID, Pool, Address string
	InterfaceName         struct{ SrcName string }
	Gateway, Err, Error   string
}

// asks is a verb once.
func (e *caller) asks(verb string, body any) (said, error) {
	var answer said
	text, err := json.Marshal(body)
	if err != nil {
		return answer, err
	}
	reply, err := e.client.Post("http://plugin/"+verb, "", bytes.NewReader(text))
	if err != nil {
		return answer, err
	}
	defer reply.Body.Close()
	if err := json.NewDecoder(reply.Body).Decode(&answer); err != nil {
		return answer, err
	}
	if reply.StatusCode != http.StatusOK {
		e.t.Errorf("%s: %s: %s%s", verb, reply.Status, answer.Err, answer.Error)
	}
	return answer, nil
}

// verb is the next one of a run. When it is the fatal one the daemon is killed meanwhile; what is not answered is asked again, once,
// when the daemon is back.
func (e *caller) verb(name string, body map[string]any) said {
	e.t.Helper()
	defer func() { e.at++ }()
	begin := time.Now()
	if e.fatal == nobody {
		answer, err := e.asks(name, body)
		if err != nil {
			e.t.Fatalf("%s: %v", name, err)
		}
		e.took = append(e.took, time.Since(begin))
		return answer
	}
	if e.at != e.fatal {
		answer, err := e.asks(name, body)
		if err != nil {
			e.t.Fatalf("%s after a kill at verb %d: %v", name, e.fatal, err)
		}
		return answer
	}
	type result struct {
		said
		err error
	}
	answered := make(chan result, 1)
	go func() {
		answer, err := e.asks(name, body)
		answered <- result{answer, err}
	}()
	<-time.After(time.Duration(e.fraction * float64(e.took[e.at])))
	e.killNine()
	e.kills++
	r := <-answered
	e.start()
	if r.err == nil {
		return r.said
	}
	e.unanswered++
	again, err := e.asks(name, body)
	if err != nil {
		e.t.Fatalf("%s again: %v", name, err)
	}
	return again
}

// runs is an engine that makes a network, runs a container on it, ends it and deletes the network.
func (e *caller) runs(fatal int, fraction float64) {
	e.t.Helper()
	e.fatal, e.fraction, e.at = fatal, fraction, 0
	network, endpoint := id(), id()
	type dict = map[string]any
	ends := dict{"NetworkID": network, "EndpointID": endpoint}
	pool := e.verb("IpamDriver.RequestPool", dict{"AddressSpace": "local"})
	gateway := e.verb("IpamDriver.RequestAddress", dict{"PoolID": pool.PoolID, "Options": dict{"RequestAddressType": "com.docker.network.gateway"}})
	e.verb("NetworkDriver.CreateNetwork", dict{"NetworkID": network, "Options": dict{"com.docker.network.generic": dict{}},
		"IPv4Data": []dict{{"AddressSpace": "local", "Pool": pool.Pool, "Gateway": gateway.Address}}})
	address := e.verb("IpamDriver.RequestAddress", dict{"PoolID": pool.PoolID})
	ports := dict{"com.docker.network.portmap": []dict{{"Proto": unix.IPPROTO_TCP, "Port": 7, "HostPort": 7007, "HostPortEnd": 7007}}}
	e.verb("NetworkDriver.CreateEndpoint", dict{"NetworkID": network, "EndpointID": endpoint, "Interface": dict{"Address": address.Address}, "Options": ports})
	joined := e.verb("NetworkDriver.Join", dict{"NetworkID": network, "EndpointID": endpoint, "SandboxKey": e.container.Path(), "Options": ports})
	e.moves(joined, address.Address)
	e.verb("NetworkDriver.ProgramExternalConnectivity", dict{"NetworkID": network, "EndpointID": endpoint, "Options": ports})
	e.verb("NetworkDriver.EndpointOperInfo", ends)
	nstest.Eventually(e.t, fmt.Sprintf("the port answers after a kill at verb %d", fatal), func() bool {
		return echoes(e.t.Context(), e.outside, "tcp", "192.0.2.2:7007") == nil
	})
	e.verb("NetworkDriver.RevokeExternalConnectivity", ends)
	e.verb("NetworkDriver.Leave", ends)
	e.movesBack(joined)
	e.verb("NetworkDriver.DeleteEndpoint", ends)
	e.verb("IpamDriver.ReleaseAddress", dict{"PoolID": pool.PoolID, "Address": addressOf(address)})
	e.verb("IpamDriver.ReleaseAddress", dict{"PoolID": pool.PoolID, "Address": addressOf(gateway)})
	e.verb("IpamDriver.ReleasePool", dict{"PoolID": pool.PoolID})
	e.verb("NetworkDriver.DeleteNetwork", dict{"NetworkID": network})
	nstest.Eventually(e.t, fmt.Sprintf("nothing is left after a kill at verb %d", fatal), func() bool { return slices.Equal(e.bare, e.on.Inventory()) })
}

// moves puts the link where the engine does, with its address and way out.
func (e *caller) moves(joined said, address string) {
	e.t.Helper()
	inside := e.container.Netlink()
	check := func(err error) {
		if err != nil {
			e.t.Fatalf("move %s: %v", joined.InterfaceName.SrcName, err)
		}
	}
	link, err := e.on.Netlink().LinkByName(joined.InterfaceName.SrcName)
	check(err)
	e.container.Do(func() error { check(e.on.Netlink().LinkSetNsPid(link, unix.Gettid())); return nil })
	link, err = inside.LinkByName(joined.InterfaceName.SrcName)
	check(err)
	to, err := netlink.ParseAddr(address)
	check(err)
	check(inside.AddrAdd(link, to))
	check(inside.LinkSetUp(link))
	check(inside.RouteAdd(&netlink.Route{Gw: net.ParseIP(joined.Gateway)}))
}

// movesBack puts the link back on the host, as the engine does between Leave and DeleteEndpoint.
func (e *caller) movesBack(joined said) {
	e.t.Helper()
	inside := e.container.Netlink()
	link, err := inside.LinkByName(joined.InterfaceName.SrcName)
	if err == nil {
		err = inside.LinkSetDown(link)
	}
	if err == nil {
		e.on.Do(func() error { err = inside.LinkSetNsPid(link, unix.Gettid()); return nil })
	}
	if err != nil {
		e.t.Fatalf("move %s back: %v", joined.InterfaceName.SrcName, err)
	}
}

// swept waits until what was given to nobody is free again.
func (e *caller) swept() {
	e.t.Helper()
	e.killNine()
	e.start("--docker-ask", "50ms")
	nstest.Eventually(e.t, "every pool is free", func() bool { return e.anyPool() == e.first })
	sandboxes, err := e.Sandboxes(e.t.Context(), nil)
	if err != nil || len(sandboxes) > 0 {
		e.t.Errorf("%d sandboxes are left, %v", len(sandboxes), err)
	}
	networks, err := e.Networks(e.t.Context(), map[string][]string{"type": {"custom"}})
	if err != nil || len(networks) > 0 {
		e.t.Errorf("%d networks are left, %v", len(networks), err)
	}
	e.killNine()
	e.start()
}

// anyPool is the pool that would be given next.
func (e *caller) anyPool() string {
	e.t.Helper()
	pool, err := e.asks("IpamDriver.RequestPool", map[string]any{"AddressSpace": "local"})
	if err == nil {
		_, err = e.asks("IpamDriver.ReleasePool", map[string]any{"PoolID": pool.PoolID})
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return pool.Pool
}

func addressOf(s said) string {
	p, _ := netip.ParsePrefix(s.Address)
	return p.Addr().String()
}

func id() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it does not fail
	return hex.EncodeToString(b)
}
