package sealane_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kinds are the kinds of error that a call can be refused with.
func kinds() map[string]func(error) bool {
	return map[string]func(error) bool{
		"InvalidArgument": errdefs.IsInvalidArgument, "NotFound": errdefs.IsNotFound, "AlreadyExists": errdefs.IsAlreadyExists,
		"FailedPrecondition": errdefs.IsFailedPrecondition, "OutOfRange": errdefs.IsOutOfRange, "Conflict": errdefs.IsConflict,
		"ResourceExhausted": errdefs.IsResourceExhausted,
	}
}

// refuses makes a call that must fail with a kind of error and without effect. The error is returned.
func refuses(t *testing.T, w *world, kind string, call func() error) error {
	t.Helper()
	w.rest()
	before := w.everything()
	err := call()
	is := kinds()
	if err == nil || !is[kind](err) {
		t.Errorf("got %v, want %s", err, kind)
	}
	for other, has := range is {
		if other != kind && err != nil && has(err) {
			t.Errorf("%v is %s too", err, other)
		}
	}
	if err != nil && (strings.Contains(err.Error(), "\n") || len(err.Error()) > 600) {
		t.Errorf("the message is not a line: %q", err)
	}
	w.rest()
	if d := cmp.Diff(before, w.everything()); d != "" {
		t.Errorf("%v had effects (-before +after):\n%s", err, d)
	}
	return err
}

// everything is what the host contains and what the records say, with the count of addresses taken.
func (w *world) everything() []string {
	w.t.Helper()
	all := w.host.Inventory()
	put := func(what string, v any, err error) {
		if err != nil {
			w.t.Fatal(err)
		}
		var text bytes.Buffer
		if err := json.NewEncoder(&text).Encode(v); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, what+" "+text.String())
	}
	ctx := w.t.Context()
	for n, err := range w.Networks(ctx) {
		put("network", n, err)
		h, err := w.Network(ctx, string(n.ID))
		put("usage", fmt.Sprint(w.Usage(ctx, n)), err)
		for e, err := range h.Endpoints(ctx) {
			put("endpoint", e, err)
		}
	}
	for s, err := range w.Sandboxes(ctx) {
		put("sandbox", s, err)
	}
	ids, err := w.spaces.List(ctx)
	put("namespaces", len(ids), err)
	slices.Sort(all)
	return all
}

// refusal is a call that must fail.
type refusal struct {
	what, kind string
	says       string // part of the message
	call       func() error
}

func (w *world) refuses(t *testing.T, all ...refusal) {
	t.Helper()
	for _, r := range all {
		t.Run(r.what, func(t *testing.T) {
			if err := refuses(t, w, r.kind, r.call); err != nil && !strings.Contains(err.Error(), r.says) {
				t.Errorf("%v does not say %q", err, r.says)
			}
		})
	}
}

// badNames are those that nothing may have.
func badNames() map[string]string {
	return map[string]string{"no name": "", "slash": "a/b", "newline": "a\nb", "300 characters": strings.Repeat("a", 300), "65 characters": strings.Repeat("a", 65),
		"dash first": "-a", "two dots": "..", "space": "a b", "zero": "a\x00", "another script": "é"}
}

func TestNetworkRefusals(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true, IPAM: subnets("10.1.0.0/24", "fd00:1::/64")})
	w.container("c-first", nil, blue)
	w.container("c-second", nil, blue)
	w.network(sealane.NetworkSpec{ID: endpoint.NetworkID(id(0xaa)), Name: "one"})
	w.network(sealane.NetworkSpec{ID: endpoint.NetworkID(strings.Repeat("aa", 32)), Name: "two"})
	create := func(change func(*sealane.NetworkSpec)) func() error {
		return func() error {
			s := sealane.NetworkSpec{Name: "red", IPv6: true, IPAM: sealane.IPAM{Subnets: []sealane.SubnetSpec{{Subnet: prefix("10.5.0.0/24")}}}}
			change(&s)
			_, err := w.CreateNetwork(t.Context(), s)
			return err
		}
	}
	spec := func(change func(*sealane.NetworkSpec, *sealane.SubnetSpec)) func() error {
		return create(func(s *sealane.NetworkSpec) { change(s, &s.IPAM.Subnets[0]) })
	}
	option := func(key, value string) func() error {
		return create(func(s *sealane.NetworkSpec) { s.Options = map[string]string{key: value} })
	}
	aux := func(cidr ...string) map[string]netip.Addr {
		m := map[string]netip.Addr{}
		for i, a := range cidr {
			m[fmt.Sprint("aux", i)] = addr(a)
		}
		return m
	}
	for what, name := range badNames() {
		w.refuses(t, refusal{"name: " + what, "InvalidArgument", "", create(func(s *sealane.NetworkSpec) { s.Name = name })})
	}
	w.refuses(t,
		refusal{"duplicate name", "AlreadyExists", string(blue.ID()), create(func(s *sealane.NetworkSpec) { s.Name = "blue" })},
		refusal{"duplicate id", "AlreadyExists", string(blue.ID()), create(func(s *sealane.NetworkSpec) { s.ID = blue.ID() })},
		refusal{"short id", "InvalidArgument", "64", create(func(s *sealane.NetworkSpec) { s.ID = "abc" })},
		refusal{"id with a slash", "InvalidArgument", "64", create(func(s *sealane.NetworkSpec) { s.ID = "../" + endpoint.NetworkID(strings.Repeat("a", 61)) })},
		refusal{"no family", "InvalidArgument", "IPv4 or IPv6", create(func(s *sealane.NetworkSpec) { *s = sealane.NetworkSpec{Name: "red", NoIPv4: true} })},
		refusal{"same subnet", "AlreadyExists", "10.1.0.0/24", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Subnet = prefix("10.1.0.0/24") })},
		refusal{"wider subnet", "AlreadyExists", "10.1.0.0/24", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Subnet = prefix("10.0.0.0/8") })},
		refusal{"narrower subnet", "AlreadyExists", "fd00:1::/64", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Subnet = prefix("fd00:1::/80") })},
		refusal{"subnets that overlap", "InvalidArgument", "overlap", create(func(s *sealane.NetworkSpec) { s.IPAM = subnets("10.5.0.0/24", "10.5.0.128/25") })},
		refusal{"two subnets a family", "InvalidArgument", "one a family", create(func(s *sealane.NetworkSpec) { s.IPAM = subnets("10.5.0.0/24", "10.6.0.0/24") })},
		refusal{"host bits", "InvalidArgument", "10.5.0.0/24", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Subnet = netip.MustParsePrefix("10.5.0.7/24") })},
		refusal{"IPv6 subnet without IPv6", "InvalidArgument", "IPv6", spec(func(s *sealane.NetworkSpec, n *sealane.SubnetSpec) { s.IPv6, n.Subnet = false, prefix("fd00:5::/64") })},
		refusal{"IPv4 subnet without IPv4", "InvalidArgument", "IPv4", create(func(s *sealane.NetworkSpec) { s.NoIPv4 = true })},
		refusal{"gateway outside", "InvalidArgument", "10.6.0.1", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Gateway = addr("10.6.0.1") })},
		refusal{"gateway of the other family", "InvalidArgument", "fd00::1", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Gateway = addr("fd00::1") })},
		refusal{"gateway is the network's address", "OutOfRange", "10.5.0.0", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Gateway = addr("10.5.0.0") })},
		refusal{"gateway is the broadcast address", "OutOfRange", "10.5.0.255", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Gateway = addr("10.5.0.255") })},
		refusal{"range outside", "InvalidArgument", "10.6.0.0/25", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Range = prefix("10.6.0.0/25") })},
		refusal{"range wider", "InvalidArgument", "10.4.0.0/15", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Range = prefix("10.4.0.0/15") })},
		refusal{"aux outside", "InvalidArgument", "10.6.0.9", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Aux = aux("10.5.0.9", "10.6.0.9") })},
		refusal{"aux twice", "AlreadyExists", "10.5.0.9", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Aux = aux("10.5.0.9", "10.5.0.9") })},
		refusal{"aux is the gateway", "AlreadyExists", "10.5.0.1", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) {
			n.Gateway, n.Aux = addr("10.5.0.1"), aux("10.5.0.1")
		})},
		refusal{"range without subnet", "InvalidArgument", "subnet", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) {
			*n = sealane.SubnetSpec{Range: prefix("10.5.0.0/25")}
		})},
		refusal{"a pool that nobody requested", "NotFound", "nothing", spec(func(_ *sealane.NetworkSpec, n *sealane.SubnetSpec) { n.Pool = "nothing" })},
		refusal{"unknown driver", "NotFound", "bridgee", create(func(s *sealane.NetworkSpec) { s.Driver = "bridgee" })},
		refusal{"unknown IPAM", "NotFound", "defaultt", create(func(s *sealane.NetworkSpec) { s.IPAM.Driver = "defaultt" })},
		refusal{"unknown option", "InvalidArgument", "mtuu", option("mtuu", "1500")},
		refusal{"unknown option of Docker's", "InvalidArgument", "com.docker.network.bridge.nope", option("com.docker.network.bridge.nope", "")},
		refusal{"MTU that is no number", "InvalidArgument", "mtu", option("mtu", "big")},
		refusal{"MTU too small for IPv6", "InvalidArgument", "1280", option("mtu", "1000")},
		refusal{"device name too long", "InvalidArgument", "15 bytes", option("com.docker.network.bridge.name", "0123456789abcdef")},
		refusal{"device that is somebody's", "AlreadyExists", "outside", option("com.docker.network.bridge.name", "outside")},
		refusal{"device of another network", "AlreadyExists", "sl-", option("com.docker.network.bridge.name", "sl-"+string(blue.ID())[:12])},
		refusal{"bad value", "InvalidArgument", "gateway_mode_ipv4", option("gateway_mode_ipv4", "fast")},
		refusal{"global without a cluster", "FailedPrecondition", "cluster store", create(func(s *sealane.NetworkSpec) { s.Scope = netdriver.Global })},
		refusal{"delete with endpoints", "FailedPrecondition", "c-first", func() error { return blue.Delete(t.Context()) }},
		refusal{"forget with endpoints", "FailedPrecondition", "c-second", func() error { return blue.Forget(t.Context()) }},
		refusal{"no reference", "InvalidArgument", "", func() error { _, err := w.Network(t.Context(), ""); return err }},
		refusal{"unknown reference", "NotFound", "green", func() error { _, err := w.Network(t.Context(), "green"); return err }},
		refusal{"ambiguous reference", "InvalidArgument", "2 ids", func() error { _, err := w.Network(t.Context(), "aa"); return err }},
		refusal{"update of what cannot change", "FailedPrecondition", "another network", func() error {
			return blue.Update(t.Context(), func(s *sealane.NetworkSpec) error { s.IPv6 = false; return nil })
		}},
	)
}

func TestEndpointRefusals(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true, IPAM: sealane.IPAM{Subnets: []sealane.SubnetSpec{
		{Subnet: prefix("10.1.0.0/24"), Aux: map[string]netip.Addr{"printer": addr("10.1.0.9")}}, {Subnet: prefix("fd00:1::/64")}}}})
	red := w.network(sealane.NetworkSpec{Name: "red"})
	c := w.container("c", ports(t, "8080:80", "9000-9009:9000-9009/udp"), blue)
	other := w.sandbox(sandbox.Spec{Name: "other"})
	joined := c.endpoints[0]
	alone, err := red.CreateEndpoint(t.Context(), endpoint.Spec{Name: "alone", For: other.ID()})
	if err != nil {
		t.Fatal(err)
	}
	gone := w.sandbox(sandbox.Spec{Name: "gone"})
	if err := gone.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.host.Listen("tcp", "[::]:7000")
	w.host.ListenPacket("udp", "127.0.0.1:7001")
	create := func(change func(*endpoint.Spec)) func() error {
		return func() error {
			s := endpoint.Spec{Name: "e"}
			change(&s)
			_, err := blue.CreateEndpoint(t.Context(), s)
			return err
		}
	}
	address := func(all ...string) func() error {
		return create(func(s *endpoint.Spec) {
			for _, a := range all {
				s.Addresses = append(s.Addresses, netip.PrefixFrom(addr(a), 24))
			}
		})
	}
	// publish is a join that cannot have its ports. What was made for it goes again.
	publish := func(spec string) func() error {
		return func() error {
			e, err := red.CreateEndpoint(t.Context(), endpoint.Spec{Name: "e", Publish: ports(t, spec)})
			if err != nil {
				return err
			}
			return errors.Join(e.Join(t.Context(), other), e.Delete(t.Context()))
		}
	}
	update := func(change func(*endpoint.Spec)) func() error {
		return func() error {
			return joined.Update(t.Context(), func(s *endpoint.Spec) error { change(s); return nil })
		}
	}
	for what, name := range badNames() {
		if name != "" { // made from the id
			w.refuses(t, refusal{"name: " + what, "InvalidArgument", "", create(func(s *endpoint.Spec) { s.Name = name })})
		}
	}
	w.refuses(t,
		refusal{"duplicate name", "AlreadyExists", string(joined.ID()), create(func(s *endpoint.Spec) { s.Name = "c" })},
		refusal{"duplicate id", "AlreadyExists", string(joined.ID()), create(func(s *endpoint.Spec) { s.ID = joined.ID() })},
		refusal{"bad id", "InvalidArgument", "64", create(func(s *endpoint.Spec) { s.ID = "x" })},
		refusal{"address taken", "AlreadyExists", "10.1.0.2", address("10.1.0.2")},
		refusal{"IPv6 address taken", "AlreadyExists", "fd00:1::2", address("10.1.0.77", "fd00:1::2")},
		refusal{"the gateway's address", "AlreadyExists", "10.1.0.1", address("10.1.0.1")},
		refusal{"an auxiliary address", "AlreadyExists", "10.1.0.9", address("10.1.0.9")},
		refusal{"address outside", "OutOfRange", "10.2.0.2", address("10.2.0.2")},
		refusal{"one address inside, one outside", "OutOfRange", "fd00:2::2", address("10.1.0.77", "fd00:2::2")},
		refusal{"the network's address", "OutOfRange", "10.1.0.0", address("10.1.0.0")},
		refusal{"the broadcast address", "OutOfRange", "10.1.0.255", address("10.1.0.255")},
		refusal{"multicast MAC", "InvalidArgument", "multicast", create(func(s *endpoint.Spec) { s.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} })},
		refusal{"short MAC", "InvalidArgument", "6 bytes", create(func(s *endpoint.Spec) { s.MAC = net.HardwareAddr{2, 0, 0} })},
		refusal{"interface name too long", "InvalidArgument", "15", create(func(s *endpoint.Spec) { s.Interface = "0123456789abcdef" })},
		refusal{"interface name with a slash", "InvalidArgument", "a/b", create(func(s *endpoint.Spec) { s.Interface = "a/b" })},
		refusal{"alias with a newline", "InvalidArgument", "a\\nb", create(func(s *endpoint.Spec) { s.Aliases = []string{"a\nb"} })},
		refusal{"unknown option", "InvalidArgument", "fast", create(func(s *endpoint.Spec) { s.Options = map[string]string{"fast": "1"} })},
		refusal{"sysctl of another interface", "InvalidArgument", "", create(func(s *endpoint.Spec) { s.Sysctls = map[string]string{"net.ipv4.conf.eth9.log_martians": "1"} })},
		refusal{"sysctl that is none of the net", "InvalidArgument", "", create(func(s *endpoint.Spec) { s.Sysctls = map[string]string{"kernel.panic": "1"} })},
		refusal{"for a sandbox that is not", "NotFound", "", create(func(s *endpoint.Spec) { s.For = gone.ID() })},
		refusal{"link-local address that is not", "InvalidArgument", "10.9.9.9", create(func(s *endpoint.Spec) { s.LinkLocal = []netip.Prefix{prefix("10.9.9.9/32")} })},
		refusal{"port without protocol", "InvalidArgument", "", create(func(s *endpoint.Spec) { s.Publish = []endpoint.PortBinding{{Ports: firewall.Range{First: 1, Last: 1}}} })},
		refusal{"port 0", "InvalidArgument", "", create(func(s *endpoint.Spec) { s.Publish = []endpoint.PortBinding{{Proto: firewall.TCP}} })},
		refusal{"ranges that do not fit", "InvalidArgument", "", create(func(s *endpoint.Spec) {
			s.Publish = []endpoint.PortBinding{{Proto: firewall.TCP, Ports: firewall.Range{First: 1, Last: 5}, HostPorts: firewall.Range{First: 1, Last: 3}}}
		})},
		refusal{"malformed port", "InvalidArgument", "80:80:80:80", func() error { _, err := endpoint.ParsePort("80:80:80:80"); return err }},
		refusal{"several mistakes", "InvalidArgument", "; ", create(func(s *endpoint.Spec) { s.Aliases, s.Interface = []string{"a b", "c/d"}, "a/b" })},
		refusal{"join a second sandbox", "FailedPrecondition", string(c.ID()), func() error { return joined.Join(t.Context(), other) }},
		refusal{"join nothing", "InvalidArgument", "no sandbox", func() error { return alone.Join(t.Context(), nil) }},
		refusal{"join a sandbox that is gone", "NotFound", "", func() error { return alone.Join(t.Context(), gone) }},
		refusal{"leave what is not joined", "FailedPrecondition", "no sandbox", func() error { return alone.Leave(t.Context()) }},
		refusal{"delete what is joined", "FailedPrecondition", string(c.ID()), func() error { return joined.Delete(t.Context()) }},
		refusal{"port of another process", "AlreadyExists", "7000", publish("7000:80")},
		refusal{"port of another process on one address", "AlreadyExists", "7001", publish("7001:80/udp")},
		refusal{"port of another endpoint", "AlreadyExists", "8080", publish("8080:80")},
		refusal{"port of another endpoint on one address", "AlreadyExists", "8080", publish("127.0.0.1:8080:80")},
		refusal{"range with a port of another endpoint", "AlreadyExists", "9005", publish("9005-9020:9005-9020/udp")},
		refusal{"range of one port that is taken", "AlreadyExists", "8080", publish("8080-8080:80")},
		refusal{"update to a port that is taken", "AlreadyExists", "7000", update(func(s *endpoint.Spec) { s.Publish = ports(t, "8081:81", "7000:80") })},
		refusal{"update of the name", "FailedPrecondition", "another endpoint", update(func(s *endpoint.Spec) { s.Name = "d" })},
		refusal{"update to a malformed port", "InvalidArgument", "", update(func(s *endpoint.Spec) { s.Publish = []endpoint.PortBinding{{}} })},
		refusal{"unknown reference", "NotFound", "green", func() error { _, err := blue.Endpoint(t.Context(), "green"); return err }},
	)
}

func TestSandboxRefusals(t *testing.T) {
	w := newWorld(t)
	c := w.container("c", nil, w.network(sealane.NetworkSpec{Name: "blue"}))
	its, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := runDir(t)
	if err := errors.Join(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	dead := process(t)
	if err := dead.Kill(); err != nil {
		t.Fatal(err)
	}
	dead.Wait()
	given := newBound(t)
	w.sandbox(sandboxAt("given", given.path))
	linked := filepath.Join(dir, "link")
	if err := os.Symlink(given.path, linked); err != nil {
		t.Fatal(err)
	}
	create := func(change func(*sandbox.Spec)) func() error {
		return func() error {
			s := sandbox.Spec{Name: "s"}
			change(&s)
			_, err := w.CreateSandbox(t.Context(), s)
			return err
		}
	}
	at := func(path string) func() error {
		return create(func(s *sandbox.Spec) { s.Namespace.Path = path })
	}
	names := func(n sandbox.Names) func() error { return create(func(s *sandbox.Spec) { s.Names = n }) }
	sysctl := func(key, value string) func() error {
		return create(func(s *sandbox.Spec) { s.Sysctls = map[string]string{key: value} })
	}
	for what, name := range badNames() {
		if name != "" { // made from the id
			w.refuses(t, refusal{"name: " + what, "InvalidArgument", "", create(func(s *sandbox.Spec) { s.Name = name })})
		}
	}
	w.refuses(t,
		refusal{"duplicate name", "AlreadyExists", string(c.ID()), create(func(s *sandbox.Spec) { s.Name = "c" })},
		refusal{"duplicate id", "AlreadyExists", string(c.ID()), create(func(s *sandbox.Spec) { s.ID, s.Namespace.Path = c.ID(), newBound(t).path })},
		refusal{"bad id", "InvalidArgument", "64", create(func(s *sandbox.Spec) { s.ID = "../x" })},
		refusal{"FIFO", "InvalidArgument", "FIFO", at(filepath.Join(dir, "fifo"))},
		refusal{"directory", "InvalidArgument", "directory", at(dir)},
		refusal{"device", "InvalidArgument", "device", at("/dev/null")},
		refusal{"plain file", "InvalidArgument", "plain file", at(filepath.Join(dir, "file"))},
		refusal{"mount namespace", "InvalidArgument", "mount namespace", at("/proc/self/ns/mnt")},
		refusal{"user namespace", "InvalidArgument", "user namespace", at("/proc/self/ns/user")},
		refusal{"nothing", "NotFound", "nothing", at(filepath.Join(dir, "nothing"))},
		refusal{"dead process", "NotFound", fmt.Sprint(dead.Pid), create(func(s *sandbox.Spec) { s.Namespace.PID = dead.Pid })},
		refusal{"negative pid", "InvalidArgument", "-7", create(func(s *sandbox.Spec) { s.Namespace.PID = -7 })},
		refusal{"the host's own", "InvalidArgument", "host", at(w.host.Path())},
		refusal{"another sandbox's", "AlreadyExists", string(c.ID()), at(its.Key)},
		refusal{"another sandbox's by another name", "AlreadyExists", "namespace of sandbox", at(linked)},
		refusal{"two origins", "InvalidArgument", "one of these", create(func(s *sandbox.Spec) { s.Namespace = sandbox.Origin{Path: given.path, Late: true} })},
		refusal{"share of nobody", "NotFound", "", create(func(s *sandbox.Spec) { s.Namespace.Share = sandbox.ID(id(9)) })},
		refusal{"hostname with a newline", "InvalidArgument", "hostname", names(sandbox.Names{Hostname: "a\n127.0.0.1 bank"})},
		refusal{"search domain with a newline", "InvalidArgument", "search", names(sandbox.Names{Search: []string{"a\nnameserver 6.6.6.6"}})},
		refusal{"resolver option with a newline", "InvalidArgument", "option", names(sandbox.Names{Options: []string{"ndots:1\nnameserver 6.6.6.6"}})},
		refusal{"host entry with a newline", "InvalidArgument", "", names(sandbox.Names{Hosts: []sandbox.HostEntry{{Name: "a\nb"}}})},
		refusal{"DNS server with a newline", "InvalidArgument", "server", names(sandbox.Names{DNS: []netip.Addr{addr("fe80::1%a\nnameserver 6.6.6.6")}})},
		refusal{"sysctl of the kernel's", "InvalidArgument", "kernel", sysctl("kernel.panic", "1")},
		refusal{"sysctl by dots", "InvalidArgument", "", sysctl("net/../kernel/panic", "1")},
		refusal{"sysctl that is not there", "NotFound", "nope", sysctl("net.ipv4.nope", "1")},
		refusal{"sysctl with a bad value", "InvalidArgument", "ip_forward", sysctl("net.ipv4.ip_forward", "maybe")},
		refusal{"sysctl of a late one", "InvalidArgument", "", create(func(s *sandbox.Spec) {
			s.Namespace.Late, s.Sysctls = true, map[string]string{"net.ipv4.ip_forward": "1"}
		})},
		refusal{"namespace of one that has one", "FailedPrecondition", "already", func() error { return c.SetNamespace(t.Context(), sandbox.Origin{Path: given.path}) }},
		refusal{"unknown reference", "NotFound", "green", func() error { _, err := w.Sandbox(t.Context(), "green"); return err }},
		refusal{"bad names at refresh", "InvalidArgument", "hostname", func() error { return c.Refresh(t.Context(), sandbox.Names{Hostname: "a b"}) }},
	)
}

// A bridge has 1,023 ports. The next endpoint is refused when it joins, and nothing of it stays.
func TestBridgeIsFull(t *testing.T) {
	w := newWorld(t)
	n := w.network(sealane.NetworkSpec{Name: "blue"})
	bridge, err := w.host.Netlink().LinkByName("sl-" + string(n.ID())[:12])
	if err != nil {
		t.Fatal(err)
	}
	const group = 4711
	for i := range 511 { // both ends of a pair
		pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: fmt.Sprint("b", i)}
		pair.Name, pair.MasterIndex, pair.Group = fmt.Sprint("a", i), bridge.Attrs().Index, group
		if err := w.host.Netlink().LinkAdd(pair); err != nil {
			t.Fatal(err)
		}
		peer, err := w.host.Netlink().LinkByName(pair.PeerName)
		if err == nil {
			err = w.host.Netlink().LinkSetMaster(peer, bridge)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	last := w.container("last", nil, n)
	late := w.sandbox(sandbox.Spec{Name: "late"})
	e, err := n.CreateEndpoint(t.Context(), endpoint.Spec{Name: "late", For: late.ID(), Publish: ports(t, "8080:80")})
	if err != nil {
		t.Fatal(err)
	}
	refuses(t, w, "ResourceExhausted", func() error { return e.Join(t.Context(), late) })
	if err := last.pings(addr("192.0.2.1")); err != nil {
		t.Error(err)
	}
	if err := last.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Join(t.Context(), late); err != nil {
		t.Errorf("one left, and the next does not get in: %v", err)
	}
	w.host.Run("ip", "link", "delete", "group", fmt.Sprint(group))
}

// Of many who create one name at once exactly one has it, and the others are told its id.
func TestOneOfManyGetsTheName(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue"})
	for what, create := range map[string]func(i int) (string, error){
		"network": func(int) (string, error) {
			n, err := w.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: "wanted"})
			if err != nil {
				return "", err
			}
			return string(n.ID()), nil
		},
		"sandbox": func(int) (string, error) {
			s, err := w.CreateSandbox(t.Context(), sandbox.Spec{Name: "wanted"})
			if err != nil {
				return "", err
			}
			return string(s.ID()), nil
		},
		"endpoint": func(int) (string, error) {
			e, err := blue.CreateEndpoint(t.Context(), endpoint.Spec{Name: "wanted"})
			if err != nil {
				return "", err
			}
			return string(e.ID()), nil
		},
		"network with a subnet": func(i int) (string, error) {
			n, err := w.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: fmt.Sprint("subnet", i), IPAM: subnets("10.77.0.0/24")})
			if err != nil {
				return "", err
			}
			return string(n.ID()), nil
		},
		"address": func(i int) (string, error) {
			e, err := blue.CreateEndpoint(t.Context(), endpoint.Spec{Name: fmt.Sprint("address", i), Addresses: []netip.Prefix{prefix("172.17.0.99/16")}})
			if err != nil {
				return "", err
			}
			return string(e.ID()), nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			var mu sync.Mutex
			var won []string
			var refused []error
			var wg sync.WaitGroup
			for i := range 50 {
				wg.Go(func() {
					id, err := create(i)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						won = append(won, id)
					} else {
						refused = append(refused, err)
					}
				})
			}
			wg.Wait()
			if len(won) != 1 {
				t.Fatalf("%d have it", len(won))
			}
			for _, err := range refused {
				if !errdefs.IsAlreadyExists(err) || what != "address" && !strings.Contains(err.Error(), won[0]) {
					t.Errorf("got %v, want AlreadyExists with %s", err, won[0])
				}
			}
			w.remove(t, what, won[0])
		})
	}
}

// remove deletes what a race made.
func (w *world) remove(t *testing.T, what, id string) {
	t.Helper()
	var err error
	switch {
	case strings.HasPrefix(what, "network"):
		var n sealane.Network
		if n, err = w.Network(t.Context(), id); err == nil {
			err = n.Delete(t.Context())
		}
	case what == "sandbox":
		var s sandbox.Sandbox
		if s, err = w.Sandbox(t.Context(), id); err == nil {
			err = s.Delete(t.Context())
		}
	default:
		var e endpoint.Endpoint
		if e, err = w.named("blue").Endpoint(t.Context(), id); err == nil {
			err = e.Delete(t.Context())
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// An endpoint that left has no claim on its port: who took it meanwhile keeps it.
func TestPortOfAnEndpointThatLeftIsFree(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue"})
	c := w.container("c", ports(t, "8080:80"), blue)
	if err := c.endpoints[0].Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	if info, err := c.endpoints[0].Info(t.Context()); err != nil || len(info.Ports) != 0 {
		t.Errorf("it has %v, %v", info.Ports, err)
	}
	other := w.container("other", ports(t, "8080:80"), blue)
	refuses(t, w, "AlreadyExists", func() error { return c.endpoints[0].Join(t.Context(), c) })
	if err := other.Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	thief := w.host.Listen("tcp", "[::]:8080")
	refuses(t, w, "AlreadyExists", func() error { return c.endpoints[0].Join(t.Context(), c) })
	thief.Close()
	if err := c.endpoints[0].Join(t.Context(), c); err != nil {
		t.Error(err)
	}
}
