package netns_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
	"golang.org/x/sys/unix"
)

// What the kernel refuses has a kind, names the step, and leaves a share from which applying again finishes.
func TestRefusals(t *testing.T) {
	r := newRoom(t, 0)
	r.uplink("taken")
	r.apply(r.host, "net/1", bridge())
	sb, _ := r.create()
	plug := func(name, master, peer, space string) sandbox.Config {
		return sandbox.Config{Links: []sandbox.Link{{Name: name, Master: master, Owner: "ep/1", Veth: &sandbox.Veth{Peer: peer, Space: space}}}}
	}
	route := func(r sandbox.Route) sandbox.Config { return sandbox.Config{Routes: []sandbox.Route{r}} }
	for name, c := range map[string]struct {
		want sandbox.Config
		is   func(error) bool
		says string
	}{
		"a foreign link has the name": {plug("taken", bridgeName, "eth0", sb.Key()), errdefs.IsAlreadyExists, "add link taken"},
		"a foreign bridge has it":     {sandbox.Config{Links: []sandbox.Link{{Name: "taken", Owner: "net/2", Bridge: &sandbox.Bridge{}}}}, errdefs.IsAlreadyExists, "not ours"},
		"the peer's name is taken":    {plug("sv1", bridgeName, "taken", ""), errdefs.IsAlreadyExists, "taken at its other end"},
		"no such bridge":              {plug("sv1", "sl-none", "eth0", sb.Key()), errdefs.IsNotFound, "find link sl-none"},
		"no bridge":                   {plug("sv1", "lo", "eth0", sb.Key()), errdefs.IsInvalidArgument, "add link sv1"},
		"no such namespace":           {plug("sv1", bridgeName, "eth0", "/run/none"), errdefs.IsNotFound, "/run/none"},
		"a bad name":                  {plug("a/b", "", "eth0", sb.Key()), errdefs.IsInvalidArgument, `"a/b"`},
		"a bad peer name":             {plug("sv1", "", "0123456789abcdef", sb.Key()), errdefs.IsInvalidArgument, "0123456789abcdef"},
		"no such far end":             {sandbox.Config{Links: []sandbox.Link{{Name: "eth7"}}}, errdefs.IsNotFound, "add link eth7"},
		"no foreign link to adopt":    {sandbox.Config{Links: []sandbox.Link{{Name: "eth7", Adopt: true}}}, errdefs.IsNotFound, "eth7"},
		"no parent":                   {sandbox.Config{Links: []sandbox.Link{{Name: "mv0", Child: &sandbox.Child{Kind: "macvlan", Parent: "eth7"}}}}, errdefs.IsNotFound, "eth7"},
		"no such mode":                {sandbox.Config{Links: []sandbox.Link{{Name: "mv0", Child: &sandbox.Child{Kind: "macvlan", Parent: "taken", Mode: "l3"}}}}, errdefs.IsInvalidArgument, `"l3"`},
		"no such kind":                {sandbox.Config{Links: []sandbox.Link{{Name: "mv0", Child: &sandbox.Child{Kind: "bond", Parent: "taken"}}}}, errdefs.IsInvalidArgument, `"bond"`},
		"a VLAN that is none":         {sandbox.Config{Links: []sandbox.Link{{Name: "mv0", Child: &sandbox.Child{Kind: "vlan", Parent: "taken", ID: "4095"}}}}, errdefs.IsInvalidArgument, `"4095"`},
		"an unreachable gateway":      {route(sandbox.Route{Dst: netip.MustParsePrefix("10.8.0.0/16"), Via: netip.MustParseAddr("192.0.2.1"), Link: bridgeName}), errdefs.IsFailedPrecondition, "route append"},
		"a route on nothing":          {route(sandbox.Route{Dst: netip.MustParsePrefix("10.8.0.0/16"), Link: "eth7"}), errdefs.IsNotFound, "eth7"},
		"a route that is none":        {route(sandbox.Route{Dst: netip.MustParsePrefix("10.8.0.0/16"), Type: "scenic"}), errdefs.IsInvalidArgument, "scenic"},
		"no such sysctl":              {sandbox.Config{Sysctls: []sandbox.Sysctl{{Key: "ipv4/none", Value: "1"}}}, errdefs.IsNotFound, "ipv4/none"},
		"a bad sysctl":                {sandbox.Config{Sysctls: []sandbox.Sysctl{{Key: "ipv4/ip_forward", Value: "x"}}}, errdefs.IsInvalidArgument, "ip_forward"},
		"a sysctl elsewhere":          {sandbox.Config{Sysctls: []sandbox.Sysctl{{Key: "../kernel/hostname", Value: "x"}}}, errdefs.IsInvalidArgument, "hostname"},
	} {
		t.Run(name, func(t *testing.T) {
			reached, err := r.host.Apply(context.Background(), "ep/1", sandbox.Config{}, c.want)
			if err == nil || !c.is(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want another kind or %q", err, c.says)
			}
			if len(reached.Links)+len(reached.Routes)+len(reached.Sysctls) != 0 {
				t.Errorf("reached %+v", reached)
			}
		})
	}
}

// A refusal in the middle leaves what came before and after it; the rest is done by applying again from what was reached.
func TestApplyFinishesFromWhatWasReached(t *testing.T) {
	ctx := context.Background()
	r := newRoom(t, 0)
	r.apply(r.host, "net/1", bridge())
	sb, _ := r.create()
	outer, inner := endpoint(2, sb.Key())
	r.apply(r.host, "ep/2", outer)
	bad := inner
	bad.Routes = append([]sandbox.Route{{Dst: netip.MustParsePrefix("10.8.0.0/16"), Via: netip.MustParseAddr("192.0.2.1"), Link: "eth0"}}, inner.Routes...)
	reached, err := sb.Apply(ctx, "sb/1", sandbox.Config{}, bad)
	if !errdefs.IsFailedPrecondition(err) {
		t.Fatalf("got %v", err)
	}
	if steps := sandbox.Diff(reached, inner); len(steps) != 0 {
		t.Errorf("reached lacks %v", steps)
	}
	r.mustBe(sb, "", inner)
	r.change(sb, "sb/1", reached, inner)
	r.change(sb, "sb/1", sandbox.Config{}, inner) // as after a crash that lost what was reached
	r.mustBe(sb, "", inner)
	r.change(sb, "sb/1", inner, sandbox.Config{})
	r.change(sb, "sb/1", inner, sandbox.Config{})
}

func TestFullBridge(t *testing.T) {
	h := nstest.New(t, "h")
	p := provider(t, h, 0)
	ctx := context.Background()
	host := must(p.Open(ctx, sandbox.Origin{Host: true}))(t)
	must(host.Apply(ctx, "net/1", sandbox.Config{}, bridge()))(t)
	sb := must(p.Create(ctx, "ab"))(t, closed[sandbox.Namespace])
	var full sandbox.Config
	for n := range 1024 {
		full.Links = append(full.Links, sandbox.Link{Name: fmt.Sprintf("sv%d", n), Master: bridgeName, Owner: "ep/1", Down: true,
			Veth: &sandbox.Veth{Peer: fmt.Sprintf("eth%d", n), Space: sb.Key()}})
	}
	reached, err := host.Apply(ctx, "ep/1", sandbox.Config{}, full)
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "bridge sl-0123456789ab is full (1,023 ports)") {
		t.Errorf("got %v", err)
	}
	if len(reached.Links) != 1023 {
		t.Errorf("reached %d links", len(reached.Links))
	}
	must(host.Apply(ctx, "ep/1", reached, sandbox.Config{}))(t)
	if err := p.Remove(ctx, "ab"); err != nil {
		t.Error(err)
	}
	if err := p.Drain(ctx); err != nil {
		t.Error(err)
	}
	if left := h.Run("ip", "-o", "link", "show", "type", "veth"); left != "" {
		t.Errorf("left: %d bytes", len(left))
	}
}

// A join that wants the name of an interface just left waits for it to be gone.
func TestNameIsUsedAgainAtOnce(t *testing.T) {
	r := newRoom(t, 0)
	r.apply(r.host, "net/1", bridge())
	sb, _ := r.create()
	for n := range 5 {
		outer, inner := endpoint(2+n%2, sb.Key())
		r.change(r.host, "ep/1", sandbox.Config{}, outer)
		r.change(sb, "sb/1", sandbox.Config{}, inner)
		r.h.Run("ping", "-c1", "-W10", inner.Links[0].Addrs[0].Addr().String())
		r.change(sb, "sb/1", inner, sandbox.Config{})
		r.change(r.host, "ep/1", outer, sandbox.Config{})
	}
	// The host's own name again, with another peer: made again in one Apply.
	outer, inner := endpoint(2, sb.Key())
	r.change(r.host, "ep/1", sandbox.Config{}, outer)
	other := sandbox.Config{Links: []sandbox.Link{outer.Links[0]}}
	other.Links[0].Veth = &sandbox.Veth{Peer: "eth1", Space: sb.Key(), MAC: outer.Links[0].Veth.MAC}
	inner.Links[0].Name = "eth1"
	for i := range inner.Routes {
		inner.Routes[i].Link = "eth1"
	}
	r.change(r.host, "ep/1", outer, other)
	r.change(sb, "sb/1", sandbox.Config{}, inner)
	r.mustBe(sb, "", inner)
	r.change(r.host, "ep/1", other, sandbox.Config{})
}

// A process that died between the two messages of creation, or before its record was written, is finished by the next one.
func TestCrashBetweenMessages(t *testing.T) {
	r := newRoom(t, 0)
	r.apply(r.host, "net/1", bridge())
	sb, _ := r.create()
	outer, inner := endpoint(2, sb.Key())
	r.change(r.host, "ep/2", sandbox.Config{}, outer)
	name := outer.Links[0].Name
	r.h.Run("ip", "link", "set", "dev", name, "down", "alias", "", "group", fmt.Sprint(r.p.MakingGroup()))
	shares := must(r.host.Observe(context.Background()))(t)
	if left := shares[netns.Leftover].Links; len(left) != 1 || left[0].Name != name {
		t.Errorf("leftovers: %+v", shares)
	}
	r.change(r.host, "ep/2", sandbox.Config{}, outer) // made again
	r.change(r.host, "ep/2", sandbox.Config{}, outer) // and, with its mark, once more
	r.change(sb, "sb/2", sandbox.Config{}, inner)
	r.mustBe(r.host, outer.Links[0].Owner, outer)
	r.mustBe(sb, "", inner)
	r.h.Run("ip", "link", "set", "dev", bridgeName, "down", "alias", "", "group", fmt.Sprint(r.p.MakingGroup()))
	r.change(r.host, "net/1", sandbox.Config{}, bridge())
	r.mustBe(r.host, "net/1", bridge())
	r.h.Run("ping", "-c1", "-W10", "10.0.0.2") // its ports stayed
	r.h.Run("ip", "link", "set", "dev", name, "down", "alias", "", "group", fmt.Sprint(r.p.MakingGroup()))
	shares = must(r.host.Observe(context.Background()))(t)
	r.change(r.host, netns.Leftover, shares[netns.Leftover], sandbox.Config{})
}

// Links that were given up when the process died are deleted by the next one.
func TestNextProviderFinishesDeleting(t *testing.T) {
	ctx := context.Background()
	h := nstest.New(t, "h")
	h.MustReturn()
	run := runDir(t)
	o := netns.Options{Host: h.Path(), Run: run, Instance: "test", Ready: 2}
	p := must(netns.New(o))(t)
	host := must(p.Open(ctx, sandbox.Origin{Host: true}))(t)
	link := sandbox.Config{Links: []sandbox.Link{{Name: "sv1", Owner: "ep/1", Veth: &sandbox.Veth{Peer: "sv2"}}}}
	must(host.Apply(ctx, "ep/1", sandbox.Config{}, link))(t)
	h.Run("ip", "link", "set", "dev", "sv1", "group", fmt.Sprint(p.MakingGroup()+5))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	q := must(netns.New(o))(t, closed[*netns.Provider])
	if err := q.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

// The batch that carries an error keeps the answers in order: nlmsg is trusted with that by settle.
func TestRefusalsAreInOrder(t *testing.T) {
	h := nstest.New(t, "h")
	s := must(nlmsg.Open(h.Path(), unix.NETLINK_ROUTE))(t, closed[*nlmsg.Socket])
	var b nlmsg.Batch
	for range 40 {
		b.Begin(unix.RTM_NEWLINK, 0)
		b.Raw(make([]byte, unix.SizeofIfInfomsg)...)
		b.String(unix.IFLA_IFNAME, "none")
		b.End()
	}
	b.Acknowledge()
	refused, err := nlmsg.Refusals(s.Do(&b, nil))
	if err != nil || len(refused) != 40 {
		t.Fatalf("%d refused, %v", len(refused), err)
	}
	for i, e := range refused {
		if e.Index != i {
			t.Fatalf("refusal %d is of message %d", i, e.Index)
		}
	}
}
