package docker_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/docker"
)

// newHosts are hosts, 1 to n, with an engine each and one store.
func newHosts(t *testing.T, n int) (all []*engine) {
	t.Helper()
	store := datastore.NewMemory()
	t.Cleanup(func() { store.Close() })
	for i := range n {
		all = append(all, newEngine(t, docker.Options{Cluster: store, Host: fmt.Sprint(i + 1)}))
	}
	return all
}

// pool asks for a pool of the network blue, as docker network create does.
func (e *engine) pool(subnet string, six bool) (id, pool string, status int) {
	e.t.Helper()
	status, said := e.call("/IpamDriver.RequestPool", fmt.Sprintf(`{"AddressSpace": "global", "Pool": %q, "Options": {"network": "blue"}, "V6": %v}`, subnet, six))
	id, _ = said["PoolID"].(string)
	pool, _ = said["Pool"].(string)
	return id, pool, status
}

// The engine that makes a shared network names its IPv6 subnet, and those that join have it by asking for any.
func TestSharedIPv6(t *testing.T) {
	hosts := newHosts(t, 2)
	one, two := hosts[0], hosts[1]
	four, pool4, _ := one.pool("", false)
	six, pool6, status := one.pool("fd99::/64", true)
	if status != 200 || pool6 != "fd99::/64" {
		t.Fatalf("%d %s", status, pool6)
	}
	if again, same, _ := one.pool("", false); again != four || same != pool4 {
		t.Errorf("the other family was %s %s and is %s %s", four, pool4, again, same)
	}
	gateway := map[string]string{}
	for _, p := range []string{four, six} {
		gateway[p] = one.must("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q, "Options": {"RequestAddressType": "com.docker.network.gateway"}}`, p), "Address")
	}
	create := fmt.Sprintf(`{"NetworkID": "n", "Options": {"com.docker.network.enable_ipv6": true, "com.docker.network.generic": {"network": "blue"}},
		"IPv4Data": [{"AddressSpace": "global", "Pool": %q, "Gateway": %q}], "IPv6Data": [{"AddressSpace": "global", "Pool": %q, "Gateway": %q}]}`,
		pool4, gateway[four], pool6, gateway[six])
	one.must("/NetworkDriver.CreateNetwork", create, "")
	for i, e := range hosts {
		id4, got4, _ := e.pool("", false)
		id6, got6, _ := e.pool("", true)
		if got4 != pool4 || got6 != pool6 || id4 != four || id6 != six {
			t.Errorf("host %d joins %s %s, %s %s", i+1, id4, got4, id6, got6)
		}
		if e == two {
			e.must("/NetworkDriver.CreateNetwork", create, "")
		}
		address := func(id string) string {
			return e.must("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q}`, id), "Address")
		}
		a4, a6 := address(four), address(six)
		e.must("/NetworkDriver.CreateEndpoint", fmt.Sprintf(`{"NetworkID": "n", "EndpointID": "e%d", "Interface": {"Address": %q, "AddressIPv6": %q}}`, i, a4, a6), "")
		e.must("/NetworkDriver.Join", fmt.Sprintf(`{"NetworkID": "n", "EndpointID": "e%d", "SandboxKey": "/x/y"}`, i), "")
		if state := e.state(); !strings.Contains(state, fmt.Sprintf("endpoint [%s %s]", a4, a6)) || strings.Count(state, "endpoint") != 1 {
			t.Errorf("host %d has %s %s:\n%s", i+1, a4, a6, state)
		}
	}
	if _, _, status := two.pool("fd77::/64", true); status == 200 {
		t.Error("another subnet than the network's was given")
	}
	for i, e := range hosts {
		e.must("/NetworkDriver.Leave", fmt.Sprintf(`{"NetworkID": "n", "EndpointID": "e%d"}`, i), "")
		e.must("/NetworkDriver.DeleteEndpoint", fmt.Sprintf(`{"NetworkID": "n", "EndpointID": "e%d"}`, i), "")
		e.must("/IpamDriver.ReleasePool", fmt.Sprintf(`{"PoolID": %q}`, four), "")
		e.must("/IpamDriver.ReleasePool", fmt.Sprintf(`{"PoolID": %q}`, six), "")
		e.must("/NetworkDriver.DeleteNetwork", `{"NetworkID": "n"}`, "")
	}
	if left := one.state() + two.state(); left != "" {
		t.Errorf("left:\n%s", left)
	}
}

// A container of both families needs one address of each, and no other for a moment.
func TestSharedIPv6LastAddress(t *testing.T) {
	e := newHosts(t, 1)[0]
	four, _, _ := e.pool("10.9.0.0/30", false)
	six, _, _ := e.pool("fd99::/64", true)
	for _, p := range []string{four, six} {
		e.must("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q, "Options": {"RequestAddressType": "com.docker.network.gateway"}}`, p), "Address")
		e.must("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q}`, p), "Address")
	}
	if state := e.state(); !strings.Contains(state, "endpoint [10.9.0.2/30]") || !strings.Contains(state, "endpoint [fd99::2/64]") {
		t.Errorf("leased:\n%s", state)
	}
}

// A network that a user made is joined by engines as it is, and stays when the last of them has left.
func TestSharedNetworkOfAUser(t *testing.T) {
	e := newHosts(t, 1)[0]
	if _, err := e.ctl.CreateNetwork(t.Context(), sealane.NetworkSpec{Name: "blue", Driver: "overlay"}); err != nil {
		t.Fatal(err)
	}
	before := e.state()
	for range 2 {
		id, pool, _ := e.pool("", false)
		gateway := e.must("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q, "Options": {"RequestAddressType": "com.docker.network.gateway"}}`, id), "Address")
		e.must("/NetworkDriver.CreateNetwork", fmt.Sprintf(`{"NetworkID": "n", "Options": {"com.docker.network.generic": {"network": "blue"}},
			"IPv4Data": [{"AddressSpace": "global", "Pool": %q, "Gateway": %q}]}`, pool, gateway), "")
		if now := e.state(); now != before {
			t.Errorf("joined, it is\n%s and was\n%s", now, before)
		}
		e.must("/IpamDriver.ReleasePool", fmt.Sprintf(`{"PoolID": %q}`, id), "")
		e.must("/NetworkDriver.DeleteNetwork", `{"NetworkID": "n"}`, "")
	}
	if left := e.state(); left != before {
		t.Errorf("left:\n%s", left)
	}
}

// Whoever makes it need not name the subnet.
func TestSharedIPv6Unnamed(t *testing.T) {
	e := newHosts(t, 1)[0]
	e.pool("", false)
	if _, pool, status := e.pool("", true); status != 200 || !strings.HasPrefix(pool, "fd") || !strings.HasSuffix(pool, "::/64") {
		t.Errorf("%d %s", status, pool)
	}
}

// A network that has engines on it, or that a user made, gets no IPv6 by one that joins: it is told how to come by it.
func TestSharedIPv6Refused(t *testing.T) {
	hosts := newHosts(t, 2)
	id, pool, _ := hosts[0].pool("", false)
	gateway := hosts[0].must("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q, "Options": {"RequestAddressType": "com.docker.network.gateway"}}`, id), "Address")
	hosts[0].must("/NetworkDriver.CreateNetwork", fmt.Sprintf(`{"NetworkID": "n", "Options": {"com.docker.network.generic": {"network": "blue"}},
		"IPv4Data": [{"AddressSpace": "global", "Pool": %q, "Gateway": %q}]}`, pool, gateway), "")
	status, said := hosts[1].call("/IpamDriver.RequestPool", `{"AddressSpace": "global", "Pool": "fd99::/64", "Options": {"network": "blue"}, "V6": true}`)
	if text := fmt.Sprint(said["Error"]); status == 200 || !strings.Contains(text, "for who makes it to ask for") {
		t.Errorf("%d %s", status, text)
	}
}

// An engine's network is bound to one that has its subnet, not to one whose subnet looks like it.
func TestSharedSubnetIsAnother(t *testing.T) {
	e := newHosts(t, 1)[0]
	id, pool, status := e.pool("111.7.0.0/16", false)
	if status != 200 || pool != "111.7.0.0/16" {
		t.Fatalf("%d %s", status, pool)
	}
	status, said := e.call("/NetworkDriver.CreateNetwork", `{"NetworkID": "n", "Options": {"com.docker.network.generic": {"network": "blue"}},
		"IPv4Data": [{"AddressSpace": "x", "Pool": "11.7.0.0/16", "Gateway": "11.7.0.1/16"}]}`)
	if text := fmt.Sprint(said["Err"]); status == 200 || !strings.Contains(text, "as the IPAM driver") {
		t.Errorf("%d %s", status, text)
	}
	status, said = e.call("/IpamDriver.RequestAddress", fmt.Sprintf(`{"PoolID": %q}`, id+"x"))
	if text := fmt.Sprint(said["Error"]); status == 200 || !strings.Contains(text, "not found") {
		t.Errorf("an address of a pool that is none: %d %s", status, text)
	}
}
