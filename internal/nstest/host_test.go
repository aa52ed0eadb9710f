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
