package nftables_test

import (
	"encoding/binary"
	"flag"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/golden"
	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/internal/nstest"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden shows terms as nft lists them.
func TestGolden(t *testing.T) {
	n := func(change func(*firewall.Network)) firewall.Terms {
		n := net1()
		change(&n)
		return firewall.Terms{Networks: []firewall.Network{n}}
	}
	routed := n(func(n *firewall.Network) { n.Mode6 = firewall.Routed })
	ports := firewall.Terms{Ports: []firewall.Port{
		{Interface: "sl-1", Proto: firewall.TCP, Host: addr("0.0.0.0"), HostPorts: firewall.Range{First: 8080, Last: 8082}, Target: addr("10.1.0.2"), Ports: firewall.Range{First: 80, Last: 82}},
		{Interface: "sl-1", Proto: firewall.UDP, Host: addr("192.0.2.1"), HostPorts: firewall.Range{First: 53, Last: 53}, Target: addr("10.1.0.2"), Ports: firewall.Range{First: 53, Last: 53}},
		{Interface: "sl-1", Proto: firewall.TCP, Host: addr("::"), HostPorts: firewall.Range{First: 80, Last: 80}, Target: addr("fd00:1::2"), Ports: firewall.Range{First: 80, Last: 80}},
		{Interface: "sl-1", Proto: firewall.SCTP, Host: addr("2001:db8::1"), HostPorts: firewall.Range{First: 9, Last: 9}, Target: addr("fd00:1::2"), Ports: firewall.Range{First: 9, Last: 9}},
	}}
	for name, changes := range map[string][]firewall.Change{
		"network":    {{Owner: "net/1", Want: n(func(*firewall.Network) {})}},
		"ports":      {{Owner: "net/1", Want: n(func(*firewall.Network) {})}, {Owner: "ep/1", Want: ports}},
		"routed":     {{Owner: "net/1", Want: routed}, {Owner: "ep/1", Want: ports}},
		"isolated":   {{Owner: "net/1", Want: n(func(n *firewall.Network) { n.Mode4, n.Mode6 = firewall.Isolated, firewall.NATUnprotected })}},
		"internal":   {{Owner: "net/1", Want: n(func(n *firewall.Network) { n.Internal = true })}},
		"source":     {{Owner: "net/1", Want: n(func(n *firewall.Network) { n.SNAT4, n.SNAT6 = addr("192.0.2.7"), addr("2001:db8::7") })}},
		"exceptions": {{Owner: "net/1", Want: n(func(n *firewall.Network) { n.Trusted, n.Reach, n.AcceptMark = []string{"wg0"}, []string{"sl-2"}, 0xff })}},
		"tunnels": {{Owner: "net/1", Want: firewall.Terms{Tunnels: []firewall.Tunnel{
			{Port: 4789, VNI: 1000, Peers: []netip.Addr{addr("192.0.2.2"), addr("192.0.2.3")}}, {Port: 5789, VNI: 256, Peers: []netip.Addr{addr("2001:db8::2")}}}}}},
		"nothing yet": {{Owner: "net/1"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := nstest.New(t, "h")
			_, f := open(t, h, "")
			apply(t, f, changes...)
			golden.Check(t, *update, strings.ReplaceAll(name, " ", "-"), elements(h.Ruleset()))
		})
	}
	t.Run("rules", func(t *testing.T) {
		h := nstest.New(t, "h")
		_, f := open(t, h, "")
		apply(t, f, firewall.Change{Owner: "net/1", Want: n(func(*firewall.Network) {})})
		golden.Check(t, *update, "rules", regexp.MustCompile(`(?s)\n?\s*elements = \{.*?\}`).ReplaceAllString(h.Ruleset(), "")+"\n")
	})
}

// elements is what a listing says of elements, sorted: the kernel keeps no order.
func elements(ruleset string) string {
	var lines []string
	for _, m := range regexp.MustCompile(`(?s)(?:set|map) (\w+) \{[^{}]*?elements = \{(.*?)\}`).FindAllStringSubmatch(ruleset, -1) {
		for _, e := range strings.Split(m[2], ",") {
			lines = append(lines, m[1]+": "+strings.TrimSpace(e)+"\n")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// TestOneTransaction: a change is one transaction, however big: the kernel numbers them.
func TestOneTransaction(t *testing.T) {
	h, f := filled(t, 0)
	for name, changes := range map[string][]firewall.Change{
		"one port":                {{Owner: "ep/1", Want: port80()}},
		"a thousand":              {{Owner: "ep/2", Want: many(20000, 1000)}},
		"several owners":          {{Owner: "ep/3", Want: many(30000, 2)}, {Owner: "ep/4", Want: many(40000, 2)}, {Owner: "net/2", Want: firewall.Terms{Networks: []firewall.Network{net2()}}}},
		"what is there, over":     {{Owner: "net/1", Have: firewall.Terms{Networks: []firewall.Network{net1()}}, Want: firewall.Terms{Networks: []firewall.Network{net1()}}}},
		"what is not, taken away": {{Owner: "ep/5"}},
	} {
		before := generation(t, h)
		apply(t, f, changes...)
		if n := generation(t, h) - before; n > 1 || n == 0 && name != "what is there, over" && name != "what is not, taken away" {
			t.Errorf("%s: %d transactions", name, n)
		}
	}
}

// generation is the number of transactions of a host.
func generation(t *testing.T, h *nstest.Host) (id uint32) {
	t.Helper()
	s, err := nlmsg.Open(h.Path(), unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var b nlmsg.Batch
	b.Netfilter(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, unix.NLM_F_ACK, unix.AF_UNSPEC, 0)
	b.End()
	const attrGenID = 1
	if err := s.Do(&b, func(_ uint16, p []byte) { id = binary.BigEndian.Uint32(nlmsg.Attr(p[4:], attrGenID)) }); err != nil {
		t.Fatal(err)
	}
	return id
}
