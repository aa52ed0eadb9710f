package sealane_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bound is a namespace that lives on a bind mount only, as a runtime makes it.
type bound struct {
	t    *testing.T
	path string
}

func newBound(t *testing.T) *bound {
	t.Helper()
	b := &bound{t, filepath.Join(runDir(t), "ns")}
	if err := os.WriteFile(b.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("mount", "--bind", "/proc/self/ns/net", b.path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(b.end)
	return b
}

// end ends the namespace as `ip netns delete` does.
func (b *bound) end() {
	b.unmount()
	if err := os.Remove(b.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Error(err)
	}
}

func (b *bound) unmount() {
	if err := unix.Unmount(b.path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		b.t.Error(err)
	}
}

// process is one that lives in a network namespace of its own.
func process(t *testing.T) *os.Process {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process
}

// in runs a program in a namespace without keeping it.
func in(path string, name string, args ...string) error {
	out, err := exec.Command("nsenter", append([]string{"--net=" + path, name}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

// A namespace of somebody else's, by path or by pid: what joins is reached, what leaves is gone, and the namespace lives on with what was
// in it.
func TestNamespaceOfSomebodyElse(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true})
	peer := w.container("peer", nil, blue)
	byPath, byPID := newBound(t), process(t)
	for name, o := range map[string]sandbox.Origin{"by-path": {Path: byPath.path}, "by-pid": {PID: byPID.Pid}} {
		t.Run(name, func(t *testing.T) {
			path := o.Path
			if path == "" {
				path = fmt.Sprintf("/proc/%d/ns/net", o.PID)
			}
			for _, args := range [][]string{{"link", "add", "theirs", "type", "bridge"}, {"link", "set", "theirs", "up"}, {"route", "add", "198.51.100.0/24", "dev", "theirs"}} {
				if err := in(path, "ip", args...); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				c := w.sandbox(sandbox.Spec{Name: name, Namespace: o})
				e := c.join(blue, endpoint.Spec{Name: name})
				for _, six := range families {
					if err := peer.pings(c.address(six)); err != nil {
						t.Error(err)
					}
				}
				_, err := w.CreateSandbox(t.Context(), sandbox.Spec{Name: "second", Namespace: o})
				if !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), string(c.ID())) {
					t.Errorf("a second sandbox there: %v", err)
				}
				if err := e.Leave(t.Context()); err != nil {
					t.Fatal(err)
				}
				nstest.Eventually(t, "eth0 is gone", func() bool { return in(path, "ip", "link", "show", "eth0") != nil })
				if err := e.Join(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				if err := peer.pings(c.address(false)); err != nil {
					t.Error(err)
				}
				if err := c.Delete(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := in(path, "ip", "link", "show", "theirs"); err != nil {
				t.Error(err)
			}
			if err := in(path, "ip", "route", "get", "198.51.100.1"); err != nil {
				t.Error(err)
			}
			nstest.Eventually(t, "eth0 is gone", func() bool { return in(path, "ip", "link", "show", "eth0") != nil })
		})
	}
}

// A namespace that ends takes its sandbox and endpoints along, with nobody asking, and what they had is free.
func TestNamespaceThatEndsTakesItsSandboxAlong(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true})
	peer := w.container("peer", nil, blue)
	before := w.everything()
	ends := map[string]func(t *testing.T) (sandbox.Origin, func()){
		"path": func(t *testing.T) (sandbox.Origin, func()) {
			b := newBound(t)
			return sandbox.Origin{Path: b.path}, b.end
		},
		"mount": func(t *testing.T) (sandbox.Origin, func()) {
			b := newBound(t)
			return sandbox.Origin{Path: b.path}, func() { b.unmount() } // the file stays
		},
		"pid": func(t *testing.T) (sandbox.Origin, func()) {
			p := process(t)
			return sandbox.Origin{PID: p.Pid}, func() { p.Kill(); p.Wait() }
		},
	}
	for name, begin := range ends {
		for _, when := range []string{"at once", "while the daemon is away"} {
			t.Run(name+" "+when, func(t *testing.T) {
				origin, end := begin(t)
				c := w.sandbox(sandbox.Spec{Name: "c", Namespace: origin})
				c.join(w.named("blue"), endpoint.Spec{Name: "c", Publish: ports(t, "8080:80")})
				if err := peer.pings(c.address(false)); err != nil {
					t.Error(err)
				}
				events, stop := context.WithCancel(t.Context())
				defer stop()
				told := make(chan bool, 1)
				all := w.Events(events)
				if when == "at once" {
					go func() {
						for e, err := range all {
							if err == nil && e.Type == "sandbox" && e.Action == "destroy" && e.ID == string(c.ID()) {
								told <- true
							}
						}
					}()
					end()
					<-told
				} else {
					stop()
					w.stop()
					end()
					w.start()
					peer.again()
				}
				w.Idle(t.Context())
				if _, err := w.Sandbox(t.Context(), string(c.ID())); !errdefs.IsNotFound(err) {
					t.Errorf("got %v, want NotFound", err)
				}
				var now []string
				nstest.Eventually(t, "nothing is left", func() bool {
					now = w.everything()
					return strings.Join(now, "") == strings.Join(before, "")
				})
				again := w.container("again", ports(t, "8080:80"), w.named("blue"))
				if err := again.Delete(t.Context()); err != nil {
					t.Error(err)
				}
				w.Idle(t.Context())
			})
		}
	}
}

// Container mode: the sharer has the donor's namespace and none of its own, and the donor stays while it is shared.
func TestSharedNamespace(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue"})
	donor := w.container("donor", nil, blue)
	sharer := w.sandbox(sandbox.Spec{Name: "sharer", Namespace: sandbox.Origin{Share: donor.ID()}})
	a, errA := donor.Info(t.Context())
	b, errB := sharer.Info(t.Context())
	if errA != nil || errB != nil || a.Key != b.Key || a.Cookie != b.Cookie {
		t.Errorf("the donor is at %s, the sharer at %s: %v, %v", a.Key, b.Key, errA, errB)
	}
	e, err := blue.CreateEndpoint(t.Context(), endpoint.Spec{Name: "e"})
	if err != nil {
		t.Fatal(err)
	}
	refuses(t, w, "InvalidArgument", func() error { return e.Join(t.Context(), sharer) })
	if err := e.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	err = refuses(t, w, "Conflict", func() error { return donor.Delete(t.Context()) })
	if err != nil && !strings.Contains(err.Error(), string(sharer.ID())) {
		t.Errorf("%v does not name the sharer", err)
	}
	w.restart()
	donor.again()
	sharer.again()
	refuses(t, w, "Conflict", func() error { return donor.Delete(t.Context()) })
	for _, c := range []*container{sharer, donor} {
		if err := c.Delete(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// A sandbox in the host's namespace joins the host's network and no other, and its end takes nothing of the host's along.
func TestHostsNamespace(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue"})
	c := w.sandbox(sandbox.Spec{Name: "c", Namespace: sandbox.Origin{Host: true}})
	hosts := w.network(sealane.NetworkSpec{Name: "host", Driver: "host"})
	before := w.host.Inventory()
	c.join(hosts, endpoint.Spec{Name: "c"})
	e, err := blue.CreateEndpoint(t.Context(), endpoint.Spec{Name: "e"})
	if err != nil {
		t.Fatal(err)
	}
	refuses(t, w, "InvalidArgument", func() error { return e.Join(t.Context(), c) })
	if err := c.Delete(t.Context()); err != nil {
		t.Error(err)
	}
	if now := w.host.Inventory(); strings.Join(now, "") != strings.Join(before, "") {
		t.Errorf("the host has %v, had %v", now, before)
	}
	if err := e.Delete(t.Context()); err != nil {
		t.Error(err)
	}
}

// A late sandbox is joined before its namespace is there, and has its links when it comes.
func TestLateNamespace(t *testing.T) {
	w := newWorld(t)
	blue, red := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true}), w.network(sealane.NetworkSpec{Name: "red"})
	peer := w.container("peer", nil, blue)
	c := w.sandbox(sandbox.Spec{Name: "c", Namespace: sandbox.Origin{Late: true}})
	c.join(blue, endpoint.Spec{Name: "c", Publish: ports(t, "8080:80")})
	c.join(red, endpoint.Spec{Name: "c"})
	first, second := newBound(t), newBound(t)
	refuses(t, w, "InvalidArgument", func() error { return c.SetNamespace(t.Context(), sandbox.Origin{}) })
	refuses(t, w, "NotFound", func() error { return c.SetNamespace(t.Context(), sandbox.Origin{Path: first.path + "-not"}) })
	w.restart()
	c.again()
	peer.again()
	for range 2 {
		if err := c.SetNamespace(t.Context(), sandbox.Origin{Path: first.path}); err != nil {
			t.Fatal(err)
		}
	}
	refuses(t, w, "FailedPrecondition", func() error { return c.SetNamespace(t.Context(), sandbox.Origin{Path: second.path}) })
	for _, six := range families {
		var to netip.Addr
		for i := range c.endpoints {
			if info, err := c.endpoints[i].Info(t.Context()); err == nil && info.Network == blue.ID() {
				to = c.addressOn(i, six)
			}
		}
		if err := peer.pings(to); err != nil {
			t.Error(err)
		}
	}
	if err := in(first.path, "ip", "link", "show", "eth1"); err != nil {
		t.Error(err)
	}
	if err := in(first.path, "ping", "-c1", "-W10", "192.0.2.1"); err != nil {
		t.Error(err)
	}
}

// A foreign sandbox: the caller moves the link in, configures it, and moves it back; leaving works before and after.
func TestForeignNamespace(t *testing.T) {
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true})
	peer := w.container("peer", nil, blue)
	engine := nstest.New(t, "engine")
	for _, back := range []bool{true, false} {
		c := w.sandbox(sandbox.Spec{Name: "c", Namespace: sandbox.Origin{Foreign: true}})
		e := c.join(w.named("blue"), endpoint.Spec{Name: "c"})
		info, err := e.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		source := "sp" + info.Nonce
		w.host.Run("ip", "link", "set", source, "netns", engine.Path(), "name", "eth0")
		for _, p := range info.Addresses {
			engine.Run("ip", "address", "add", p.String(), "dev", "eth0", "nodad")
		}
		engine.Run("ip", "link", "set", "eth0", "up")
		for _, p := range info.Addresses {
			nstest.Eventually(t, "what the caller configured is heard", func() bool { return reaches(peer.as(), p.Addr()) })
		}
		w.restart()
		c.again()
		peer.again()
		for _, p := range info.Addresses {
			if err := peer.pings(p.Addr()); err != nil {
				t.Errorf("after a restart: %v", err)
			}
		}
		if back {
			engine.Run("ip", "link", "set", "eth0", "down")
			engine.Run("ip", "link", "set", "eth0", "netns", w.host.Path(), "name", source)
		}
		if err := c.endpoints[0].Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if reaches(peer.as(), info.Addresses[0].Addr()) {
			t.Error("it left and is reached")
		}
		if err := c.Delete(t.Context()); err != nil {
			t.Error(err)
		}
		nstest.Eventually(t, "the engine's end is gone", func() bool {
			_, err := engine.Netlink().LinkByName("eth0")
			return errors.As(err, &netlink.LinkNotFoundError{})
		})
	}
}
