package nftables_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/internal/nstest"
)

// docker does to a host's firewall what Docker does when it starts.
func docker(h *nstest.Host) {
	for _, program := range []string{"iptables", "ip6tables"} {
		h.Run(program, "-P", "FORWARD", "DROP")
		h.Run(program, "-N", "DOCKER-USER")
		h.Run(program, "-A", "DOCKER-USER", "-j", "RETURN")
		h.Run(program, "-I", "FORWARD", "-j", "DOCKER-USER")
	}
}

// accepts is what iptables shows of accepting rules.
func accepts(h *nstest.Host) (all string) {
	for _, program := range []string{"iptables", "ip6tables"} {
		for _, line := range strings.Split(h.Run(program, "-S"), "\n") {
			if strings.HasSuffix(line, "-j ACCEPT") {
				all += program + " " + line + "\n"
			}
		}
	}
	return all
}

// TestBesideDocker: everything is reached as without it, containers of others are not, and nothing of ours is left in its chains.
func TestBesideDocker(t *testing.T) {
	for name, bridgeNetfilter := range map[string]bool{"bridge-nf-call 0": false, "bridge-nf-call 1": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			besideDocker(t, bridgeNetfilter)
		})
	}
}

func besideDocker(t *testing.T, bridgeNetfilter bool) {
	top := build(t, bridgeNetfilter)
	docker(top.Host)
	theirs := nstest.New(t, "theirs")
	bridge(top.Host, "docker0", "172.17.0.1/16")
	nstest.Connect(top.Host, theirs, nil, prefixes("172.17.0.2/16"))
	top.Host.Run("ip", "link", "set", "theirs", "master", "docker0")
	theirs.Route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), addr("172.17.0.1"))
	firewalltest.Serve(t, theirs, 80)
	up(t, top.Host, "docker0", "theirs")

	_, f := open(t, top.Host, "")
	named := net2()
	named.Interface = "sealane0"
	top.Host.Run("ip", "link", "set", "sl-2", "down")
	top.Host.Run("ip", "link", "set", "sl-2", "name", "sealane0")
	top.Host.Run("ip", "link", "set", "sealane0", "up")
	top.Host.Run("ip", "address", "replace", "fd00:2::1/64", "dev", "sealane0", "nodad")
	top.Host.Run("ip", "address", "replace", "fe80::1/64", "dev", "sealane0", "nodad")
	up(t, top.Host, "sealane0")
	all := []firewall.Change{{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{net1()}}},
		{Owner: "net/2", Want: firewall.Terms{Networks: []firewall.Network{named}}}, {Owner: "ep/1", Want: published(top)}}
	apply(t, f, all...)
	const want = `iptables -A FORWARD -o sl-+ -m comment --comment sealane -j ACCEPT
iptables -A FORWARD -i sl-+ -m comment --comment sealane -j ACCEPT
iptables -A FORWARD -o sealane0 -m comment --comment sealane -j ACCEPT
iptables -A FORWARD -i sealane0 -m comment --comment sealane -j ACCEPT
iptables -A DOCKER-USER -o sl-+ -m comment --comment sealane -j ACCEPT
iptables -A DOCKER-USER -i sl-+ -m comment --comment sealane -j ACCEPT
iptables -A DOCKER-USER -o sealane0 -m comment --comment sealane -j ACCEPT
iptables -A DOCKER-USER -i sealane0 -m comment --comment sealane -j ACCEPT
`
	if got := accepts(top.Host); got != want+strings.ReplaceAll(want, "iptables", "ip6tables") {
		t.Errorf("iptables shows\n%s", got)
	}
	firewalltest.Reach(t, top)
	firewalltest.Call(t, top.Self, firewall.TCP, netip.MustParseAddrPort("172.17.0.2:80"), nobody)
	firewalltest.Call(t, top.Host, firewall.TCP, netip.MustParseAddrPort("172.17.0.2:80"), addr("172.17.0.1"))

	// An engine that starts takes its jump away for a moment.
	for _, program := range []string{"iptables", "ip6tables"} {
		top.Host.Run(program, "-D", "FORWARD", "-j", "DOCKER-USER")
	}
	for _, a := range top.Addrs {
		firewalltest.Call(t, top.Outside, firewall.UDP, netip.AddrPortFrom(a.Host, top.Any), a.Outside)
	}
	for _, program := range []string{"iptables", "ip6tables"} {
		top.Host.Run(program, "-I", "FORWARD", "-j", "DOCKER-USER")
	}

	// iptables-restore writes our rules anew, in its own form: they are still known.
	top.Host.Run("sh", "-c", "iptables-save | iptables-restore")
	for i := range all {
		all[i].Have, all[i].Want = all[i].Want, firewall.Terms{}
	}
	apply(t, f, all...)
	if got := accepts(top.Host); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
	if got := top.Host.Ruleset(); strings.Contains(got, "sealane") {
		t.Errorf("left behind:\n%s", got)
	}
}

// TestDockerComesLater: it is noticed while somebody watches, and Flush takes our rules away.
func TestDockerComesLater(t *testing.T) {
	h := nstest.New(t, "h")
	_, f := open(t, h, "")
	told := watch(t, f)
	apply(t, f, firewall.Change{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{net1()}}})
	tells(t, told, "nft", func() { h.Run("nft", "add", "element", "inet", "sealane", "masq", "{ ipv4 . \"x\" }") }) // it watches
	h.Run("iptables", "-P", "FORWARD", "DROP")
	nstest.Eventually(t, "rules at the top of FORWARD", func() bool { return strings.Count(accepts(h), "-A FORWARD -") == 2 })
	h.Run("iptables", "-N", "DOCKER-USER")
	nstest.Eventually(t, "rules in DOCKER-USER too", func() bool {
		return strings.Count(accepts(h), "-A DOCKER-USER -") == 2 && strings.Count(accepts(h), "-A FORWARD -") == 2
	})
	h.Run("iptables", "-F", "DOCKER-USER")
	nstest.Eventually(t, "rules put back", func() bool { return strings.Count(accepts(h), "-A DOCKER-USER -") == 2 })
	if err := f.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := accepts(h); got != "" {
		t.Errorf("left behind:\n%s", got)
	}
}

// TestBridgeLeadsOut: a bridge that has the default route is not somebody else's network but the way out.
func TestBridgeLeadsOut(t *testing.T) {
	t.Parallel()
	top := build(t, false)
	top.Host.Run("ip", "address", "flush", "dev", "outside")
	bridge(top.Host, "br0", "192.0.2.2/24")
	top.Host.Run("ip", "link", "set", "outside", "master", "br0")
	firewalltest.Serve(t, top.Outside, 80)
	up(t, top.Host, "br0", "outside")
	_, f := open(t, top.Host, "")
	told := watch(t, f)
	apply(t, f, firewall.Change{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{net1()}}})
	server := netip.MustParseAddrPort("192.0.2.1:80")
	firewalltest.Call(t, top.Self, firewall.TCP, server, nobody)
	tells(t, told, "nft", func() {
		top.Host.Run("nft", "add", "element", "inet", "sealane", "masq", "{ ipv4 . \"x\" }")
	})
	top.Host.Run("ip", "route", "add", "default", "via", "192.0.2.1", "dev", "br0")
	nstest.Eventually(t, "br0 known as a way out", func() bool {
		out, err := top.Host.Try("nft", "list", "set", "inet", "sealane", "uplinks")
		return err == nil && strings.Contains(out, "br0")
	})
	firewalltest.Call(t, top.Self, firewall.TCP, server, addr("192.0.2.2"))
	top.Host.Run("ip", "route", "del", "default")
	nstest.Eventually(t, "br0 forgotten", func() bool {
		out, err := top.Host.Try("nft", "list", "set", "inet", "sealane", "uplinks")
		return err == nil && !strings.Contains(out, "br0")
	})
}
