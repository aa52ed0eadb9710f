package sandboxtest_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/sandboxtest"
)

func env(t testing.TB, f *sandboxtest.Fake) sandboxtest.Env {
	paths := 0
	return sandboxtest.Env{
		Provider: f,
		Beside:   f.Beside("other"),
		Path: func() string {
			paths++
			path := fmt.Sprintf("/var/run/netns/%d", paths)
			f.AddNamespace(path)
			return path
		},
		End: f.End,
		Bad: func() map[string]string {
			f.AddFile("/dev/null")
			return map[string]string{"a device": "/dev/null"}
		}(),
		Links:   f.Links,
		AddLink: func(key, name string) { meddle(t, f, key, sandbox.AddLink, name) },
		DelLink: func(key, name string) { meddle(t, f, key, sandbox.DelLink, name) },
	}
}

func meddle(t testing.TB, f *sandboxtest.Fake, key string, op sandbox.Op, name string) {
	t.Helper()
	step := sandbox.Step{Op: op, Link: sandbox.Link{Name: name, Bridge: &sandbox.Bridge{}}}
	if err := f.Meddle(key, step); err != nil {
		t.Fatal(err)
	}
}

func TestFake(t *testing.T) {
	sandboxtest.Run(t, func(t testing.TB) sandboxtest.Env {
		f := sandboxtest.NewFake()
		t.Cleanup(func() {
			if n := f.Handles(); n != 0 {
				t.Errorf("%d handles were left open", n)
			}
			for line := range strings.Lines(f.Dump()) {
				if strings.HasPrefix(line, "  ") {
					t.Errorf("left in the kernel: %s", line)
				}
			}
		})
		return env(t, f)
	})
}

func bridge(name string, ports int) sandbox.Config {
	c := sandbox.Config{Links: []sandbox.Link{{Name: name, Owner: "net/" + name, Bridge: &sandbox.Bridge{}, Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.0.1/24")}}}}
	for i := range ports {
		c.Links = append(c.Links, sandbox.Link{Name: fmt.Sprintf("p%d", i), Owner: "net/" + name, Master: name, Tap: &sandbox.Tap{}})
	}
	return c
}

func openHost(t *testing.T, f *sandboxtest.Fake) sandbox.Namespace {
	t.Helper()
	n, err := f.Open(t.Context(), sandbox.Origin{Host: true})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestBridgeIsFull(t *testing.T) {
	host := openHost(t, sandboxtest.NewFake())
	if _, err := host.Apply(t.Context(), "net/b", sandbox.Config{}, bridge("b", 1023)); err != nil {
		t.Fatal(err)
	}
	if _, err := host.Apply(t.Context(), "net/b", bridge("b", 1023), bridge("b", 1024)); !errdefs.IsResourceExhausted(err) {
		t.Errorf("port 1,024: %v", err)
	}
}

// A fault at each touch, before and after its effect: what is reported as reached is what is there.
func TestFaults(t *testing.T) {
	broken := errors.New("broken")
	want := bridge("b", 2)
	want.Sysctls = []sandbox.Sysctl{{Key: "ipv4/conf/IFNAME/forwarding", Value: "1", Link: "b"}}
	points := 0
	for at := 1; ; at++ {
		f := sandboxtest.NewFake()
		host := openHost(t, f)
		touches := 0
		f.Fault = func(op string) error {
			if touches++; touches == at {
				return broken
			}
			return nil
		}
		reached, err := host.Apply(t.Context(), "net/b", sandbox.Config{}, want)
		if touches < at {
			break
		}
		points++
		if !errors.Is(err, broken) {
			t.Fatalf("fault %d: %v", at, err)
		}
		observed, err := host.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		reached.Sysctls = nil
		if steps := sandbox.Diff(observed["net/b"], reached); len(steps) != 0 {
			t.Errorf("fault %d: reached differs from what is there: %v", at, steps)
		}
		if _, err := host.Apply(t.Context(), "net/b", reached, want); err != nil {
			t.Errorf("fault %d: apply again: %v", at, err)
		}
	}
	if points != 2*len(sandbox.Diff(sandbox.Config{}, want)) {
		t.Errorf("%d points tried", points)
	}
}

func TestCrash(t *testing.T) {
	f := sandboxtest.NewFake()
	host := openHost(t, f)
	if _, err := host.Apply(t.Context(), "net/b", sandbox.Config{}, bridge("b", 1)); err != nil {
		t.Fatal(err)
	}
	before := f.Dump()
	f.Crash()
	if _, err := host.Apply(t.Context(), "net/b", bridge("b", 1), sandbox.Config{}); !errdefs.IsUnavailable(err) {
		t.Errorf("a dead process did something: %v", err)
	}
	for _, err := range host.Watch(t.Context()) {
		if !errdefs.IsUnavailable(err) {
			t.Errorf("a dead process was told: %v", err)
		}
	}
	if after := f.Dump(); before != after {
		t.Errorf("the kernel changed from\n%sto\n%s", before, after)
	}
	if f.Handles() != 0 {
		t.Errorf("%d handles outlived their process", f.Handles())
	}
	shares, err := openHost(t, f).Observe(t.Context())
	if err != nil || len(shares["net/b"].Links) != 2 {
		t.Errorf("the next process sees %v, %v", shares, err)
	}
	f.Reboot()
	if shares, err := openHost(t, f).Observe(t.Context()); err != nil || len(shares) != 0 {
		t.Errorf("after a boot: %v, %v", shares, err)
	}
}

func TestSurvey(t *testing.T) {
	f := sandboxtest.NewFake()
	f.Host.MTU = 9000
	f.Host.Features["bridge-nf-call"] = true
	addr := netip.MustParsePrefix("192.0.2.7/24")
	eth := sandbox.Link{Name: "eth0", Tap: &sandbox.Tap{}}
	if err := f.Meddle("", sandbox.Step{Op: sandbox.AddLink, Link: eth}, sandbox.Step{Op: sandbox.AddAddr, Link: eth, Addr: addr}); err != nil {
		t.Fatal(err)
	}
	host := openHost(t, f)
	c := bridge("b", 0)
	c.Sysctls = []sandbox.Sysctl{{Key: "ipv4/ip_forward", Value: "1"}}
	if _, err := host.Apply(t.Context(), "net/b", sandbox.Config{}, c); err != nil {
		t.Fatal(err)
	}
	s, err := f.Survey(t.Context(), []string{"eth0", "b", "nothing"})
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(s.MTU, s.Links, s.Routes, s.Features)
	if want := "9000 map[eth0:{tun 1500 [192.0.2.7/24]}] [192.0.2.0/24] map[bridge-nf-call:true forwarding4:true forwarding6:false ipv6:true]"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	again, _ := f.Survey(t.Context(), nil)
	f.Reboot()
	boot, _ := f.Survey(t.Context(), nil)
	if s.Boot != again.Boot || s.Boot == boot.Boot {
		t.Errorf("boots %s, %s, after a boot %s", s.Boot, again.Boot, boot.Boot)
	}
}

func TestProcess(t *testing.T) {
	f := sandboxtest.NewFake()
	f.AddNamespace("/n")
	f.AddProcess(42, "/n")
	byPID, err := f.Open(t.Context(), sandbox.Origin{PID: 42})
	if err != nil {
		t.Fatal(err)
	}
	byPath, err := f.Open(context.WithoutCancel(t.Context()), sandbox.Origin{Path: "/n"})
	if err != nil {
		t.Fatal(err)
	}
	if byPID.Cookie() != byPath.Cookie() || byPID.Key() == byPath.Key() {
		t.Errorf("pid: %s %d, path: %s %d", byPID.Key(), byPID.Cookie(), byPath.Key(), byPath.Cookie())
	}
	f.End("/n")
	if _, err := f.Open(t.Context(), sandbox.Origin{PID: 42}); !errdefs.IsNotFound(err) {
		t.Errorf("a process without its namespace: %v", err)
	}
	if _, err := byPath.Observe(t.Context()); !errdefs.IsNotFound(err) {
		t.Errorf("observe what has ended: %v", err)
	}
}

func TestWalks(t *testing.T) {
	f := sandboxtest.NewFake()
	sandboxtest.Walk(t, env(t, f), 1, 300, 4)
	if n := f.Handles(); n != 0 {
		t.Errorf("%d handles were left open", n)
	}
}
