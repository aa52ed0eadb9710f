package dns

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/resolver"
)

// small is a resolver with a name or two and no sockets.
func small(t testing.TB) (*Resolver, *box) {
	r := &Resolver{zones: map[endpoint.NetworkID]*zone{"b1": newZone()}}
	r.zones["b1"].change(resolver.Change{Name: "blue", Put: []endpoint.Published{
		{ID: "1", Name: "web", Aliases: []string{"www", "*.api", "site=web", "pool"}, Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.1.0.2/24"), netip.MustParsePrefix("fd00:1::2/64")}},
		{ID: "2", Name: "db", Aliases: []string{"pool"}, Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.3/24")}},
	}})
	return r, &box{zones: []endpoint.NetworkID{"b1"}, turn: &turn{}}
}

func packed(t testing.TB, name string, typ uint16, edns uint16) []byte {
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	m.Id = 7
	if edns > 0 {
		m.SetEdns0(edns, true)
	}
	p, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// FuzzQuery: any message is answered with a well-formed one or not at all, and by hand as by the library.
func FuzzQuery(f *testing.F) {
	for _, name := range []string{"web.", "WWW.", "x.api.blue.", "site.", "pool.", "other.example.", "2.0.1.10.in-addr.arpa.", "_80._tcp.web."} {
		f.Add(packed(f, name, dns.TypeA, 0))
		f.Add(packed(f, name, dns.TypeAAAA, 1232))
	}
	r, b := small(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		var out [udpMax]byte
		byHand := bytes.Clone(out[:r.quick(b, p, out[:], false)])
		byLibrary := r.answer(b, p, false, nil)
		for _, answer := range [][]byte{byHand, byLibrary} {
			m := new(dns.Msg)
			if len(answer) == 0 {
				continue
			}
			if err := m.Unpack(answer); err != nil || !m.Response || answer[0] != p[0] || answer[1] != p[1] {
				t.Fatalf("%v: %v from %x", err, m, p)
			}
		}
		if len(byHand) > 0 {
			same(t, byHand, byLibrary)
		}
	})
}

// same compares two answers, whose records may be in any order.
func same(t *testing.T, a, b []byte) {
	t.Helper()
	x, y := new(dns.Msg), new(dns.Msg)
	if x.Unpack(a) != nil || y.Unpack(b) != nil {
		t.Fatalf("%x\n%x", a, b)
	}
	texts := func(m *dns.Msg) map[string]int {
		all := map[string]int{}
		for _, rr := range append(m.Answer, m.Extra...) {
			all[rr.String()]++
		}
		return all
	}
	tx, ty := texts(x), texts(y)
	if x.Rcode != y.Rcode || x.Authoritative != y.Authoritative || x.Truncated != y.Truncated || len(tx) != len(ty) || len(x.Question) != 1 || x.Question[0] != y.Question[0] {
		t.Fatalf("by hand:\n%v\nby the library:\n%v", x, y)
	}
	for text := range tx {
		if tx[text] != ty[text] {
			t.Fatalf("by hand:\n%v\nby the library:\n%v", x, y)
		}
	}
}

// FuzzReversed: a name is an address's only if that address has the name.
func FuzzReversed(f *testing.F) {
	f.Add("2.0.1.10.in-addr.arpa.")
	f.Add("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.ip6.arpa.")
	f.Fuzz(func(t *testing.T, name string) {
		a, is := reversed(name)
		if !is {
			return
		}
		back, err := dns.ReverseAddr(a.String())
		if err != nil || keyOf(back) != keyOf(name) {
			t.Errorf("%q is %s, which is %q", name, a, back)
		}
	})
}
