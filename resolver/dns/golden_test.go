package dns_test

import (
	"flag"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/golden"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden is the table of what is answered: names known with IPv4, IPv6, both, not known, outside, and outside for who has no way there; by
// type, transport and EDNS.
func TestGolden(t *testing.T) {
	w := newWorld(t, nil)
	serve(t, w.host, "127.0.0.1:53", outside(t))
	w.resolvConf(false, "127.0.0.1")
	both := published("3", "both", "10.1.0.4/24", "fd00:1::4/64")
	both.Ports = []endpoint.PortBinding{{Proto: firewall.TCP, Ports: firewall.Range{First: 80, Last: 80}}}
	w.zone(blue, "blue", published("1", "v4", "10.1.0.2/24"), published("2", "v6", "fd00:1::3/64"), both)
	w.set(w.space(), resolver.View{Sandbox: "out", Zones: []endpoint.NetworkID{blue}, Forward: true})
	w.set(w.space(), resolver.View{Sandbox: "in", Zones: []endpoint.NetworkID{blue}})
	var table strings.Builder
	for _, name := range []string{"v4", "v6", "both", "_80._tcp.both", "_http._tcp.both", "_81._tcp.both", "unknown", "www.example.com", "internal only: www.example.com",
		"4.0.1.10.in-addr.arpa", "internal only: 9.9.9.10.in-addr.arpa"} {
		for _, typ := range []uint16{mdns.TypeA, mdns.TypeAAAA, mdns.TypePTR, mdns.TypeSRV, mdns.TypeMX, mdns.TypeANY, mdns.TypeHTTPS} {
			for _, network := range []string{"udp", "tcp"} {
				for _, edns := range []uint16{0, 1232, 4096} {
					fmt.Fprintf(&table, "%s %s %s edns %d: %s\n", name, mdns.TypeToString[typ], network, edns, w.row(name, typ, network, edns))
				}
			}
		}
	}
	golden.Check(t, *update, "table", table.String())
}

// outside is a server that knows example.com.
func outside(t testing.TB) func(q, m *mdns.Msg, tcp bool) {
	return func(q, m *mdns.Msg, _ bool) {
		asked := q.Question[0]
		soa := rr(t, "example.com. 300 IN SOA ns.example.com. me.example.com. 1 2 3 4 300")
		switch {
		case asked.Name != "www.example.com.":
			m.Rcode, m.Ns = mdns.RcodeNameError, []mdns.RR{soa}
		case asked.Qtype == mdns.TypeA || asked.Qtype == mdns.TypeANY:
			m.Answer = append(m.Answer, rr(t, "www.example.com. 300 IN A 192.0.2.80"))
		case asked.Qtype == mdns.TypeHTTPS:
			m.Answer = append(m.Answer, rr(t, `www.example.com. 300 IN HTTPS 1 . alpn="h2"`))
		default:
			m.Ns = []mdns.RR{soa}
		}
	}
}

func (w *world) row(name string, typ uint16, network string, edns uint16) string {
	w.t.Helper()
	id := sandbox.ID("out")
	asked, internal := strings.CutPrefix(name, "internal only: ")
	if internal {
		id = "in"
	}
	q := question(asked, typ)
	if edns > 0 {
		q.SetEdns0(edns, false)
	}
	m, err := w.exchange(id, network, q)
	if err != nil {
		w.t.Fatalf("%s: %v", name, err)
	}
	if m.Id != q.Id || !m.Response || !m.RecursionAvailable || (m.IsEdns0() != nil) != (edns > 0) {
		w.t.Errorf("%s: %v", name, m)
	}
	text := mdns.RcodeToString[m.Rcode]
	if m.Authoritative {
		text += " aa"
	}
	if m.Truncated {
		text += " tc"
	}
	for _, section := range [][]mdns.RR{m.Answer, m.Ns, m.Extra} {
		var lines []string
		for _, rr := range section {
			if rr.Header().Rrtype != mdns.TypeOPT {
				lines = append(lines, regexp.MustCompile(`\s+`).ReplaceAllString(rr.String(), " "))
			}
		}
		slices.Sort(lines)
		text += " [" + strings.Join(lines, "; ") + "]"
	}
	return regexp.MustCompile(` [1-9]\d* IN`).ReplaceAllString(text, " TTL IN")
}
