package api

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/sandbox"
)

func TestSandboxJoinsBridgeByDefault(t *testing.T) {
	d, ctx := start(t), t.Context()
	id := d.sandbox(t, SandboxSpec{Name: "web", Hostname: "www", Labels: map[string]string{"a": "b"}})
	s := must[Sandbox](t)(d.Sandbox(ctx, "web"))
	if s.ID != id || s.State != StateReady || s.Hostname != "www" || s.Labels["a"] != "b" || s.NetNS == "" {
		t.Errorf("%+v", s)
	}
	if len(s.Networks) != 1 || !s.Networks["bridge"].IPAddress.IsValid() {
		t.Errorf("networks: %+v", s.Networks)
	}
	h := d.sandbox(t, SandboxSpec{Name: "h", Networks: []NetworkJoin{{Network: "host"}}})
	if s := must[Sandbox](t)(d.Sandbox(ctx, h)); s.NetNS != "" || len(s.Networks) != 1 || s.State != StateReady {
		t.Errorf("on the host's network: %+v", s)
	}
	j := d.sandbox(t, SandboxSpec{Name: "side", Join: "web"})
	if s := must[Sandbox](t)(d.Sandbox(ctx, j)); len(s.Networks) != 0 || s.NetNS == "" {
		t.Errorf("sharing: %+v", s)
	}
}

// A sandbox is made with all its networks or not at all.
func TestSandboxCreateIsAllOrNothing(t *testing.T) {
	d, ctx := start(t), t.Context()
	d.network(t, NetworkSpec{Name: "blue", IPAM: IPAM{Config: []Subnet{{Subnet: netip.MustParsePrefix("10.1.0.0/24")}}}})
	d.network(t, NetworkSpec{Name: "green", IPAM: IPAM{Config: []Subnet{{Subnet: netip.MustParsePrefix("10.2.0.0/24")}}}})
	at := func(a string) EndpointConfig {
		return EndpointConfig{IPAMConfig: EndpointIPAM{IPv4Address: netip.MustParseAddr(a)}}
	}
	d.sandbox(t, SandboxSpec{Name: "one", Networks: []NetworkJoin{{"green", at("10.2.0.9")}}})
	for _, test := range []struct {
		name string
		spec SandboxSpec
		kind string
	}{
		{"an address taken on the second", SandboxSpec{Networks: []NetworkJoin{{"blue", at("10.1.0.9")}, {"green", at("10.2.0.9")}}}, "AlreadyExists"},
		{"an address outside", SandboxSpec{Networks: []NetworkJoin{{"blue", at("10.9.0.9")}}}, "OutOfRange"},
		{"no such network", SandboxSpec{Networks: []NetworkJoin{{Network: "blue"}, {Network: "red"}}}, "NotFound"},
		{"one twice", SandboxSpec{Networks: []NetworkJoin{{Network: "blue"}, {Network: "blue"}}}, "InvalidArgument"},
		{"a bad port", SandboxSpec{Publish: []string{"80:x"}}, "InvalidArgument"},
		{"ports of the host", SandboxSpec{Host: true, Publish: []string{"80:80"}}, "InvalidArgument"},
		{"a network of its own on the host", SandboxSpec{Host: true, Networks: []NetworkJoin{{Network: "blue"}}}, "InvalidArgument"},
		{"two origins", SandboxSpec{Host: true, PID: 1}, "InvalidArgument"},
		{"no such donor", SandboxSpec{Join: "nobody"}, "NotFound"},
		{"a bad name", SandboxSpec{Name: "a/b"}, "InvalidArgument"},
		{"a taken name", SandboxSpec{Name: "one"}, "AlreadyExists"},
		{"a bad MAC", SandboxSpec{Networks: []NetworkJoin{{"blue", EndpointConfig{MacAddress: "02:42"}}}}, "InvalidArgument"},
		{"IPv6 for IPv4", SandboxSpec{Networks: []NetworkJoin{{"blue", at("fd00::1")}}}, "InvalidArgument"},
		{"an option of nobody", SandboxSpec{Networks: []NetworkJoin{{"blue", EndpointConfig{DriverOpts: map[string]string{"com.docker.network.endpoint.x": ""}}}}}, "InvalidArgument"},
		{"exposed to the host", SandboxSpec{Expose: []string{"80:80"}}, "InvalidArgument"},
		{"a hostname with a newline", SandboxSpec{Hostname: "a\nb"}, "InvalidArgument"},
		{"a line of hosts with a newline", SandboxSpec{ExtraHosts: []string{"a:192.0.2.1\n10.9.9.9 bank"}}, "InvalidArgument"},
		{"a search domain with a newline", SandboxSpec{DNSSearch: []string{"a\nnameserver 192.0.2.66"}}, "InvalidArgument"},
		{"a link to nobody", SandboxSpec{Links: []string{"nobody"}}, "NotFound"},
		{"an alias for two", SandboxSpec{Networks: []NetworkJoin{{Network: "blue"}}, Links: []string{"one:a", "two:a"}}, "InvalidArgument"},
		{"names of one that shares", SandboxSpec{Join: "one", DNSOptions: []string{"rotate"}}, "InvalidArgument"},
		{"links of one that shares", SandboxSpec{Join: "one", Links: []string{"one"}}, "InvalidArgument"},
	} {
		before := must[[]Endpoint](t)(d.Endpoints(ctx, nil))
		_, err := d.CreateSandbox(ctx, test.spec)
		if kindOf(err).name != test.kind {
			t.Errorf("%s: want %s, not %v", test.name, test.kind, err)
		}
		if all := must[[]Sandbox](t)(d.Sandboxes(ctx, nil)); len(all) != 1 {
			t.Errorf("%s: sandboxes are left: %+v", test.name, all)
		}
		if after := must[[]Endpoint](t)(d.Endpoints(ctx, nil)); len(after) != len(before) {
			t.Errorf("%s: endpoints are left: %+v", test.name, after)
		}
	}
	d.sandbox(t, SandboxSpec{Networks: []NetworkJoin{{"blue", at("10.1.0.9")}}}) // nobody holds the address
}

// An id that is taken does not make the sandbox that has it go away.
func TestSandboxIDIsTaken(t *testing.T) {
	d, ctx := start(t), t.Context()
	id := d.sandbox(t, SandboxSpec{ID: strings.Repeat("ab", 32), Name: "web"})
	if _, err := d.CreateSandbox(ctx, SandboxSpec{ID: id, Name: "web"}); kindOf(err).name != "AlreadyExists" {
		t.Error(err)
	}
	if s := must[Sandbox](t)(d.Sandbox(ctx, id)); len(s.Networks) != 1 {
		t.Errorf("%+v", s)
	}
}

func TestPortsFollowTheGateway(t *testing.T) {
	d, ctx := start(t), t.Context()
	d.network(t, NetworkSpec{Name: "blue"})
	d.network(t, NetworkSpec{Name: "green", EnableIPv6: true})
	d.sandbox(t, SandboxSpec{Name: "web", Publish: []string{"8080:80", "127.0.0.1:53:53/udp"}, Networks: []NetworkJoin{{Network: "blue"}}})
	want := map[string][]HostPort{"80/tcp": {{"0.0.0.0", "8080"}}, "53/udp": {{"127.0.0.1", "53"}}}
	check := func(what string) {
		t.Helper()
		if diff := cmp.Diff(want, must[Sandbox](t)(d.Sandbox(ctx, "web")).Ports); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	check("created")
	if err := d.Connect(ctx, "green", Connection{"web", EndpointConfig{GwPriority: 1}}); err != nil {
		t.Fatal(err)
	}
	want["80/tcp"] = []HostPort{{"0.0.0.0", "8080"}, {"::", "8080"}}
	check("connected to a better gateway")
	got := must[Published](t)(d.Publish(ctx, "web", PortChange{"9000-9001:90-91"}))
	want["90/tcp"], want["91/tcp"] = []HostPort{{"0.0.0.0", "9000"}, {"::", "9000"}}, []HostPort{{"0.0.0.0", "9001"}, {"::", "9001"}}
	if diff := cmp.Diff(want, got.Ports); diff != "" {
		t.Error(diff)
	}
	if err := d.Disconnect(ctx, "green", Disconnection{Container: "web"}); err != nil {
		t.Fatal(err)
	}
	for key, at := range want {
		want[key] = at[:1]
	}
	check("back on the first")
	for _, port := range []string{"80", "9000-9001:90-91", "53/udp"} {
		must[Published](t)(d.Unpublish(ctx, "web", PortChange{port}))
	}
	clear(want)
	check("unpublished")
	if _, err := d.Unpublish(ctx, "web", PortChange{"80"}); kindOf(err).name != "NotFound" {
		t.Errorf("unpublish twice: %v", err)
	}
	d.sandbox(t, SandboxSpec{Name: "next", Publish: []string{"8080:80", "9000-9001:90-91"}}) // the host's ports are free
}

func TestPublishChangesAllOrNothing(t *testing.T) {
	d, ctx := start(t), t.Context()
	d.network(t, NetworkSpec{Name: "blue"})
	d.sandbox(t, SandboxSpec{Name: "other", Publish: []string{"8080:80"}})
	d.sandbox(t, SandboxSpec{Name: "web", Networks: []NetworkJoin{{Network: "blue"}, {Network: "bridge"}}, Publish: []string{"81:81"}})
	if _, err := d.Publish(ctx, "web", PortChange{"8080:80"}); kindOf(err).name != "AlreadyExists" {
		t.Errorf("a taken port: %v", err)
	}
	want := map[string][]HostPort{"81/tcp": {{"0.0.0.0", "81"}}}
	if diff := cmp.Diff(want, must[Sandbox](t)(d.Sandbox(ctx, "web")).Ports); diff != "" {
		t.Error(diff)
	}
	if err := d.RemoveSandbox(ctx, "other", false); err != nil {
		t.Fatal(err)
	}
	must[Published](t)(d.Publish(ctx, "web", PortChange{"8080:80"}))
}

func TestPublishAll(t *testing.T) {
	d, ctx := start(t), t.Context()
	d.sandbox(t, SandboxSpec{Name: "web", PublishAll: true, Expose: []string{"80", "90-91/udp"}})
	ports := must[Sandbox](t)(d.Sandbox(ctx, "web")).Ports
	if len(ports) != 3 || len(ports["80/tcp"]) != 1 || len(ports["90/udp"]) != 1 || len(ports["91/udp"]) != 1 {
		t.Fatalf("%v", ports)
	}
	at := ports["80/tcp"][0].HostPort
	got := must[Published](t)(d.Unpublish(ctx, "web", PortChange{"90-91/udp"}))
	if diff := cmp.Diff(map[string][]HostPort{"80/tcp": {{"0.0.0.0", at}}}, got.Ports); diff != "" {
		t.Error(diff)
	}
	got = must[Published](t)(d.Unpublish(ctx, "web", PortChange{at + ":80"}))
	if len(got.Ports) > 0 {
		t.Errorf("%v", got)
	}
}

// Removing takes everything along, also an endpoint that a call which was cut short left behind.
func TestSandboxRemove(t *testing.T) {
	d, ctx := start(t), t.Context()
	d.network(t, NetworkSpec{Name: "blue"})
	d.sandbox(t, SandboxSpec{Name: "web"})
	d.kernel.Fault = func(op string) error {
		if strings.Contains(op, "host: ") {
			return errors.New("the kernel is out of sorts")
		}
		return nil
	}
	if err := d.Connect(ctx, "blue", Connection{Container: "web"}); kindOf(err).name != "Internal" {
		t.Errorf("connect: %v", err)
	}
	d.kernel.Fault = nil
	if err := d.RemoveSandbox(ctx, "web", false); err != nil {
		t.Error(err)
	}
	if left := must[[]Endpoint](t)(d.Endpoints(ctx, nil)); len(left) > 0 {
		t.Errorf("endpoints are left: %+v", left)
	}
	if err := d.RemoveSandbox(ctx, "web", false); kindOf(err).name != "NotFound" {
		t.Error(err)
	}
	if err := d.RemoveNetwork(ctx, "blue", false); err != nil {
		t.Error(err)
	}
}

// Force removes a sandbox also when the record of a network that it is on was lost.
func TestSandboxRemoveWithoutNetwork(t *testing.T) {
	d, ctx := start(t), t.Context()
	blue := d.network(t, NetworkSpec{Name: "blue"})
	d.sandbox(t, SandboxSpec{Name: "web", Networks: []NetworkJoin{{Network: "blue"}}})
	if err := d.root.Update(ctx, func(tx datastore.Tx) error {
		return errors.Join(tx.Delete(datastore.Key("net", blue)), tx.Delete("name/net/blue"))
	}); err != nil {
		t.Fatal(err)
	}
	if err := d.RemoveSandbox(ctx, "web", true); err != nil {
		t.Error(err)
	}
	if left := must[[]Sandbox](t)(d.Sandboxes(ctx, nil)); len(left) > 0 {
		t.Errorf("left: %+v", left)
	}
}

// A list does not fail because a sandbox and the one whose namespace it shared went meanwhile.
func TestSandboxWithoutDonor(t *testing.T) {
	d := start(t)
	r := sandbox.Info{ID: "1", Spec: sandbox.Spec{Namespace: sandbox.Origin{Share: "gone"}}}
	if shown, err := d.server.show(t.Context(), r, nil); err != nil || shown.ID != "1" {
		t.Errorf("%+v, %v", shown, err)
	}
}

// A port that two endpoints have had is free when it is unpublished.
func TestUnpublishAfterTheGatewayMoved(t *testing.T) {
	d, ctx := start(t), t.Context()
	d.network(t, NetworkSpec{Name: "blue"})
	d.sandbox(t, SandboxSpec{Name: "web", Publish: []string{"8080:80"}})
	if err := d.Connect(ctx, "blue", Connection{"web", EndpointConfig{GwPriority: 1}}); err != nil {
		t.Fatal(err)
	}
	if got := must[Published](t)(d.Unpublish(ctx, "web", PortChange{"80"})); len(got.Ports) > 0 {
		t.Errorf("%v", got)
	}
	d.sandbox(t, SandboxSpec{Name: "next", Publish: []string{"8080:80"}})
}

// Of two ports that lead to one, the one that is meant goes.
func TestUnpublishOneOfTwo(t *testing.T) {
	d, ctx := start(t), t.Context()
	for _, order := range [][]string{{"8080:80", "80"}, {"80", "8080:80"}} {
		d.sandbox(t, SandboxSpec{Name: "web", Publish: order})
		var random string
		for _, at := range must[Sandbox](t)(d.Sandbox(ctx, "web")).Ports["80/tcp"] {
			if at.HostPort != "8080" {
				random = at.HostPort
			}
		}
		got := must[Published](t)(d.Unpublish(ctx, "web", PortChange{"8080:80"})).Ports
		if diff := cmp.Diff(map[string][]HostPort{"80/tcp": {{"0.0.0.0", random}}}, got); diff != "" {
			t.Errorf("%v: %s", order, diff)
		}
		if got := must[Published](t)(d.Unpublish(ctx, "web", PortChange{random + ":80"})).Ports; len(got) > 0 {
			t.Errorf("%v: %v", order, got)
		}
		if err := d.RemoveSandbox(ctx, "web", false); err != nil {
			t.Fatal(err)
		}
	}
}

// Calls at the same time lose nothing.
func TestPublishAtOnce(t *testing.T) {
	d, ctx := start(t), t.Context()
	d.network(t, NetworkSpec{Name: "blue"})
	d.sandbox(t, SandboxSpec{Name: "web"})
	const many = 20
	errs := make(chan error, many+1)
	for i := range many {
		go func() {
			_, err := d.Publish(ctx, "web", PortChange{strconv.Itoa(8000+i) + ":80"})
			errs <- err
		}()
	}
	go func() { errs <- d.Connect(ctx, "blue", Connection{"web", EndpointConfig{GwPriority: 1}}) }()
	for range many + 1 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := len(must[Sandbox](t)(d.Sandbox(ctx, "web")).Ports["80/tcp"]); got != many {
		t.Errorf("%d ports are published, want %d", got, many)
	}
	for i := range many {
		go func() {
			_, err := d.Unpublish(ctx, "web", PortChange{strconv.Itoa(8000+i) + ":80"})
			errs <- err
		}()
	}
	for range many {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if left := must[Sandbox](t)(d.Sandbox(ctx, "web")).Ports; len(left) > 0 {
		t.Errorf("ports are left: %v", left)
	}
}

// What is asked of names reaches the record; who shares a namespace is called as the other.
func TestSandboxNames(t *testing.T) {
	d, ctx := start(t), t.Context()
	d.network(t, NetworkSpec{Name: "blue"})
	id := d.sandbox(t, SandboxSpec{Name: "web", Hostname: "box", Domainname: "example.org", Links: []string{"db:store"},
		Networks: []NetworkJoin{{"blue", EndpointConfig{Aliases: []string{"*.apps"}, Links: []string{"later"}}}}})
	s := must[Sandbox](t)(d.Sandbox(ctx, "web"))
	on := s.Networks["blue"]
	if diff := cmp.Diff([]string{"web", "*.apps", id[:12], "box"}, on.DNSNames); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"later:later", "db:store"}, on.Links); diff != "" || len(s.Env) > 0 {
		t.Error(diff, s.Env)
	}
	d.sandbox(t, SandboxSpec{Name: "side", Join: "web"})
	if side := must[Sandbox](t)(d.Sandbox(ctx, "side")); side.Join != id || side.Hostname != "box" || side.Domainname != "example.org" {
		t.Errorf("%+v", side)
	}
	plain := d.sandbox(t, SandboxSpec{Name: "plain"})
	if p := must[Sandbox](t)(d.Sandbox(ctx, "plain")); p.Hostname != plain[:12] || len(p.Networks["bridge"].DNSNames) > 0 {
		t.Errorf("%+v", p)
	}
	d.sandbox(t, SandboxSpec{Name: "linked", Links: []string{"plain:p"}})
	want := []string{"P_NAME=/linked/p"}
	if diff := cmp.Diff(want, must[Sandbox](t)(d.Sandbox(ctx, "linked")).Env); diff != "" {
		t.Error(diff)
	}
}
