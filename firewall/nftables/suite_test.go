package nftables_test

import (
	"context"
	"testing"

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
