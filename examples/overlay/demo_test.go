package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// programs is the directory of what the demo runs, built once.
var programs string

func TestMain(m *testing.M) {
	os.Exit(func() (status int) {
		var err error
		if programs, err = build(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(programs)
		return m.Run()
	}())
}

func build() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "overlay-programs-"); err != nil {
		return "", err
	}
	c := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", dir, ".", "../../cmd/sealane")
	c.Env = append(os.Environ(), "CGO_ENABLED=0") // starts faster
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return dir, os.Symlink(cached("bin/consul"), filepath.Join(dir, "consul"))
}

// cached is what the Makefile keeps for tests.
func cached(name string) string {
	dir, err := os.UserCacheDir()
	if err != nil {
		dir = err.Error()
	}
	return filepath.Join(dir, "sealane", name)
}

// testOptions are the demo's, with a temporary directory that must be empty in the end.
func testOptions(t *testing.T) options {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	t.Cleanup(func() {
		if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
			t.Errorf("left in the temporary directory: %v, %v", left, err)
		}
	})
	return options{store: "consul", programs: programs, kernel: cached("kernel")}
}

// told is what the demo prints, whatever its hosts are, but for ids and ports.
const told = `
  ✓ hosts north 192.0.2.1, south 192.0.2.2
  ✓ consul consul://192.0.2.1:8500
  ✓ host north sealane serve --store consul://192.0.2.1:8500 --advertise eth0
  ✓ host south sealane serve --store consul://192.0.2.1:8500 --advertise eth0
  ✓ north$ sealane network create --driver overlay blue ID
  ✓ north$ sealane sandbox create --network blue app ID
  ✓ south$ sealane sandbox create --network blue web ID
  ✓ ping web from app 3 of 3 answered
  ✓ one packet on the wire 192.0.2.1 > 192.0.2.2 UDP 4789, VNI 256: 10.0.0.2 > 10.0.0.16, 148 bytes
  ✓ http://web from app hello from the other host, 10.0.0.2:PORT
  ✓ stop consul no server is left
  ✓ ping web from app 50 of 50 answered
  ✓ http://web from app hello from the other host, 10.0.0.2:PORT
  ✓ north$ sealane sandbox create --network blue late ID, told to the others when the store is back
  ✓ clean up daemons, store, hosts, files: nothing is left
`

func masked(text string) string {
	_, text, _ = strings.Cut(text, "\n")
	for _, mask := range []struct{ pattern, by string }{
		{`\b[0-9a-f]{12}\b`, "ID"}, {`10\.0\.0\.2:\d+`, "10.0.0.2:PORT"}, {`(\S) {2,}`, "$1 "},
	} {
		text = regexp.MustCompile(mask.pattern).ReplaceAllString(text, mask.by)
	}
	return text
}

func TestDemo(t *testing.T) {
	o := testOptions(t)
	for _, kind := range []struct {
		name string
		vm   bool
	}{{"namespaces", false}, {"machines", true}} {
		o.vm = kind.vm
		t.Run(kind.name, func(t *testing.T) {
			var out bytes.Buffer
			err := demo(t.Context(), io.MultiWriter(&out, t.Output()), underlayOf(t, o), o.store)
			if diff := cmp.Diff(told, masked(out.String())); diff != "" || err != nil {
				t.Errorf("%v (-want +told):\n%s", err, diff)
			}
		})
	}
}

// A demo that is broken off, wherever it is, leaves nothing.
func TestBrokenOff(t *testing.T) {
	o := testOptions(t)
	for _, o.vm = range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := demo(ctx, t.Output(), underlayOf(t, o), o.store); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("in machines %v: %v", o.vm, err)
		}
	}
}

func underlayOf(t *testing.T, o options) underlay {
	t.Helper()
	under, err := newUnderlay(o)
	if err != nil {
		t.Fatal(err)
	}
	return under
}

// typed are the lines that the README has a reader type on two machines of his own, by machine, in order.
func typed(t *testing.T) (lines [][2]string) {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)\n## On two machines\n.*?```sh\n(.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatal("the README has no commands for two machines")
	}
	on := ""
	for line := range strings.Lines(string(block[1])) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "# on the first"):
			on = "first"
		case strings.HasPrefix(line, "# on the second"):
			on = "second"
		case line != "":
			lines = append(lines, [2]string{on, line})
		}
	}
	return lines
}

// What the README says of two machines is typed into two machines.
func TestREADMEOnTwoMachines(t *testing.T) {
	o := testOptions(t)
	m, err := newMachines(o)
	if err != nil {
		t.Fatal(err)
	}
	hosts := newLab(io.Discard, m, o.store).hosts
	machine := map[string]*host{"first": hosts[0], "second": hosts[1]}
	defer func() {
		if err := m.close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	if err := m.open(t.Context(), hosts); err != nil {
		t.Fatal(err)
	}
	printed := ""
	for _, line := range typed(t) {
		t.Log(line)
		h := machine[line[0]]
		if h == nil {
			t.Fatalf("on which machine? %s", line[1])
		}
		// What follows a program that was started in the background may come too early; such a program too.
		shell := line[1]
		if program, background := strings.CutSuffix(shell, " &"); background {
			shell = "until " + program + "; do busybox sleep 1; done &"
		}
		err := until(t.Context(), line[1], func() (err error) {
			printed, err = m.run(t.Context(), h, "busybox", "timeout", "60", "sh", "-c", "exec 2>>/run/log; "+shell)
			return err
		})
		if err != nil {
			for _, h := range hosts {
				state, _ := m.run(t.Context(), h, "sh", "-c", "busybox cat /run/log; sealane network inspect --global blue")
				t.Logf("%s: %s", h.name, state)
			}
			t.Fatal(err)
		}
		t.Log(printed)
	}
	if want := "hello from web"; printed != want {
		t.Errorf("the last command printed %q, not %q", printed, want)
	}
}
