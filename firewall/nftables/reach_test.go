package nftables_test

import (
	"testing"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
)

// TestReach shows the whole table of who reaches a published port, with bridged packets passing the firewall and not.
func TestReach(t *testing.T) {
	for name, bridgeNetfilter := range map[string]bool{"bridge-nf-call 0": false, "bridge-nf-call 1": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			top := build(t, bridgeNetfilter)
			_, f := open(t, top.Host, "")
			apply(t, f, firewall.Change{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{net1()}}},
				firewall.Change{Owner: "net/2", Want: firewall.Terms{Networks: []firewall.Network{net2()}}},
				firewall.Change{Owner: "ep/1", Want: published(top)})
			firewalltest.Reach(t, top)
		})
	}
}
