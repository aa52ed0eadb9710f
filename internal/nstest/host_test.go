package nstest

import (
	"net/netip"
	"os"
	"testing"
)

func TestTwoHosts(t *testing.T) {
	MustNotLeak(t)
	a, b := New(t, "a"), New(t, "b")
	Connect(a, b, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")})
	a.MustReturn()
	for _, address := range []string{"192.0.2.2", "2001:db8::2"} {
		a.Run("ping", "-c1", "-W10", address)
	}
	l := b.Listen("tcp", "[::]:80")
	c, err := a.Dial("tcp", "192.0.2.2:80")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.Close()
	if _, err := os.Stat(a.Path()); err != nil {
		t.Error(err)
	}
}

func TestLAN(t *testing.T) {
	MustNotLeak(t)
	a, b, c := New(t, "a"), New(t, "b"), New(t, "c")
	lan := NewLAN(t, netip.MustParsePrefix("192.0.2.0/24"), a, b, c)
	reach := func(what string, from, to *Host, want bool) {
		t.Helper()
		patience := "-W0.3"
		if want {
			patience = "-W10"
		}
		if out, err := from.Try("ping", "-c1", patience, lan.Addr(to).String()); (err == nil) != want {
			t.Errorf("%s: %s reaches %s: %t, want %t\n%s", what, from.Name, to.Name, !want, want, out)
		}
	}
	check := func(what string, ab, ac, bc bool) {
		t.Helper()
		reach(what, a, b, ab)
		reach(what, a, c, ac)
		reach(what, b, c, bc)
	}
	check("at first", true, true, true)
	lan.Cut(a)
	check("without a", false, false, true)
	lan.Cut(b, c)
	check("b and c away together", false, false, true)
	lan.Heal()
	check("healed", true, true, true)
}
