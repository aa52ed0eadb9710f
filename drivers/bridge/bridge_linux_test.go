package bridge_test

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/sealane/sealane/drivers/bridge"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/netdriver/drivertest"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
)

// room does plans on a host of the real kernel.
type room struct {
	t      *testing.T
	spaces *netns.Provider
	host   sandbox.Namespace
	wall   firewall.Firewall
	undo   []func()
}

func newRoom(t *testing.T, host *nstest.Host) *room {
	spaces, err := netns.New(netns.Options{Host: host.Path(), Run: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spaces.Close() })
	walls, err := nftables.New(nftables.Options{Host: host.Path()})
	if err != nil {
		t.Fatal(err)
	}
	wall, err := walls.Open(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wall.Close() })
	r := &room{t: t, spaces: spaces, wall: wall}
	r.host = r.open(sandbox.Origin{Host: true})
	return r
}

func (r *room) open(o sandbox.Origin) sandbox.Namespace {
	r.t.Helper()
	n, err := r.spaces.Open(r.t.Context(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { n.Close() })
	return n
}

// do applies what a driver plans for the host: terms, then links, and backwards when it is undone.
func (r *room) do(owner string, p netdriver.Plan, err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, s := range p.Shares {
		r.terms(owner, firewall.Terms{}, s.Terms)
		r.undo = append(r.undo, func() { r.terms(owner, s.Terms, firewall.Terms{}) })
		r.links(r.host, owner, s.Config)
	}
}

func (r *room) terms(owner string, have, want firewall.Terms) {
	r.t.Helper()
	if err := r.wall.Apply(r.t.Context(), []firewall.Change{{Owner: owner, Have: have, Want: want}}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *room) links(in sandbox.Namespace, owner string, c sandbox.Config) {
	r.t.Helper()
	if _, err := in.Apply(r.t.Context(), owner, sandbox.Config{}, c); err != nil {
		r.t.Fatal(err)
	}
	r.undo = append(r.undo, func() {
		if _, err := in.Apply(r.t.Context(), owner, c, sandbox.Config{}); err != nil {
			r.t.Error(err)
		}
	})
}

// join puts an endpoint into a sandbox, as the Controller would.
func (r *room) join(in netdriver.Input, e endpoint.Info, into *nstest.Host) {
	r.t.Helper()
	inside := r.open(sandbox.Origin{Path: into.Path()})
	e.Key = inside.Key()
	plan, err := bridge.New().Join(r.t.Context(), in, e)
	if err != nil {
		r.t.Fatal(err)
	}
	content, err := sandbox.Merge(map[string]sandbox.Attachment{string(e.ID): *plan.Attachment})
	if err != nil {
		r.t.Fatal(err)
	}
	r.do("ep/"+string(e.ID), plan.Named(content.Names[string(e.ID)]), nil)
	r.links(inside, "sb/"+into.Name, content.Config)
}

// Two sandboxes on one network of both families reach each other, the gateway and the outside; a published port is reached from
// outside; nothing is left.
func TestKernel(t *testing.T) {
	host, outside := nstest.New(t, "host"), nstest.New(t, "outside")
	host.Sysctl("ipv6/conf/default/addr_gen_mode", "1") // no address that comes when the inventory is taken
	nstest.Connect(host, outside,
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.9/24"), netip.MustParsePrefix("2001:db8::9/64")})
	inWeb, inDB := nstest.New(t, "web"), nstest.New(t, "db")
	host.MustReturn()

	r, in := newRoom(t, host), blue(nil)
	plan, err := bridge.New().CreateNetwork(t.Context(), in)
	r.do("net/"+string(in.Network.ID), plan, err)
	server := drivertest.Web()
	server.Ports = drivertest.Ports(t, "8080:80")
	client := drivertest.Web()
	client.ID, client.Spec.Name, client.Nonce = "e2", "db", "66778899aabb"
	client.Addresses = []netip.Prefix{netip.MustParsePrefix("10.1.0.3/24"), netip.MustParsePrefix("fd00:1::3/64")}
	client.MAC = endpoint.MAC(client.Addresses[0].Addr())
	r.join(in, server, inWeb)
	r.join(in, client, inDB)

	for _, to := range []string{"10.1.0.2", "fd00:1::2", "10.1.0.1", "fd00:1::1", "192.0.2.9", "2001:db8::9"} {
		inDB.Run("ping", "-c1", "-W10", to)
	}
	for network, listen := range map[string]string{"tcp4": "10.1.0.2:80", "tcp6": "[fd00:1::2]:80"} {
		l := inWeb.Listen(network, listen)
		go func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				c.Write([]byte(c.RemoteAddr().String()))
				c.Close()
			}
		}()
	}
	for to, from := range map[string]string{"192.0.2.1:8080": "192.0.2.9", "[2001:db8::1]:8080": "2001:db8::9"} {
		if got := ask(t, outside, to); got != from {
			t.Errorf("%s from outside: the server sees %q, want %s", to, got, from)
		}
	}
	for _, to := range []string{"127.0.0.1:8080", "[::1]:8080", "10.1.0.1:8080", "[fd00:1::1]:8080"} {
		if ask(t, host, to) == "" {
			t.Errorf("%s from the host is not answered", to)
		}
	}

	for _, u := range slices.Backward(r.undo) {
		u()
	}
}

// ask connects and returns the address that the server sees, "" when there is no answer.
func ask(t *testing.T, from *nstest.Host, to string) string {
	t.Helper()
	c, err := from.Dial("tcp", to)
	if err != nil {
		t.Log(err)
		return ""
	}
	defer c.Close()
	var b [64]byte
	n, _ := c.Read(b[:])
	seen, _, _ := net.SplitHostPort(string(b[:n]))
	return seen
}
