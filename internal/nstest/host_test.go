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
		a.Run("ping", "-c1", "-W2", address)
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
	reaches := func(from, to *Host) bool {
		_, err := from.Try("ping", "-c1", "-W0.3", lan.Addr(to).String())
		return err == nil
	}
	check := func(what string, ab, ac, bc bool) {
		t.Helper()
		if reaches(a, b) != ab || reaches(a, c) != ac || reaches(b, c) != bc {
			t.Errorf("%s: want a-b %t, a-c %t, b-c %t", what, ab, ac, bc)
		}
	}
	check("at first", true, true, true)
	lan.Cut(a)
	check("without a", false, false, true)
	lan.Cut(b, c)
	check("b and c away together", false, false, true)
	lan.Heal()
	check("healed", true, true, true)
}
