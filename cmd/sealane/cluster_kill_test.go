package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealane/sealane/api"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

var clusterKills = flag.Int("clusterkills", 10, "kills of the daemons of TestOverlayChurnWithKills")

// TestOverlayChurnWithKills kills the daemons of two hosts at random, again and again, while callers on both create and delete containers
// with ports on an overlay network. After each kill the next join there succeeds at the first try, and who joined meets the container on
// the other host. In the end there is nothing left on either host, nor in the store but that there are two hosts.
func TestOverlayChurnWithKills(t *testing.T) {
	const callers = 3 // on each host
	store := nstest.New(t, "store")
	on := []*nstest.Host{nstest.New(t, "one"), nstest.New(t, "two")}
	lan := nstest.NewLAN(t, netip.MustParsePrefix("192.0.2.0/24"), append(on, store)...)
	server := servertest.Start(t, servertest.Consul, servertest.Options{}, servertest.Node{Host: store, Addr: lan.Addr(store)})
	var daemons []*victim
	for _, h := range on {
		h.MustReturn()
		d := newVictim(t, h)
		d.flags = []string{"--store", server.URL(), "--advertise", lan.Addr(h).String()}
		d.serve()
		daemons = append(daemons, d)
	}
	daemons[0].must(daemons[0].CreateNetwork(t.Context(), api.NetworkSpec{Name: "blue", Driver: "overlay", EnableIPv6: true,
		IPAM: api.IPAM{Config: []api.Subnet{{Subnet: netip.MustParsePrefix("10.9.0.0/16")}, {Subnet: netip.MustParsePrefix("fd00:9::/64")}}}}))
	blue, err := daemons[0].Network(t.Context(), "blue")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range daemons {
		d.must(d.CreateSandbox(t.Context(), api.SandboxSpec{Name: "anchor-" + d.on.Name, Networks: []api.NetworkJoin{{Network: "blue"}}}))
	}
	var stop, failed, made atomic.Int64
	alive := []*lives{{next: make(chan struct{})}, {next: make(chan struct{})}}
	var work sync.WaitGroup
	for at, d := range daemons {
		for n := range callers {
			work.Go(func() {
				for i := 0; stop.Load() == 0; i++ {
					failed.Add(d.cycle(alive[at], fmt.Sprintf("%s%d-%d", d.on.Name, n, i), 9000+n))
					made.Add(1)
				}
			})
		}
	}
	var meets []time.Duration
	for n := range *clusterKills {
		select { // at a moment that no two runs share
		case <-time.After(time.Duration(rand.IntN(200)) * time.Millisecond):
		case <-t.Context().Done():
		}
		at := rand.IntN(len(daemons))
		d := daemons[at]
		d.killNine()
		d.serve()
		alive[at].begin()
		meets = append(meets, d.joins(fmt.Sprint("next", n), daemons[1-at].sandbox("anchor-"+daemons[1-at].on.Name)))
	}
	stop.Store(1)
	work.Wait()
	t.Logf("%d kills while %d containers came and went; %d calls failed on the way; who joined next met the other host %v, half of them within %v",
		*clusterKills, made.Load(), failed.Load(), slices.Max(meets), median(meets))
	for _, d := range daemons {
		if err := d.RemoveSandbox(t.Context(), "anchor-"+d.on.Name, false); err != nil {
			t.Error(err)
		}
		if all, err := d.Sandboxes(t.Context(), nil); err != nil || len(all) > 0 {
			t.Errorf("left: %v, %v", all, err)
		}
	}
	if err := daemons[1].RemoveNetwork(t.Context(), "blue", false); err != nil {
		t.Error(err)
	}
	wrong := ""
	defer func() { t.Log("left in the store: " + wrong) }()
	nstest.Eventually(t, "nothing but hosts is left in the store", func() bool {
		left := slices.DeleteFunc(keys(t, server), func(key string) bool {
			ofHost := strings.HasPrefix(key, "sealane/host/") || strings.HasPrefix(key, "sealane/up/")
			empty := strings.HasSuffix(key, "/=") // the generation of a directory, which stays; not with a network
			return ofHost || empty && !strings.Contains(key, blue.ID)
		})
		wrong = strings.Join(left, " ")
		return wrong == ""
	})
}

// joins makes a container that meets another one, by both families, as soon as the other host has heard of it, and removes it. It says how
// long that took.
func (d *victim) joins(name string, other api.Sandbox) time.Duration {
	d.t.Helper()
	d.must(d.CreateSandbox(d.t.Context(), api.SandboxSpec{Name: name, Networks: []api.NetworkJoin{{Network: "blue"}}}))
	began, inside := time.Now(), d.inside(name)
	for _, to := range []netip.Addr{other.Networks["blue"].IPAddress, other.Networks["blue"].GlobalIPv6Address} {
		nstest.Eventually(d.t, name+" reaches "+to.String(), func() bool {
			_, err := inside.Try("ping", "-c1", "-W0.2", to.String())
			return err == nil
		})
	}
	took := time.Since(began)
	if err := d.RemoveSandbox(d.t.Context(), name, false); err != nil {
		d.t.Error(err)
	}
	return took
}

func median(all []time.Duration) time.Duration { return slices.Sorted(slices.Values(all))[len(all)/2] }

// keys lists what a Consul server has.
func keys(t *testing.T, c *servertest.Cluster) (all []string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return c.Servers[0].Host.DialContext(ctx, network, address)
	}}}
	resp, err := client.Get("http://" + c.Endpoints()[0] + "/v1/kv/?keys=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode == http.StatusOK {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}
