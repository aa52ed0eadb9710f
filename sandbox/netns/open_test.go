package netns_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/sandbox"
)

// What is no network namespace is refused at once, and the error says what it is.
func TestOpenRefuses(t *testing.T) {
	r := newRoom(t, 0)
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	bad := (&theirs{t: t, dir: t.TempDir()}).bad()
	for name, c := range map[string]struct {
		o    sandbox.Origin
		is   func(error) bool
		says string
	}{
		"nothing asked for": {sandbox.Origin{}, errdefs.IsInvalidArgument, "want one of"},
		"two things":        {sandbox.Origin{Path: "/proc/self/ns/net", Host: true}, errdefs.IsInvalidArgument, "want one of"},
		"shared":            {sandbox.Origin{Share: "ab"}, errdefs.IsInvalidArgument, "want one of"},
		"nothing there":     {sandbox.Origin{Path: "/run/none/ns"}, errdefs.IsNotFound, "/run/none/ns"},
		"a directory":       {sandbox.Origin{Path: bad["a directory"]}, errdefs.IsInvalidArgument, "is a directory"},
		"a FIFO":            {sandbox.Origin{Path: bad["a FIFO"]}, errdefs.IsInvalidArgument, "is a FIFO"},
		"a file":            {sandbox.Origin{Path: bad["a file"]}, errdefs.IsInvalidArgument, "is a plain file"},
		"a device":          {sandbox.Origin{Path: "/dev/null"}, errdefs.IsInvalidArgument, "is a device"},
		"another kind":      {sandbox.Origin{Path: "/proc/self/ns/mnt"}, errdefs.IsInvalidArgument, "is a mount namespace"},
		"a dead process":    {sandbox.Origin{PID: dead.Process.Pid}, errdefs.IsNotFound, fmt.Sprint("process ", dead.Process.Pid)},
		"no process":        {sandbox.Origin{PID: -1}, errdefs.IsInvalidArgument, "process -1"},
	} {
		t.Run(name, func(t *testing.T) {
			ns, err := r.p.Open(context.Background(), c.o)
			if ns != nil || err == nil || !c.is(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, %v; want another kind or %q", ns, err, c.says)
			}
		})
	}
}

func TestOpenProcess(t *testing.T) {
	r := newRoom(t, 0)
	ns := r.open(sandbox.Origin{PID: os.Getpid()})
	if want := fmt.Sprintf("/proc/%d/ns/net", os.Getpid()); ns.Key() != want {
		t.Errorf("key %s, want %s", ns.Key(), want)
	}
	if ns.Cookie() == r.host.Cookie() || ns.Cookie() == 0 {
		t.Errorf("cookie %d, the host's %d", ns.Cookie(), r.host.Cookie())
	}
}

func TestCreateRefuses(t *testing.T) {
	r := newRoom(t, 0)
	for _, id := range []string{"", "..", "../ab", "a/b", "xyz", ".ab"} {
		if _, err := r.p.Create(context.Background(), id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Create(%q): %v", id, err)
		}
		if err := r.p.Remove(context.Background(), id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Remove(%q): %v", id, err)
		}
	}
}
