package nftables_test

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/nstest"
)

// open opens the firewall of a test host.
func open(t testing.TB, h *nstest.Host, instance string) (*nftables.Opener, firewall.Firewall) {
	t.Helper()
	o, err := nftables.New(nftables.Options{Host: h.Path(), Instance: instance})
	if err != nil {
		t.Fatal(err)
	}
	f, err := o.Open(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return o, f
}

func TestSuite(t *testing.T) {
	nstest.MustNotLeak(t)
	firewalltest.Run(t, func(t testing.TB) firewall.Firewall {
		h := nstest.New(t, "h")
		_, f := open(t, h, "")
		return f
	})
}

// TestNothingIsLeft: the last term takes all with it, tables of others stay.
func TestNothingIsLeft(t *testing.T) {
	nstest.MustNotLeak(t)
	h := nstest.New(t, "h")
	docker(h)
	h.MustReturn()
	_, f := open(t, h, "")
	net := firewall.Terms{Networks: []firewall.Network{net1(), net2()}}
	apply(t, f, firewall.Change{Owner: "net/1", Want: net}, firewall.Change{Owner: "ep/1", Want: port80()})
	apply(t, f, firewall.Change{Owner: "net/1", Have: net})
	apply(t, f, firewall.Change{Owner: "ep/1", Have: port80()})
}

// TestEveryPort: all ports there are, in one change; and what is read back of a set that has just grown or shrunk is all of it.
func TestEveryPort(t *testing.T) {
	_, f := filled(t, 0)
	ports := func(first, last uint16) firewall.Terms {
		r := firewall.Range{First: first, Last: last}
		return firewall.Terms{Ports: []firewall.Port{{Interface: "sl-1", Proto: firewall.TCP, Host: addr("0.0.0.0"), HostPorts: r, Target: addr("10.1.0.2"), Ports: r}}}
	}
	apply(t, f, firewall.Change{Owner: "ep/1", Want: ports(1, 65535)})
	have := ports(1, 65535)
	for _, want := range []firewall.Terms{ports(1, 9999), ports(1, 19999), ports(5000, 7000), {}} {
		apply(t, f, firewall.Change{Owner: "ep/1", Have: have, Want: want})
		got, err := f.Observe(context.Background())
		if err != nil || !got["ep/1"].Equal(want) {
			t.Errorf("observed %d ranges, %v, want %v", len(got["ep/1"].Ports), err, want)
		}
		have = want
	}
}

// TestSandbox: the firewall of a namespace that is not the host leaves Docker and routes alone.
func TestSandbox(t *testing.T) {
	h, inside := nstest.New(t, "h"), nstest.New(t, "inside")
	docker(inside)
	o, _ := open(t, h, "")
	f, err := o.Open(context.Background(), inside.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	apply(t, f, firewall.Change{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{net1()}}})
	if got := accepts(inside); got != "" || h.Ruleset() != "" {
		t.Errorf("in the sandbox: %s, in the host: %s", got, h.Ruleset())
	}
	if _, err := o.Open(context.Background(), "/nowhere"); !errdefs.IsNotFound(err) {
		t.Errorf("got %v, want NotFound", err)
	}
	if _, err := nftables.New(nftables.Options{Instance: "a b"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v, want InvalidArgument", err)
	}
}
