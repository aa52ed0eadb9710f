package firewalltest_test

import (
	"context"
	"testing"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
)

func TestFake(t *testing.T) {
	firewalltest.Run(t, func(t testing.TB) firewall.Firewall {
		f, err := new(firewalltest.Fake).Open(context.Background(), "")
		if err != nil {
			t.Fatal(err)
		}
		return f
	})
}

func TestFakeReserver(t *testing.T) {
	firewalltest.RunReserver(t, func(t testing.TB) firewall.Reserver { return new(firewalltest.Fake) })
}
