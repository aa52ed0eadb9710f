package sealane_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/internal/nstest"
)

// marked is what the host contains of an instance: its links, its tables and what they bear.
func (w *world) marked(instance string) []string {
	w.t.Helper()
	var lines []string
	for _, l := range w.host.Inventory() {
		if strings.Contains(l, `"sealane:`+instance+"/") {
			lines = append(lines, l)
		}
	}
	return append(lines, strings.Split(w.host.Run("nft", "--stateless", "list", "table", "inet", instance), "\n")...)
}

func TestSecondControllerOfAnInstanceIsRefused(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue"})
	w.container("c", nil, blue)
	before := w.everything()
	for name, second := range map[string]*world{
		"the same host":          {t: t, host: w.host, dir: runDir(t)},
		"the same run directory": {t: t, host: w.host, dir: w.dir, instance: "other"},
	} {
		if err := second.tryStart(); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: got %v, want FailedPrecondition", name, err)
		}
	}
	if d := cmp.Diff(before, w.everything()); d != "" {
		t.Errorf("the second had effects (-before +after):\n%s", d)
	}
}

// Two instances on one host have networks and containers of the same names, and leave each other's alone when they start, when they sweep
// all that was theirs, and when they mend.
func TestTwoInstancesOnOneHost(t *testing.T) {
	w := newWorld(t)
	other := w.beside("other")
	both := map[string]*world{"sealane": w, "other": other}
	in := map[string]*container{}
	for instance, w := range both {
		n := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true})
		in[instance] = w.container("c", ports(t, map[string]string{"sealane": "8080:80", "other": "8081:80"}[instance]), n)
	}
	check := func(when string, instances ...string) {
		t.Helper()
		for _, instance := range instances {
			c := in[instance]
			for _, six := range families {
				if err := pings(w.host, c.address(six)); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
			if err := c.pings(addr("192.0.2.1")); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		for _, six := range families {
			if reaches(in["sealane"].as(), in["other"].address(six)) {
				t.Errorf("%s: the networks of two instances are one", when)
			}
		}
	}
	check("at first", "sealane", "other")
	for instance, one := range both {
		before := map[string][]string{}
		for i := range both {
			before[i] = w.marked(i)
		}
		one.restart()
		in[instance].again()
		for i := range both {
			if d := cmp.Diff(before[i], w.marked(i)); d != "" {
				t.Errorf("%s started again; of %s (-before +after):\n%s", instance, i, d)
			}
		}
	}
	check("after restarts", "sealane", "other")
	before := w.marked("sealane")
	other.stop()
	for _, file := range []string{"run.db", "root.db"} {
		if err := os.Remove(filepath.Join(other.dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	other.start() // all it had is nobody's now
	if d := cmp.Diff(before, w.marked("sealane")); d != "" {
		t.Errorf("other swept; of sealane (-before +after):\n%s", d)
	}
	for _, l := range w.host.Inventory() {
		if strings.Contains(l, "sealane:other/") {
			t.Errorf("not swept: %s", l)
		}
	}
	if err := in["sealane"].pings(addr("192.0.2.1")); err != nil {
		t.Error(err)
	}
}

// A Controller whose host is a sandbox of another one works there, its containers reach the outside through both, and neither undoes the
// other's when it starts.
func TestControllerInsideASandbox(t *testing.T) {
	w := newWorld(t)
	outer := w.container("outer", nil, w.network(sealane.NetworkSpec{Name: "blue", IPv6: true}))
	inner := &world{t: t, host: outer.as(), outside: w.host, dir: runDir(t)}
	inner.host.Sysctl("ipv6/conf/default/addr_gen_mode", "1")
	inner.host.MustReturn()
	inner.start()
	t.Cleanup(inner.stop)
	c := inner.container("c", nil, inner.network(sealane.NetworkSpec{Name: "blue", IPv6: true}))
	check := func(when string) {
		t.Helper()
		for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
			for _, h := range []*nstest.Host{c.as(), outer.as()} {
				if err := pings(h, addr(to)); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
		}
	}
	check("at first")
	before := append(w.host.Inventory(), outer.as().Inventory()...)
	inner.restart()
	w.restart()
	outer.again()
	c.again()
	if d := cmp.Diff(before, append(w.host.Inventory(), outer.as().Inventory()...)); d != "" {
		t.Errorf("after restarts (-before +after):\n%s", d)
	}
	check("after restarts")
	w.host.Run("nft", "flush", "ruleset")
	nstest.Eventually(t, "the outer one mended", func() bool { return strings.Contains(w.host.Ruleset(), "masquerade") })
	outer.as().Run("nft", "delete", "table", "inet", "sealane")
	nstest.Eventually(t, "the inner one mended", func() bool { return strings.Contains(outer.as().Ruleset(), "masquerade") })
	check("after repairs")
}
