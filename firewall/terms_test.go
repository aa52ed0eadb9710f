package firewall

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"pgregory.net/rapid"
)

func somePort(first, last, to uint16) Port {
	return Port{Interface: "br1", Proto: TCP, Host: netip.IPv4Unspecified(), HostPorts: Range{first, last},
		Target: netip.MustParseAddr("10.1.0.2"), Ports: Range{to, to + last - first}}
}

func ports(p ...Port) Terms { return Terms{Ports: p} }

func TestNormalPorts(t *testing.T) {
	for name, c := range map[string]struct {
		in   Terms
		want []string
	}{
		"runs":       {ports(somePort(82, 83, 2), somePort(80, 81, 0x7fff), somePort(84, 84, 4)), []string{"80-81", "82-84"}},
		"repeated":   {ports(somePort(80, 82, 1), somePort(81, 81, 2)), []string{"80-82"}},
		"gap":        {ports(somePort(80, 80, 1), somePort(82, 82, 3)), []string{"80", "82"}},
		"shifted":    {ports(somePort(80, 80, 1), somePort(81, 81, 3)), []string{"80", "81"}},
		"to the end": {ports(somePort(65530, 65535, 65530)), []string{"65530-65535"}},
		"none":       {Terms{Ports: []Port{}}, nil},
	} {
		var got []string
		for _, p := range c.in.Normal().Ports {
			got = append(got, p.HostPorts.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

// TestNormal: the order in which terms are told and how ranges are cut do not matter, and normal terms stay as they are.
func TestNormal(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var a, b Terms
		for range rapid.IntRange(0, 4).Draw(r, "ports") {
			first := rapid.Uint16Range(1, 30).Draw(r, "first")
			p := somePort(first, rapid.Uint16Range(first, 40).Draw(r, "last"), first)
			a.Ports = append(a.Ports, p)
			cut := rapid.Uint16Range(first, p.HostPorts.Last).Draw(r, "cut")
			b.Ports = append(b.Ports, somePort(first, cut, first))
			if cut < p.HostPorts.Last {
				b.Ports = append(b.Ports, somePort(cut+1, p.HostPorts.Last, cut+1))
			}
		}
		for _, device := range []string{"br1", "br2"} {
			n := Network{Interface: device, Mode4: rapid.SampledFrom([]Mode{NAT, Routed, Off}).Draw(r, "mode"), NoMasq: rapid.Bool().Draw(r, "no masquerade"),
				Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8"), netip.MustParsePrefix("fd00::1/8")}}
			a.Networks = append(a.Networks, n)
			n.Subnets = []netip.Prefix{netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("10.0.0.0/8")}
			b.Networks = append([]Network{n}, b.Networks...)
		}
		rand.Shuffle(len(b.Ports), func(i, j int) { b.Ports[i], b.Ports[j] = b.Ports[j], b.Ports[i] })
		if !a.Equal(b) || !b.Equal(a) {
			r.Fatalf("not equal:\n%v\n%v", a.Normal(), b.Normal())
		}
		if n := a.Normal(); !reflect.DeepEqual(n, n.Normal()) {
			r.Fatalf("not normal: %v", n)
		}
	})
}

func TestEqualTellsApart(t *testing.T) {
	base := Network{Interface: "br1", Mode4: NAT, Mode6: NAT}
	for name, change := range map[string]func(*Network){
		"mode": func(n *Network) { n.Mode4 = Isolated }, "internal": func(n *Network) { n.Internal = true }, "icc": func(n *Network) { n.NoICC = true },
		"masquerade": func(n *Network) { n.NoMasq = true }, "source": func(n *Network) { n.SNAT4 = netip.MustParseAddr("192.0.2.1") },
		"trusted": func(n *Network) { n.Trusted = []string{"a"} }, "mark": func(n *Network) { n.AcceptMark = 1 }, "reach": func(n *Network) { n.Reach = []string{"a"} },
		"subnets": func(n *Network) { n.Subnets = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
	} {
		other := base
		change(&other)
		if (Terms{Networks: []Network{base}}).Equal(Terms{Networks: []Network{other}}) {
			t.Errorf("%s makes no difference", name)
		}
	}
	if !(Terms{}).IsZero() || (Terms{Tunnels: []Tunnel{{}}}).IsZero() || !(Terms{Policies: []Policy{}}).Equal(Terms{}) {
		t.Error("nothing is not nothing")
	}
	one, two := Policy{Deny: true}, Policy{Proto: TCP}
	if (Terms{Policies: []Policy{one, two}}).Equal(Terms{Policies: []Policy{two, one}}) {
		t.Error("the order of policies decides")
	}
}

func TestValidateNamesTheTerm(t *testing.T) {
	bad := somePort(80, 80, 80)
	bad.Proto = 1
	err := ports(bad).Validate()
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "0.0.0.0:80") {
		t.Errorf("got %v", err)
	}
	if err := ports(somePort(80, 80, 80)).Validate(); err != nil {
		t.Error(err)
	}
	if got, want := bad.String(), "0.0.0.0:80/1 -> 10.1.0.2:80"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	six := Port{Proto: UDP, Host: netip.IPv6Unspecified(), Target: netip.MustParseAddr("fd00::2"), HostPorts: Range{1, 2}, Ports: Range{3, 4}}
	if got, want := six.String(), "[::]:1-2/udp -> [fd00::2]:3-4"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
