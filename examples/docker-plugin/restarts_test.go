package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/nstest"
)

// lab is the demo's two hosts with a container of the network blue on each. Consul is on the second, and things happen to the first.
type lab struct {
	t        *testing.T
	one, two *host
	flags    []string  // of the first host's engine
	bare     []string  // what the second host contains without a network of ours
	failed   *[]string // what went wrong, for the end of the log
}

const store = "consul://192.0.2.2:8500"

// both makes blue as the demo does, with both families.
var both = strings.Replace(create, "network create", "network create --ipv6", 1)

func newLab(t *testing.T, tools programs) *lab {
	l := &lab{t: t, failed: new([]string)}
	t.Cleanup(func() {
		for _, what := range *l.failed {
			t.Log(what)
		}
	})
	l.one, l.two = l.host("one", "192.0.2.1", tools), l.host("two", "192.0.2.2", tools)
	l.must(connect(l.one, l.two))
	l.must(l.two.startConsul(t.Context()))
	for _, h := range []*host{l.one, l.two} {
		l.must(h.startPlugin(t.Context(), store))
		l.must(h.startEngine(t.Context(), "-l", "warn"))
	}
	l.bare = l.network(l.two).Inventory()
	for _, h := range []*host{l.one, l.two} {
		l.says(h, both)
	}
	gateway := l.says(l.one, "docker network inspect --format '{{(index .IPAM.Config 0).Gateway}}' blue")
	gateway, _, _ = strings.Cut(gateway, "/")
	l.says(l.one, "docker run -d --name web --restart always --stop-signal KILL --network blue --dns "+gateway+" -p 8080:80 -p 7007:7 -p 7007:7/udp box httpd -f -h /www")
	l.says(l.two, "docker run -d --name web2 --stop-signal KILL --network blue --dns "+gateway+" box httpd -f -h /www")
	return l
}

func (l *lab) host(name, address string, tools programs) *host {
	l.t.Helper()
	h, err := newHost(filepath.Join(l.t.TempDir(), name), name, address, tools)
	l.must(err)
	l.t.Cleanup(func() {
		if err := h.end(); err != nil {
			l.t.Error(err)
		}
		for _, log := range []string{"sealane", "dockerd"} {
			if l.t.Failed() {
				l.t.Logf("the end of what %s of host %s says:\n%s", log, name, h.logged(log))
			}
		}
	})
	return h
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		*l.failed = append(*l.failed, l.t.Name()+": "+err.Error())
		l.t.Fatal(err)
	}
}

// in has a subtest judge.
func (l *lab) in(t *testing.T) *lab {
	sub := *l
	sub.t = t
	return &sub
}

// says runs a command on a host, which must succeed.
func (l *lab) says(h *host, command string) string {
	l.t.Helper()
	out, err := h.says(l.t.Context(), command)
	l.must(err)
	return out
}

// network is a host's own namespace.
func (l *lab) network(h *host) *nstest.Host {
	l.t.Helper()
	return nstest.At(l.t, "host "+h.name, fmt.Sprintf("/proc/%d/ns/net", h.holder.Process.Pid))
}

// inside is where a container is.
func (l *lab) inside(h *host, container string) *nstest.Host {
	l.t.Helper()
	return nstest.At(l.t, container, "/proc/"+l.says(h, "docker inspect --format {{.State.Pid}} "+container)+"/ns/net")
}

func (l *lab) address(h *host, container string) string {
	l.t.Helper()
	return l.says(h, "docker inspect --format {{.NetworkSettings.Networks.blue.IPAddress}} "+container)
}

// streams are traffic between the containers, both ways, and from the second host to a port that the first publishes.
func (l *lab) streams() (all []*nstest.Stream) {
	l.t.Helper()
	web, web2, outside := l.inside(l.one, "web"), l.inside(l.two, "web2"), l.network(l.two)
	web.Echo("7")
	web2.Echo("7")
	for _, proto := range []string{"udp", "tcp"} {
		all = append(all, web.Stream(proto, l.address(l.two, "web2")+":7"), web2.Stream(proto, l.address(l.one, "web")+":7"),
			outside.Stream(proto, "192.0.2.1:7007"))
	}
	return all
}

// works waits until the containers reach each other, and the second host the published port: an engine starts its containers after it answers.
func (l *lab) works() {
	l.t.Helper()
	l.must(l.one.until(l.t.Context(), "dockerd", func() error {
		format := "{{with .NetworkSettings.Networks.blue}}{{.IPAddress}} {{.GlobalIPv6Address}}{{end}}"
		addresses, err := l.one.in(l.t.Context(), "docker", "inspect", "--format", format, "web").Output()
		first, six, _ := strings.Cut(strings.TrimSpace(string(addresses)), " ")
		if err != nil || first == "" || six == "" {
			return errors.Join(errors.New("container web has no addresses"), err)
		}
		second := l.address(l.two, "web2")
		six2 := l.says(l.two, "docker inspect --format {{.NetworkSettings.Networks.blue.GlobalIPv6Address}} web2")
		for _, try := range []struct {
			on              *host
			command, expect string
		}{
			{l.two, "docker exec web2 ping -c 1 -W 2 " + first, " 0% packet loss"},
			{l.two, "timeout 10 docker exec web2 wget -q -O - http://" + first + "/", l.one.page()},
			{l.two, "timeout 10 docker exec web2 wget -q -O - http://web/", l.one.page()},
			{l.two, "docker exec web2 ping -6 -c 1 -W 2 web", " 0% packet loss"},
			{l.two, "timeout 10 docker exec web2 wget -q -O - http://[" + six + "]/", l.one.page()},
			{l.one, "docker exec web ping -6 -c 1 -W 2 web2", " 0% packet loss"},
			{l.one, "timeout 10 docker exec web wget -q -O - http://[" + six2 + "]/", l.two.page()},
			{l.one, "docker exec web ping -c 1 -W 2 " + second, " 0% packet loss"},
			{l.one, "timeout 10 docker exec web wget -q -O - http://" + second + "/", l.two.page()},
			{l.one, "timeout 10 docker exec web wget -q -O - http://web2/", l.two.page()},
			{l.two, "timeout 10 busybox wget -q -O - http://192.0.2.1:8080/", l.one.page()},
		} {
			if err := try.on.expects(l.t.Context(), try.command, try.expect); err != nil {
				return err
			}
		}
		return nil
	}))
	l.says(l.one, "docker run --rm --network blue box ping -c 1 -W 20 "+l.address(l.two, "web2"))
	for _, h := range []*host{l.one, l.two} { // nothing is left of what was before
		if got := l.says(h, "sealane network inspect --format '{{len .Containers}}' blue"); got != "1" {
			l.t.Errorf("host %s: %s endpoints on the network, want one", h.name, got)
		}
	}
}

// What is done to the first host.
func (l *lab) killPlugin()  { l.must(l.one.stop(l.one.plugin, unix.SIGKILL)) }
func (l *lab) killEngine()  { l.must(l.one.stop(l.one.engine, unix.SIGKILL)) }
func (l *lab) endEngine()   { l.must(l.one.stop(l.one.engine, unix.SIGTERM)) }
func (l *lab) startPlugin() { l.must(l.one.startPlugin(l.t.Context(), store)) }
func (l *lab) startEngine() {
	l.must(l.one.startEngine(l.t.Context(), l.engineFlags()...))
}

func (l *lab) engineFlags() []string { return append([]string{"-l", "warn"}, l.flags...) }

// startBoth has the engine come up first, and find no plugin.
func (l *lab) startBoth() {
	l.must(l.one.beginEngine(l.engineFlags()...))
	l.startPlugin()
	l.must(l.one.engineAnswers(l.t.Context()))
}

func (l *lab) killBothPlugins() {
	l.killPlugin()
	l.must(l.two.stop(l.two.plugin, unix.SIGKILL))
}

func (l *lab) startBothPlugins() {
	l.startPlugin()
	l.must(l.two.startPlugin(l.t.Context(), store))
}

// powerCut ends everything on the first host, and its memory: what comes after it has its disk and its cable.
func (l *lab) powerCut() {
	l.t.Helper()
	next, err := newHost(l.one.dir, l.one.name, l.one.address, l.one.tools)
	l.must(err)
	l.must(l.one.quietly(l.t.Context(), "ip", "link", "set", wire, "netns", strconv.Itoa(next.holder.Process.Pid)))
	for _, pid := range nstest.ProcessesOf(l.one.dir) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	for _, c := range append(l.one.running, l.one.holder) {
		_ = c.Process.Kill()
		_ = c.Wait() // it says that it was killed
	}
	l.must(l.one.network.Close())
	*l.one = *next
	for _, memory := range []string{"run", "exec", "docker.sock"} {
		l.must(os.RemoveAll(filepath.Join(next.dir, memory)))
	}
	l.must(next.plug())
}

// TestRestarts ends plugins, engines and a host in every order. What runs loses no packet of its traffic; what an engine ends and starts
// again comes back with a network that works; and nothing is left of what was before.
func TestRestarts(t *testing.T) {
	l := newLab(t, built(t))
	l.works()
	type step = func(*lab)
	live := []string{"--live-restore"}
	for _, c := range []struct {
		what  string
		flags []string // of the first host's engine
		lives bool     // the containers do, and their traffic
		steps []step
	}{
		{"the plugin is killed", nil, true, []step{(*lab).killPlugin, (*lab).startPlugin}},
		{"both plugins are killed", nil, true, []step{(*lab).killBothPlugins, (*lab).startBothPlugins}},
		{"the engine ends", nil, false, []step{(*lab).endEngine, (*lab).startEngine}},
		{"the engine is killed", nil, false, []step{(*lab).killEngine, (*lab).startEngine}},
		{"plugin, then engine", nil, false, []step{(*lab).killPlugin, (*lab).killEngine, (*lab).startPlugin, (*lab).startEngine}},
		{"engine, then plugin", nil, false, []step{(*lab).killEngine, (*lab).killPlugin, (*lab).startBoth}},
		{"from now on live-restore", live, false, []step{(*lab).endEngine, (*lab).startEngine}},
		{"live: the engine ends", live, true, []step{(*lab).endEngine, (*lab).startEngine}},
		{"live: the engine is killed", live, true, []step{(*lab).killEngine, (*lab).startEngine}},
		{"live: plugin, then engine", live, true, []step{(*lab).killPlugin, (*lab).killEngine, (*lab).startPlugin, (*lab).startEngine}},
		{"live: engine, then plugin", live, true, []step{(*lab).killEngine, (*lab).killPlugin, (*lab).startBoth}},
		{"the host's power is cut", live, false, []step{(*lab).powerCut, (*lab).startPlugin, (*lab).startEngine}},
	} {
		t.Run(c.what, func(t *testing.T) {
			l.flags = c.flags
			l := l.in(t)
			if c.lives {
				talk := l.streams()
				defer nstest.EndAll(t, talk) // after all has settled
			}
			for _, s := range c.steps {
				s(l)
			}
			l.works()
		})
	}
	l.end()
}

// end removes everything: the network goes with the last engine that joined it.
func (l *lab) end() {
	l.t.Helper()
	l.says(l.one, "docker rm -f web")
	l.says(l.two, "docker rm -f web2")
	l.says(l.one, "docker network rm blue")
	l.says(l.two, "docker network rm blue")
	if left := l.says(l.two, "sealane network ls --filter driver=overlay -q"); left != "" {
		l.t.Errorf("a network is left: %s", left)
	}
	two := l.network(l.two)
	l.t.Cleanup(func() {
		if d := cmp.Diff(l.bare, two.Inventory()); d != "" && l.t.Failed() {
			l.t.Errorf("left on the second host (-before +after):\n%s", d)
		}
	})
	nstest.Eventually(l.t, "the second host is as it was", func() bool { return cmp.Equal(l.bare, two.Inventory()) })
}
