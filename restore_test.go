package sealane_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
)

// streams talk at 1 kHz each: a neighbour and the outside, the latter to a published port, over both protocols and families.
func streams(t *testing.T, w *world, server, neighbour *container) []*nstest.Stream {
	t.Helper()
	server.as().Echo("80")
	var all []*nstest.Stream
	for _, network := range []string{"udp", "tcp"} {
		for i, host := range []string{"192.0.2.2", "2001:db8::2"} {
			all = append(all,
				neighbour.as().Stream(network, netip.AddrPortFrom(server.address(i == 1), 80).String()),
				w.outside.Stream(network, netip.AddrPortFrom(addr(host), 8080).String()))
		}
	}
	return all
}

func TestRestartLosesNoPacket(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true})
	server := w.container("server", append(ports(t, "8080:80"), ports(t, "8080:80/udp")...), blue)
	neighbour := w.container("neighbour", nil, blue)
	talk := streams(t, w, server, neighbour)
	before := w.everything()
	for range 5 {
		began := time.Now()
		w.restart()
		t.Logf("started again in %v", time.Since(began).Round(time.Millisecond))
		if d := cmp.Diff(before, w.everything()); d != "" {
			t.Errorf("after a restart (-before +after):\n%s", d)
		}
	}
	nstest.EndAll(t, talk)
	server.again()
	neighbour.again()
	for _, six := range families { // what is made next does not get what runs has
		next := w.container("next", nil, w.named("blue"))
		if next.address(six) == server.address(six) || next.address(six) == neighbour.address(six) {
			t.Errorf("%s is given twice", next.address(six))
		}
		if err := next.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A port that another process took while the daemon was away goes on leading to its container.
func TestPortTakenMeanwhileIsNotWithdrawn(t *testing.T) {
	w := newWorld(t)
	server := w.container("server", ports(t, "8080:80"), w.network(sealane.NetworkSpec{Name: "blue", IPv6: true}))
	server.as().Echo("80")
	w.stop()
	thief := w.host.Listen("tcp", "[::]:8080")
	w.start()
	s := w.outside.Stream("tcp", "192.0.2.2:8080")
	if _, lost := s.End(t); lost != 0 {
		t.Errorf("lost %d", lost)
	}
	server.again()
	info, err := server.endpoints[0].Info(t.Context())
	if err != nil || len(info.Ports) != 1 {
		t.Errorf("the port is withdrawn: %+v, %v", info.Ports, err)
	}
	thief.Close()
}

// What somebody deletes, sets down or takes apart by hand is as it was within a second, and told.
func TestDeletedByHandIsRepaired(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true})
	server := w.container("server", ports(t, "8080:80"), blue)
	neighbour := w.container("neighbour", nil, blue)
	server.as().Echo("80")
	info, err := server.endpoints[0].Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	veth, bridge := "sv"+info.Nonce, "sl-"+string(blue.ID())[:12]
	before := w.everything()
	for _, c := range []struct {
		what string
		do   []string
	}{
		{"link", []string{"ip", "link", "delete", veth}},
		{"link set down", []string{"ip", "link", "set", veth, "down"}},
		{"link off its bridge", []string{"ip", "link", "set", veth, "nomaster"}},
		{"bridge", []string{"ip", "link", "delete", bridge}},
		{"bridge set down", []string{"ip", "link", "set", bridge, "down"}},
		{"IPv4 address of a bridge", []string{"ip", "-4", "addr", "flush", "dev", bridge}},
		{"IPv6 addresses of a bridge", []string{"ip", "-6", "addr", "flush", "dev", bridge}},
		{"rules", []string{"nft", "flush", "ruleset"}},
		{"table", []string{"nft", "delete", "table", "inet", "sealane"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			reading, stop := context.WithCancel(t.Context())
			defer stop()
			told := make(chan string, 100)
			events := w.Events(reading)
			go func() {
				for e, err := range events {
					if err == nil && e.Action == "repair" {
						told <- e.Type
					}
				}
			}()
			began := time.Now()
			w.host.Run(c.do[0], c.do[1:]...)
			select {
			case <-told:
			case <-time.After(time.Minute):
				t.Error("no event tells of the repair")
			}
			took := time.Since(began)
			var wrong string
			defer func() {
				if t.Failed() {
					t.Log(wrong)
				}
			}()
			nstest.Eventually(t, "all is as it was", func() bool {
				wrong = cmp.Diff(before, w.everything())
				for _, six := range families {
					if err := neighbour.pings(server.address(six)); err != nil {
						wrong += err.Error()
					}
				}
				return wrong == ""
			})
			nstest.Within(t, "word of the repair", took, time.Second)
			s := w.outside.Stream("tcp", "192.0.2.2:8080")
			if _, lost := s.End(t); lost != 0 {
				t.Errorf("lost %d", lost)
			}
			for _, h := range []*nstest.Host{server.as(), neighbour.as()} {
				if err := pings(h, addr("2001:db8::1")); err != nil {
					t.Error(err)
				}
			}
			w.Idle(t.Context())
		})
	}
}

// What bears our instance's mark and no record names is swept at start; what does not is left, however similar.
func TestLeftoversAreSweptAndNothingElse(t *testing.T) {
	w := newWorld(t)
	host := w.host
	for _, args := range [][]string{
		{"ip", "link", "add", "sv0123456789ab", "type", "bridge"}, // our name, no mark
		{"ip", "link", "add", "theirs", "type", "bridge"},
		{"ip", "link", "set", "theirs", "alias", "sealane:other/net/" + strings.Repeat("a", 64)},
		{"ip", "link", "add", "sl-000000000000", "type", "veth", "peer", "name", "svffffffffffff"},
		{"ip", "link", "set", "sl-000000000000", "alias", "sealanes:sealane/ep/" + strings.Repeat("b", 64)},
		{"nft", "add", "table", "inet", "sealane-resolver"},
		{"nft", "add", "table", "inet", "mine"},
		{"nft", "add", "chain", "inet", "mine", "forward", "{ type filter hook forward priority 0; policy accept; }"},
		{"nft", "add", "table", "ip", "sealane"},
		{"ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.1"},
	} {
		host.Run(args[0], args[1:]...)
	}
	foreign := host.Inventory()
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true})
	c := w.container("c", ports(t, "8080:80"), blue)
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.stop()
	for _, file := range []string{"run.db", "root.db"} {
		if err := os.Remove(filepath.Join(w.dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	w.start()
	nstest.Eventually(t, "our leftovers are gone", func() bool { return cmp.Equal(foreign, host.Inventory()) })
	if _, err := os.Lstat(info.Key); !os.IsNotExist(err) {
		t.Errorf("the namespace is left: %v", err)
	}
	if out := host.Run("ip", "route", "get", "198.51.100.7"); !strings.Contains(out, "192.0.2.1") {
		t.Errorf("somebody's route is gone: %s", out)
	}
	for _, args := range [][]string{
		{"ip", "link", "delete", "sv0123456789ab"}, {"ip", "link", "delete", "theirs"}, {"ip", "link", "delete", "sl-000000000000"},
		{"ip", "route", "delete", "198.51.100.0/24"}, {"nft", "flush", "ruleset"},
	} {
		host.Run(args[0], args[1:]...)
	}
}

// Everything restored is everything there was, whatever kind: the records and the kernel are the same before and after.
func TestRestoreChangesNothing(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true})
	red := w.network(sealane.NetworkSpec{Name: "red", NoIPv4: true, IPv6: true})
	w.network(sealane.NetworkSpec{Name: "cellar", Internal: true})
	for i := range 5 {
		c := w.container(fmt.Sprint("c", i), ports(t, fmt.Sprint(8080+i, ":80"), "81/udp"), blue)
		if i%2 == 0 {
			c.join(red, endpoint.Spec{Name: fmt.Sprint("c", i), Priority: 1, Publish: ports(t, fmt.Sprint(8080+i, ":80"), "81/udp")})
		}
	}
	w.Idle(t.Context())
	before := w.everything()
	for range 3 {
		w.restart()
		w.Idle(t.Context())
		if d := cmp.Diff(before, w.everything()); d != "" {
			t.Errorf("(-before +after):\n%s", d)
		}
	}
}
