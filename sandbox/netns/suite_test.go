package netns_test

import (
	"flag"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/sandbox/netns"
	"github.com/sealane/sealane/sandbox/sandboxtest"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var walks = flag.Int("walks", 60, "random walks of TestWalk")

func TestRoom(t *testing.T) { sandboxtest.Run(t, environment) }

// Issue 2 asks for a thousand walks: -walks=1000.
func TestWalk(t *testing.T) { sandboxtest.Walk(t, environment(t), 2, *walks, 4) }

// environment is a host of its own with two instances on it.
func environment(t testing.TB) sandboxtest.Env {
	h := nstest.New(t, "host")
	theirs := &theirs{t: t, dir: runDir(t)}
	beside := must(netns.New(netns.Options{Host: h.Path(), Run: runDir(t), Instance: "beside"}))(t, closed[*netns.Provider])
	at := func(key string) *nstest.Host {
		if key == "" {
			return h
		}
		return nstest.At(t, "namespace", key)
	}
	return sandboxtest.Env{
		Provider: provider(t, h, 0), Beside: beside,
		Path: theirs.make, End: theirs.end, Bad: theirs.bad(),
		Links: func(key string) []string { return links(t, at(key)) },
		AddLink: func(key, name string) {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = name
			if err := at(key).Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				t.Fatal(err)
			}
		},
		DelLink: func(key, name string) {
			nl := at(key).Netlink()
			if err := nl.LinkDel(must(nl.LinkByName(name))(t)); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// links are the names of what was added to a namespace.
func links(t testing.TB, h *nstest.Host) []string {
	var names []string
	for _, l := range must(h.Netlink().LinkList())(t) {
		if name := l.Attrs().Name; name != "lo" {
			names = append(names, name)
		}
	}
	return names
}

// theirs makes namespaces that are not ours.
type theirs struct {
	t   testing.TB
	dir string
	n   int
}

func (o *theirs) make() string {
	o.n++
	path := filepath.Join(o.dir, strconv.Itoa(o.n))
	err := os.WriteFile(path, nil, 0o444)
	if err == nil {
		err = nsthread.New(func() error { return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "") })
	}
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
	return path
}

func (o *theirs) end(path string) {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		o.t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		o.t.Fatal(err)
	}
}

// bad makes what is no network namespace.
func (o *theirs) bad() map[string]string {
	file, fifo, socket := filepath.Join(o.dir, "file"), filepath.Join(o.dir, "fifo"), filepath.Join(o.dir, "socket")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		o.t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		o.t.Fatal(err)
	}
	must(net.Listen("unix", socket))(o.t, closed[net.Listener])
	return map[string]string{"a directory": o.dir, "a file": file, "a FIFO": fifo, "a socket": socket, "a device": "/dev/null", "a UTS namespace": "/proc/self/ns/uts"}
}
