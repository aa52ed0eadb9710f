package remote_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// ask calls one verb for an endpoint with addresses and a MAC, or for a bare one without.
func ask(ctx context.Context, verb string, d netdriver.Driver, a ipam.Driver, bare bool) error {
	in, e := record()
	if bare {
		e.Addresses, e.MAC, e.Spec.MAC = nil, nil, nil
	}
	var err error
	switch verb {
	case "GetCapabilities":
		_, err = d.Capability(ctx)
	case "CreateNetwork":
		_, err = d.CreateNetwork(ctx, in)
	case "CreateEndpoint":
		_, err = d.CreateEndpoint(ctx, in, e)
	case "Join":
		_, err = d.Join(ctx, in, e)
	case "EndpointOperInfo":
		_, err = d.(netdriver.Informer).EndpointInfo(ctx, in.Network, e)
	case "Leave":
		err = d.Leave(ctx, in.Network, e)
	case "DeleteEndpoint":
		err = d.DeleteEndpoint(ctx, in.Network, e)
	case "DeleteNetwork":
		err = d.DeleteNetwork(ctx, in.Network)
	case "ProgramExternalConnectivity":
		err = d.(netdriver.ExternalConnector).ProgramExternalConnectivity(ctx, in.Network, e)
	case "RevokeExternalConnectivity":
		err = d.(netdriver.ExternalConnector).RevokeExternalConnectivity(ctx, in.Network, e)
	case "RequestPool":
		_, err = a.RequestPool(ctx, ipam.PoolRequest{Subnet: prefix("10.1.0.0/24")})
	case "RequestAddress":
		_, err = a.RequestAddress(ctx, ipam.AddressRequest{Pool: "p", Address: netip.MustParseAddr("10.1.0.2")})
	case "ReleasePool":
		err = a.ReleasePool(ctx, "p")
	case "ReleaseAddress":
		err = a.ReleaseAddress(ctx, "p", netip.MustParseAddr("10.1.0.2"))
	default:
		panic(verb)
	}
	return err
}

// path is the verb as the plugin sees it.
func path(verb string) string {
	if strings.Contains(verb, "Pool") || strings.Contains(verb, "Address") {
		return "/IpamDriver." + verb
	}
	return "/NetworkDriver." + verb
}

// Replies that cannot be are errors that say why, and what they would have made is undone.
func TestRepliesRefused(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		verb, reply, says, undone string
		bare                      bool
	}{
		{"GetCapabilities", `{"Scope": "galactic"}`, `scope "galactic"`, "", false},
		{"GetCapabilities", `{}`, `scope ""`, "", false},
		{"CreateNetwork", `<html>`, "invalid character", "", false},
		{"CreateNetwork", `"` + strings.Repeat("x", 1<<20) + `"`, "more than 1048576 bytes", "", false},
		{"CreateEndpoint", `{"Interface": {"Address": "10.1.0.3/24"}}`, "where 10.1.0.2/24 was given", "DeleteEndpoint", false},
		{"CreateEndpoint", `{"Interface": {"Address": "10.1.0.2/16"}}`, "where 10.1.0.2/24 was given", "DeleteEndpoint", false},
		{"CreateEndpoint", `{"Interface": {"AddressIPv6": "fd00:1::3/64"}}`, "where fd00:1::2/64 was given", "DeleteEndpoint", false},
		{"CreateEndpoint", `{"Interface": {"MacAddress": "02:00:00:00:00:01"}}`, "where 02:42:0a:01:00:02 was given", "DeleteEndpoint", false},
		{"CreateEndpoint", `{"Interface": {"Address": "10.2.0.3/24"}}`, "outside the network's subnets", "DeleteEndpoint", true},
		{"CreateEndpoint", `{"Interface": {"Address": "10.1.0.300/24"}}`, "reply refused", "DeleteEndpoint", true},
		{"CreateEndpoint", `{"Interface": {"Address": "fd00:1::3/64"}}`, "other family", "DeleteEndpoint", true},
		{"CreateEndpoint", `{"Interface": {"MacAddress": "01:00:5e:00:00:01"}}`, "multicast", "DeleteEndpoint", true},
		{"CreateEndpoint", `{"Interface": []}`, "cannot unmarshal", "", true},
		{"Join", `{"InterfaceName": {"SrcName": "../../eth0"}}`, "SrcName", "Leave", false},
		{"Join", `{"InterfaceName": {"SrcName": "a234567890123456"}}`, "SrcName", "Leave", false},
		{"Join", `{"InterfaceName": {"SrcName": "v", "DstPrefix": "a/b"}}`, "DstPrefix", "Leave", false},
		{"Join", `{"InterfaceName": {"SrcName": "v", "DstPrefix": "twelvebytes-"}}`, "DstPrefix", "Leave", false},
		{"Join", `{"InterfaceName": {"SrcName": "v"}, "Gateway": "192.0.2.1"}`, "gateway 192.0.2.1 lies outside", "Leave", false},
		{"Join", `{"InterfaceName": {"SrcName": "v"}, "Gateway": "fd00:1::1"}`, "no address of its family", "Leave", false},
		{"Join", `{"InterfaceName": {"SrcName": "v"}, "GatewayIPv6": "nonsense"}`, "no address of its family", "Leave", false},
		{"Join", `{"InterfaceName": {"SrcName": "v"}, "StaticRoutes": [{"Destination": "10.0.0.0/99"}]}`, "route", "Leave", false},
		{"Join", `{"InterfaceName": {"SrcName": "v"}, "StaticRoutes": [{"Destination": "10.0.0.0/8", "RouteType": 7}]}`, "unknown type 7", "Leave", false},
		{"Join", `{"InterfaceName": {"SrcName": "v"}, "StaticRoutes": [{"Destination": "10.0.0.0/8", "RouteType": 0}]}`, "route", "Leave", false},
		{"Join", `{"InterfaceName": {"SrcName": "v"}, "StaticRoutes": [{"Destination": "127.0.0.0/8", "RouteType": 1}]}`, "nothing is routed there", "Leave", false},
		{"RequestPool", ``, "a pool id of 0 bytes", "", false},
		{"RequestPool", `{"PoolID": "` + long + `", "Pool": "10.1.0.0/24"}`, "a pool id of 300 bytes", "ReleasePool", false},
		{"RequestPool", `{"PoolID": "p", "Pool": "10.9.0.0/24"}`, "is not 10.1.0.0/24", "ReleasePool", false},
		{"RequestPool", `{"PoolID": "p", "Pool": "fd00::/64"}`, "other family", "ReleasePool", false},
		{"RequestPool", `{"PoolID": "p", "Pool": "all of them"}`, "is no subnet", "ReleasePool", false},
		{"RequestPool", `{"PoolID": "p", "Pool": "10.1.0.0/24", "Data": {"com.docker.network.gateway": "10.2.0.1/24"}}`, "lies outside", "ReleasePool", false},
		{"RequestAddress", ``, "is none with its subnet's length", "", false},
		{"RequestAddress", `{"Address": "10.1.0.2"}`, "is none with its subnet's length", "", false},
		{"RequestAddress", `{"Address": "10.1.0.3/24"}`, "is not 10.1.0.2", "ReleaseAddress", false},
		{"RequestAddress", `{"Address": "127.0.0.1/8"}`, "is not 10.1.0.2", "ReleaseAddress", false},
	} {
		p := fake(t)
		p.says(path(c.verb), c.reply)
		d, a := p.drivers(0)
		err := ask(t.Context(), c.verb, d, a, c.bare)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s answered %.100s: %v, want %q", c.verb, c.reply, err, c.says)
		}
		undone := c.undone == "" || slices.Contains(p.verbs(), path(c.undone))
		if !undone {
			t.Errorf("%s answered %.100s: %s was not sent: %v", c.verb, c.reply, c.undone, p.verbs())
		}
	}
}

// What Docker accepts we accept: nothing, unknown fields, fields in other letters, less than was asked for.
func TestRepliesAccepted(t *testing.T) {
	for verb, replies := range map[string][]string{
		"CreateNetwork":    {``, `{}`, `null`, `{"Err": "", "Colour": "blue"}`, ` `},
		"CreateEndpoint":   {``, `{}`, `{"Interface": null}`, `{"interface": {"address": "", "MACADDRESS": ""}}`, `{"Interface": {"MacAddress": "02:42:0a:01:00:02"}}`},
		"Join":             {``, `{}`, `{"InterfaceName": {}}`, `{"InterfaceName": {"SrcName": "v", "DstPrefix": "eth", "DstName": "x"}, "Gateway": "10.1.0.1", "GatewayIPv6": "fe80::1"}`},
		"EndpointOperInfo": {``, `{"Value": {"a": [1, {"b": null}]}}`},
		"RequestPool":      {`{"PoolID": "p", "Pool": "10.1.0.0/24", "Data": null}`},
		"RequestAddress":   {`{"Address": "10.1.0.2/24"}`},
	} {
		for _, reply := range replies {
			p := fake(t)
			p.says(path(verb), reply)
			d, a := p.drivers(0)
			if err := ask(t.Context(), verb, d, a, false); err != nil {
				t.Errorf("%s answered %s: %v", verb, reply, err)
			}
		}
	}
}

func allVerbs() []string {
	return []string{"CreateNetwork", "CreateEndpoint", "Join", "EndpointOperInfo", "ProgramExternalConnectivity", "RevokeExternalConnectivity", "Leave",
		"DeleteEndpoint", "DeleteNetwork", "RequestPool", "RequestAddress", "ReleaseAddress", "ReleasePool"}
}

// A refusal is heard however it is spelt.
func TestRefusals(t *testing.T) {
	for _, verb := range allVerbs() {
		for _, status := range []int{http.StatusOK, http.StatusInternalServerError, http.StatusBadRequest} {
			for _, reply := range []string{`{"Err": "boom"}`, `{"Error": "boom"}`, `{"err": "boom"}`} {
				p := fake(t)
				p.says(path(verb), reply)
				p.status = status
				if strings.HasPrefix(path(verb), "/IpamDriver") {
					p.says("/IpamDriver.GetDefaultAddressSpaces", `{"Err": "boom"}`)
					p.says("/IpamDriver.GetCapabilities", `{"Err": "boom"}`)
				}
				d, a := p.drivers(0)
				err := ask(t.Context(), verb, d, a, false)
				if err == nil || !strings.HasSuffix(err.Error(), ": boom") || errdefs.IsUnavailable(err) {
					t.Errorf("%s, %d %s: %v", verb, status, reply, err)
				}
			}
		}
	}
	p := fake(t)
	p.says("/NetworkDriver.Leave", "out of cheese\n")
	p.status = http.StatusTeapot
	d, a := p.drivers(0)
	if err := ask(t.Context(), "Leave", d, a, false); err == nil || !strings.Contains(err.Error(), `status 418: "out of cheese`) {
		t.Errorf("no JSON: %v", err)
	}
}

// Verbs that a plugin is older than are done without where an engine does without.
func TestOldPlugin(t *testing.T) {
	p := fake(t)
	p.status = http.StatusNotFound
	d, a := p.drivers(0)
	for _, verb := range allVerbs() {
		err := ask(t.Context(), verb, d, a, false)
		if may := strings.HasSuffix(verb, "ExternalConnectivity"); may != (err == nil) || err != nil && !errdefs.IsNotImplemented(err) {
			t.Errorf("%s: %v", verb, err)
		}
	}
	p = fake(t)
	p.missing = "/IpamDriver.GetCapabilities"
	_, a = p.drivers(0)
	if c, err := a.Capability(t.Context()); err != nil || c.RequiresMAC || c.Replay || c.LocalSpace != "here" {
		t.Errorf("an IPAM plugin without GetCapabilities: %+v, %v", c, err)
	}
}

// The kinds of our own errors survive the way through HTTP; engines see the text.
func TestKindsSurvive(t *testing.T) {
	for _, kind := range []error{errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrConflict, errdefs.ErrOutOfRange,
		errdefs.ErrFailedPrecondition, errdefs.ErrResourceExhausted, errdefs.ErrUnavailable, errdefs.ErrPermissionDenied, errdefs.ErrNotImplemented} {
		d, _ := serve(t, refuser{kind: kind}, nil)
		in, _ := record()
		_, err := d.CreateNetwork(t.Context(), in)
		if got := errdefs.Resolve(err); got != kind || !strings.HasSuffix(err.Error(), "no: "+kind.Error()) {
			t.Errorf("%v came as %v, %v", kind, got, err)
		}
	}
}

type refuser struct {
	netdriver.Driver
	kind error
}

func (r refuser) CreateNetwork(context.Context, netdriver.Input) (netdriver.Plan, error) {
	return netdriver.Plan{}, fmt.Errorf("no: %w", r.kind)
}

// A plugin that accepts and never answers costs one call its time; who comes next is told at once, and one that is back is used again.
func TestSilence(t *testing.T) {
	const patience, pause = 3 * time.Second, 500 * time.Millisecond
	p := fake(t)
	d, a := p.drivers(patience)
	if err := ask(t.Context(), "Leave", d, a, false); err != nil {
		t.Fatal(err)
	}
	silent := make(chan struct{})
	p.hold(silent)
	if err := ask(t.Context(), "Leave", d, a, false); !errdefs.IsUnavailable(err) {
		t.Errorf("no answer: %v", err)
	}
	before, began, told := len(p.verbs()), time.Now(), false
	for range 50 {
		err := ask(t.Context(), "Leave", d, a, false)
		if !errdefs.IsUnavailable(err) {
			t.Fatalf("the next: %v", err)
		}
		told = told || strings.Contains(err.Error(), "asked again later")
	}
	if !told {
		t.Error("nobody is told that it is asked again later")
	}
	if more, most := len(p.verbs())-before, int(time.Since(began)/pause); more > most {
		t.Errorf("%d more calls reached it, want one a pause at most: %d", more, most)
	}
	if err := d.(netdriver.Prober).Probe(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("asked how it is: %v", err)
	}
	close(silent)
	for deadline := time.Now().Add(time.Minute); ask(t.Context(), "Leave", d, a, false) != nil; {
		if time.Now().After(deadline) {
			t.Fatal("it answers again, and is not asked")
		}
	}
	if err := d.(netdriver.Prober).Probe(t.Context()); err != nil {
		t.Errorf("asked how it is: %v", err)
	}
	if verbs := p.verbs(); verbs[len(verbs)-2] != "/Plugin.Activate" {
		t.Errorf("one that comes back may be another: it is activated again: %v", verbs[len(verbs)-3:])
	}
}

// A reply that never ends is cut off.
func TestEndless(t *testing.T) {
	p := fake(t)
	p.endless = true
	d, a := p.drivers(time.Minute)
	if err := ask(t.Context(), "Leave", d, a, false); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("endless reply: %v", err)
	}
}

// A caller that gives up is answered at once and says nothing of the plugin.
func TestCancelled(t *testing.T) {
	p := fake(t)
	d, a := p.drivers(time.Minute)
	if err := ask(t.Context(), "Leave", d, a, false); err != nil {
		t.Fatal(err)
	}
	silent := make(chan struct{})
	p.hold(silent)
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if err := ask(ctx, "Leave", d, a, false); !errdefs.IsUnavailable(err) {
		t.Errorf("cancelled: %v", err)
	}
	close(silent)
	if err := ask(t.Context(), "Leave", d, a, false); err != nil {
		t.Errorf("after a caller gave up: %v", err)
	}
}
