package nstest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// settle is how long leftovers may take to go: the kernel deletes links and namespaces after the call that asked for it.
const settle = time.Minute

// Inventory lists what a test could leave behind in a host: links with their aliases, addresses, routes, firewall objects. Link indexes,
// handles and counters are left out, so that two inventories compare as text.
func (h *Host) Inventory() []string {
	h.t.Helper()
	var lines []string
	links, err := h.Netlink().LinkList()
	if err != nil {
		h.t.Fatalf("host %s: list links: %v", h.Name, err)
	}
	names := map[int]string{}
	for _, l := range links {
		a := l.Attrs()
		names[a.Index] = a.Name
		lines = append(lines, fmt.Sprintf("link %s %s %q", a.Name, l.Type(), a.Alias))
	}
	addrs, err := h.Netlink().AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		h.t.Fatalf("host %s: list addresses: %v", h.Name, err)
	}
	for _, a := range addrs {
		lines = append(lines, fmt.Sprintf("address %s %s", names[a.LinkIndex], a.IPNet))
	}
	lines = append(lines, strings.Split(h.Ruleset(), "\n")...)
	slices.Sort(lines)
	return lines
}

// Ruleset is nft's own listing of the host's firewall, without handles and counters.
func (h *Host) Ruleset() string {
	h.t.Helper()
	return strings.TrimSpace(h.Run("nft", "--stateless", "list", "ruleset"))
}

// MustReturn takes the inventory now and fails the test at its cleanup if the host has not come back to it. Call it after the test's own
// set-up and before what is tested.
func (h *Host) MustReturn() {
	h.t.Helper()
	before := h.Inventory()
	h.t.Cleanup(func() {
		var now []string
		if !eventually(func() bool { now = h.Inventory(); return slices.Equal(before, now) }) {
			h.t.Errorf("host %s: left behind (-before +now):\n%s", h.Name, cmp.Diff(before, now))
		}
	})
}

// MustNotLeak fails the test at its cleanup if goroutines or descriptors of this process have grown. Call it first: cleanups run in
// reverse. Not for parallel tests.
func MustNotLeak(t testing.TB) {
	t.Helper()
	startPoller(t)
	goroutines, fds := runtime.NumGoroutine(), descriptors(t)
	t.Cleanup(func() {
		if !eventually(func() bool { return runtime.NumGoroutine() <= goroutines }) {
			stacks := make([]byte, 1<<20)
			t.Errorf("goroutines: %d before, %d now\n%s", goroutines, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
		if !eventually(func() bool { return len(descriptors(t)) <= len(fds) }) {
			t.Errorf("descriptors left open (-before +now):\n%s", cmp.Diff(fds, descriptors(t)))
		}
	})
}

// MustBeUnused fails the test if a directory, which programs had for TMPDIR, has files, mounts or such a program left.
func MustBeUnused(t testing.TB, dir string) {
	t.Helper()
	if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
		t.Errorf("temporary files: %v, %v", files, err)
	}
	if mounts, err := os.ReadFile("/proc/self/mountinfo"); err != nil || bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("mounts (%v):\n%s", err, mounts)
	}
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		if env, _ := os.ReadFile(f); bytes.Contains(env, []byte("TMPDIR="+dir)) {
			t.Errorf("the process of %s still runs", f)
		}
	}
}

// startPoller has the Go runtime open what it polls descriptors with: it does so once, when the first is opened.
func startPoller(t testing.TB) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
}

// descriptors lists the open files of the process by what they are.
func descriptors(t testing.TB) []string {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			open = append(open, target)
		}
	}
	slices.Sort(open)
	return open
}

// Eventually waits until ok says so and fails the test after a minute, which a busy machine may need. It is for what the kernel finishes in its own time and tells
// nobody; where there is an event, wait for that.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !eventually(ok) {
		t.Fatalf("still not after %s: %s", settle, what)
	}
}

func eventually(ok func() bool) bool {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(settle); ; <-tick.C {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}
