package servertest_test

import (
	"net/netip"
	"testing"

	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

// Three servers on a LAN find another leader when theirs is killed or cut off, and it comes back.
func TestCluster(t *testing.T) {
	for _, kind := range []servertest.Kind{servertest.Consul, servertest.Etcd} {
		t.Run(string(kind), func(t *testing.T) {
			nstest.MustNotLeak(t)
			hosts := []*nstest.Host{nstest.New(t, "a"), nstest.New(t, "b"), nstest.New(t, "c")}
			lan := nstest.NewLAN(t, netip.MustParsePrefix("192.0.2.0/24"), hosts...)
			var nodes []servertest.Node
			for _, h := range hosts {
				nodes = append(nodes, servertest.Node{Host: h, Addr: lan.Addr(h)})
			}
			c := servertest.Start(t, kind, servertest.Options{}, nodes...)
			first := c.Leader()
			first.Kill()
			second := c.Leader(first)
			first.Start()
			first.WaitReady()

			lan.Cut(second.Host)
			c.Leader(second)
			lan.Heal()
			second.WaitReady()
		})
	}
}
