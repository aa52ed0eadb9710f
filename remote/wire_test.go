package remote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/netdriver/drivertest"
	"github.com/sealane/sealane/remote"
)

var update = flag.Bool("update", false, "write golden files")

// plugin is anybody's: it answers each verb with what it is told to, and remembers what it was asked.
type plugin struct {
	t       testing.TB
	dir     string
	mu      sync.Mutex // guards what is below
	replies map[string]string
	status  int
	asked   []string
	silent  chan struct{} // verbs are answered when it is closed
	endless bool
	missing string // path that is not there
}

func (p *plugin) hold(silent chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = silent
}

// fake starts a plugin of both kinds named p.
func fake(t testing.TB) *plugin {
	t.Helper()
	p := &plugin{t: t, dir: t.TempDir(), status: http.StatusOK, replies: map[string]string{
		"/Plugin.Activate":                    `{"Implements": ["NetworkDriver", "IpamDriver"]}`,
		"/NetworkDriver.GetCapabilities":      `{"Scope": "local"}`,
		"/IpamDriver.GetDefaultAddressSpaces": `{"LocalDefaultAddressSpace": "here", "GlobalDefaultAddressSpace": "there"}`,
	}}
	l, err := net.Listen("unix", filepath.Join(p.dir, "p.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: p}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return p
}

func (p *plugin) drivers(timeout time.Duration) (netdriver.Driver, ipam.Driver) {
	p.t.Helper()
	return find(p.t, remote.Options{Sockets: p.dir, Timeout: timeout}, "p")
}

func (p *plugin) says(verb, reply string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replies[verb] = reply
}

func (p *plugin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.URL.Path+" "+r.Host+" "+r.Header.Get("Accept")+r.Header.Get("Content-Type")+"\n"+string(body))
	reply, status, silent := p.replies[r.URL.Path], p.status, p.silent
	endless := p.endless && !strings.HasSuffix(r.URL.Path, ".Activate")
	if strings.HasSuffix(r.URL.Path, ".Activate") {
		status = http.StatusOK
	}
	if r.URL.Path == p.missing {
		status = http.StatusNotFound
	}
	p.mu.Unlock()
	if silent != nil {
		select {
		case <-silent:
		case <-r.Context().Done():
		}
	}
	w.WriteHeader(status)
	io.WriteString(w, reply)
	for endless {
		if _, err := io.WriteString(w, "xxxxxxxxxxxxxxxx"); err != nil {
			return
		}
	}
}

// verbs is what it was asked, by name.
func (p *plugin) verbs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var verbs []string
	for _, asked := range p.asked {
		verbs = append(verbs, strings.Fields(asked)[1])
	}
	return verbs
}

func record() (netdriver.Input, endpoint.Info) {
	n := netdriver.Network{ID: "n1", Name: "blue", Scope: netdriver.Local, IPv4: true, IPv6: true, Internal: true,
		Options: map[string]string{"com.docker.network.driver.mtu": "1400", "o": "1"}, Labels: map[string]string{"tier": "web"},
		Subnets: []netdriver.Subnet{
			{Pool: ipam.Pool{Subnet: prefix("10.1.0.0/24")}, Gateway: prefix("10.1.0.1/24"), Aux: map[string]netip.Addr{"r": netip.MustParseAddr("10.1.0.9")}},
			{Pool: ipam.Pool{Subnet: prefix("fd00:1::/64")}, Gateway: prefix("fd00:1::1/64")},
		}}
	one := func(p uint16) firewall.Range { return firewall.Range{First: p, Last: p} }
	e := endpoint.Info{ID: "e1", Network: "n1", Sandbox: "s1", Key: "/run/sealane/netns/s1",
		Addresses: []netip.Prefix{prefix("10.1.0.2/24"), prefix("fd00:1::2/64")}, MAC: net.HardwareAddr{2, 0x42, 10, 1, 0, 2},
		Spec: endpoint.Spec{Name: "web", Aliases: []string{"www"}, Labels: map[string]string{"app": "shop"}, Options: map[string]string{"weight": "3"},
			Publish: []endpoint.PortBinding{{Proto: firewall.TCP, HostPorts: one(8080), Ports: one(80)},
				{Proto: firewall.UDP, Host: netip.MustParseAddr("127.0.0.1"), HostPorts: firewall.Range{First: 9000, Last: 9001}, Ports: firewall.Range{First: 53, Last: 54}}},
			Exposed: []endpoint.PortBinding{{Proto: firewall.TCP, Ports: one(443)}}}}
	e.Ports = e.Spec.Publish
	return netdriver.Input{Network: n}, e
}

// What an engine says to a plugin we say, byte for byte but for the one key of our own.
func TestRequests(t *testing.T) {
	p := fake(t)
	p.says("/NetworkDriver.GetCapabilities", `{"Scope": "local", "GwAllocChecker": true}`)
	p.says("/IpamDriver.GetCapabilities", `{"RequiresMACAddress": true}`)
	p.says("/IpamDriver.RequestPool", `{"PoolID": "here/10.1.0.0/24", "Pool": "10.1.0.0/24"}`)
	p.says("/IpamDriver.RequestAddress", `{"Address": "10.1.0.1/24"}`)
	d, a := p.drivers(0)
	ctx := t.Context()
	in, e := record()
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	_, _, err := d.(netdriver.GatewayAllocator).SkipGateway(ctx, in.Network.Options)
	fail(err)
	_, err = a.RequestPool(ctx, ipam.PoolRequest{Subnet: prefix("10.1.0.0/24"), Range: prefix("10.1.0.128/25"), Owner: "net/n1"})
	fail(err)
	_, err = a.RequestAddress(ctx, ipam.AddressRequest{Pool: "here/10.1.0.0/24", Gateway: true, Owner: "gateway/n1"})
	fail(err)
	_, err = a.RequestAddress(ctx, ipam.AddressRequest{Pool: "here/10.1.0.0/24", Address: netip.MustParseAddr("10.1.0.1"), MAC: e.MAC, Owner: "ep/e1",
		Options: map[string]string{"o": "1"}})
	fail(err)
	_, err = d.CreateNetwork(ctx, in)
	fail(err)
	_, err = d.CreateEndpoint(ctx, in, e)
	fail(err)
	_, err = d.Join(ctx, in, e)
	fail(err)
	x := d.(netdriver.ExternalConnector)
	fail(x.ProgramExternalConnectivity(ctx, in.Network, e))
	_, err = d.(netdriver.Informer).EndpointInfo(ctx, in.Network, e)
	fail(err)
	fail(x.RevokeExternalConnectivity(ctx, in.Network, e))
	fail(d.Leave(ctx, in.Network, e))
	fail(d.DeleteEndpoint(ctx, in.Network, e))
	fail(a.ReleaseAddress(ctx, "here/10.1.0.0/24", netip.MustParseAddr("10.1.0.1")))
	fail(a.ReleasePool(ctx, "here/10.1.0.0/24"))
	fail(d.DeleteNetwork(ctx, in.Network))
	var text strings.Builder
	for _, asked := range p.asked {
		line, body, _ := strings.Cut(asked, "\n")
		text.WriteString(line + "\n" + indented(t, body))
	}
	drivertest.Golden(t, *update, "requests", text.String())
}

// indented is a request for people, without what differs each time.
func indented(t *testing.T, body string) string {
	if body == "" {
		return ""
	}
	var r map[string]any
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if x, ok := r["Sealane"].(map[string]any); ok {
		if len(x["Request"].(string)) != 16 || x["Deadline"] == nil {
			t.Errorf("request id or deadline: %v", x)
		}
		x["Request"], x["Deadline"] = "…", "…"
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Docker's own records of an endpoint's ports come out of our translation as they went in.
func TestPortsSurvive(t *testing.T) {
	seen := &seer{Driver: drivertest.NewActing()}
	d, _ := serve(t, seen, nil)
	in, e := record()
	ctx := context.Background()
	if _, err := d.CreateNetwork(ctx, in); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CreateEndpoint(ctx, in, e); err != nil {
		t.Fatal(err)
	}
	if err := d.(netdriver.ExternalConnector).ProgramExternalConnectivity(ctx, in.Network, e); err != nil {
		t.Fatal(err)
	}
	var ports []string
	for _, b := range append(seen.programmed.Ports, seen.programmed.Spec.Exposed...) {
		ports = append(ports, b.String())
	}
	if got, want := strings.Join(ports, " "), "8080:80/tcp 127.0.0.1:9000:53/udp 127.0.0.1:9001:54/udp 443/tcp"; got != want {
		t.Errorf("ports %s, want %s", got, want)
	}
	if n, was := seen.made.Network, in.Network; n.Name != was.Name || !n.Internal || !n.IPv6 || n.Options["o"] != "1" || len(n.Subnets) != 2 ||
		n.Subnets[0].Gateway != was.Subnets[0].Gateway || n.Subnets[0].Aux["r"] != was.Subnets[0].Aux["r"] || n.Labels["tier"] != "web" {
		t.Errorf("the network came out as %+v", n)
	}
	if s := seen.created; s.Spec.Name != "web" || s.MAC.String() != e.MAC.String() || len(s.Addresses) != 2 || s.Spec.Options["weight"] != "3" || s.Sandbox != "s1" {
		t.Errorf("the endpoint came out as %+v", s)
	}
}

// seer remembers what a driver behind the server is asked.
type seer struct {
	netdriver.Driver
	made                netdriver.Input
	created, programmed endpoint.Info
}

func (s *seer) CreateNetwork(ctx context.Context, in netdriver.Input) (netdriver.Plan, error) {
	s.made = in
	return s.Driver.CreateNetwork(ctx, in)
}

func (s *seer) CreateEndpoint(ctx context.Context, in netdriver.Input, e endpoint.Info) (netdriver.Interface, error) {
	s.created = e
	return s.Driver.CreateEndpoint(ctx, in, e)
}

func (s *seer) ProgramExternalConnectivity(_ context.Context, _ netdriver.Network, e endpoint.Info) error {
	s.programmed = e
	return nil
}

func (s *seer) RevokeExternalConnectivity(context.Context, netdriver.Network, endpoint.Info) error {
	return nil
}
