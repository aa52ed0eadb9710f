package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/sealane/sealane/api"
	"github.com/sealane/sealane/internal/nstest"
)

// crowd are plugins of an outsider's with containers on a network of each.
type crowd struct {
	d       *victim
	program string
	plugins int
	each    int // containers of a plugin
	running []*exec.Cmd
	mute    []net.Listener
}

func (c *crowd) name(plugin int) string { return fmt.Sprint("weave", plugin) }
func (c *crowd) socket(plugin int) string {
	return filepath.Join(c.d.dir, "plugins", c.name(plugin)+".sock")
}

// start runs the plugins.
func (c *crowd) start() {
	for i := range c.plugins {
		cmd := exec.Command(c.program, c.socket(i))
		c.d.on.Do(cmd.Start)
		c.running = append(c.running, cmd)
		nstest.Eventually(c.d.t, "a plugin listens", func() bool {
			conn, err := net.Dial("unix", c.socket(i))
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
}

func (c *crowd) stop() {
	for _, cmd := range c.running {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it says that it was killed
	}
	c.running = nil
}

// silence puts in the place of each plugin somebody who accepts and reads, and never answers.
func (c *crowd) silence() {
	c.stop()
	for i := range c.plugins {
		_ = os.Remove(c.socket(i))
		l, err := net.Listen("unix", c.socket(i))
		if err != nil {
			c.d.t.Fatal(err)
		}
		c.mute = append(c.mute, l)
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go io.Copy(io.Discard, conn) // until the caller hangs up
			}
		}()
	}
}

// speak brings the plugins back.
func (c *crowd) speak() {
	for _, l := range c.mute {
		l.Close()
	}
	c.mute = nil
	c.start()
}

// all does something about each container, those of different plugins at once.
func (c *crowd) all(do func(ctx context.Context, plugin int, name string) error) {
	c.d.t.Helper()
	work, ctx := errgroup.WithContext(context.Background())
	for i := range c.plugins {
		work.Go(func() error {
			for n := range c.each {
				if err := do(ctx, i, fmt.Sprintf("c%d-%d", i, n)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		c.d.t.Fatal(err)
	}
}

// problems are the networks of which it is told that their plugin does not answer.
func (c *crowd) problems() (told int) {
	for i := range c.plugins {
		n, err := c.d.Network(c.d.t.Context(), c.name(i))
		if err != nil {
			c.d.t.Fatal(err)
		}
		if strings.Contains(n.Problem, "plugin "+c.name(i)) {
			told++
		}
	}
	return told
}

// TestSilentPlugins kills the daemon and starts it again beside five plugins with a hundred endpoints that accept and never answer: its API is
// there in two seconds, other networks work as ever and lose no packet, and theirs mend when they answer again.
func TestSilentPlugins(t *testing.T) {
	const limit = 2 * time.Second
	host, outside := hosts(t)
	host.MustReturn()
	d, others := newVictim(t, host), &outsiders{}
	others.build(t)
	d.flags = []string{"--plugin-dir", d.dir + "/plugins"}
	if err := os.Mkdir(d.dir+"/plugins", 0o755); err != nil {
		t.Fatal(err)
	}
	c := &crowd{d: d, program: filepath.Join(others.dir, "weave"), plugins: 5, each: 20}
	t.Cleanup(c.stop)
	c.start()
	d.serve()
	ctx := t.Context()
	for i := range c.plugins {
		d.must(d.CreateNetwork(ctx, api.NetworkSpec{Name: c.name(i), Driver: c.name(i)}))
	}
	d.must(d.CreateNetwork(ctx, api.NetworkSpec{Name: "blue"}))
	d.must(d.CreateSandbox(ctx, api.SandboxSpec{Name: "web", Networks: []api.NetworkJoin{{Network: "blue"}}, Publish: []string{"7000:7", "7000:7/udp"}}))
	c.all(func(ctx context.Context, plugin int, name string) error {
		_, err := d.CreateSandbox(ctx, api.SandboxSpec{Name: name, Networks: []api.NetworkJoin{{Network: c.name(plugin)}}})
		return err
	})
	d.inside("web").Echo("7")
	streams := []*nstest.Stream{outside.Stream("udp", "192.0.2.2:7000"), outside.Stream("tcp", "192.0.2.2:7000")}

	another := func() time.Duration {
		began := time.Now()
		d.must(d.CreateSandbox(ctx, api.SandboxSpec{Name: "late", Networks: []api.NetworkJoin{{Network: "blue"}}}))
		if err := d.RemoveSandbox(ctx, "late", false); err != nil {
			t.Error(err)
		}
		return time.Since(began)
	}
	before := another()
	d.killNine()
	c.silence()
	nstest.Within(t, fmt.Sprintf("a start beside %d silent plugins with %d endpoints", c.plugins, c.plugins*c.each), d.serve(), limit)
	t.Logf("a container of another network takes %v beside them, %v before", another(), before)
	nstest.EndAll(t, streams)
	nstest.Eventually(t, "their networks are told of", func() bool { return c.problems() == c.plugins })

	c.speak()
	nstest.Eventually(t, "they mend", func() bool { return c.problems() == 0 })
	c.all(func(ctx context.Context, _ int, name string) error {
		return c.insist(func() error { return d.RemoveSandbox(ctx, name, false) })
	})
	for i := range c.plugins {
		if err := c.insist(func() error { return d.RemoveNetwork(ctx, c.name(i), false) }); err != nil {
			t.Error(err)
		}
	}
	d.removeAll("blue")
}

// insist asks again while the answer is to do so: the daemon is telling a plugin something about it.
func (c *crowd) insist(remove func() error) (err error) {
	nstest.Eventually(c.d.t, "nobody is told about it", func() bool {
		err = remove()
		return !errdefs.IsConflict(err)
	})
	return err
}
