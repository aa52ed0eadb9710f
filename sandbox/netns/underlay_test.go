package netns_test

import (
	"context"
	"net/netip"
	"strconv"
	"testing"
)

// The MTU of the link that has an address is told as it is, when it changes, and when the address moves; nothing else is told.
func TestUnderlay(t *testing.T) {
	r := newRoom(t, 0)
	r.uplink("up0")
	r.uplink("up1")
	r.h.Run("ip", "link", "set", "up1", "mtu", "9000")
	r.h.Run("ip", "addr", "add", "192.0.2.1/24", "dev", "up0")
	news := told(r, func(ctx context.Context, yield func(string)) {
		for mtu, err := range r.p.Underlay(ctx, netip.MustParseAddr("192.0.2.1")) {
			if err != nil {
				r.Error(err)
			}
			yield(strconv.Itoa(mtu))
		}
	})
	for _, c := range []struct {
		do   []string
		want string
	}{
		{nil, "1500"},
		{[]string{"link", "set", "up0", "mtu", "1400"}, "1400"},
		{[]string{"link", "set", "up1", "mtu", "8000"}, ""},
		{[]string{"addr", "del", "192.0.2.1/24", "dev", "up0"}, "0"},
		{[]string{"addr", "add", "192.0.2.1/24", "dev", "up1"}, "8000"},
		{[]string{"link", "set", "up0", "mtu", "1300"}, ""},
		{[]string{"link", "set", "up1", "mtu", "7000"}, "7000"},
	} {
		if c.do != nil {
			r.h.Run("ip", c.do...)
		}
		if c.want == "" {
			continue
		}
		if got := next(r, news); got != c.want {
			t.Fatalf("after %v: %s, want %s", c.do, got, c.want)
		}
	}
}
