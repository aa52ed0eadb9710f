package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sealane/sealane/internal/nstest"
)

// built is the example as a user has it, on a host that may be thrown away, with a directory for its temporary files.
type built struct {
	binary, temp  string
	host, outside *nstest.Host
}

// build makes it, and checks at the end of the test that it has left nothing: no link, rule, file, mount or process.
func build(t *testing.T) built {
	t.Helper()
	b := built{filepath.Join(t.TempDir(), "runtime"), t.TempDir(), nstest.New(t, "host"), nstest.New(t, "outside")}
	nstest.Connect(b.host, b.outside, []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")})
	b.host.MustReturn()
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", b.binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { nstest.MustBeUnused(t, b.temp) })
	return b
}

func (b built) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, b.binary, append([]string{"-host", b.host.Path()}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+b.temp)
	return cmd
}

func TestIsShort(t *testing.T) {
	text, err := os.ReadFile("main.go")
	if lines := bytes.Count(text, []byte("\n")); err != nil || lines > 150 {
		t.Errorf("%d lines, %v", lines, err)
	}
}

func TestContainer(t *testing.T) {
	b := build(t)
	for name, c := range map[string]struct {
		script, want string
		status       int
	}{
		"host name":       {"hostname", "box\n", 0},
		"processes":       {"echo $$; ls -d /proc/1 /proc/2", "1\n/proc/1\n", 1},
		"root":            {"echo /*; pwd", "/bin /dev /proc\n/\n", 0},
		"mounts":          {"grep -c " + b.temp + " /proc/mounts", "0\n", 1},
		"interfaces":      {"cd /proc/sys/net/ipv4/conf && echo *", "all default eth0 lo\n", 0},
		"the way out":     {"ping -c1 -W10 192.0.2.1 >/dev/null && echo out", "out\n", 0},
		"status":          {"exit 7", "", 7},
		"standard input":  {"cat", "said\n", 0},
		"no such command": {"exec nothing", "", 127},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := b.command(t.Context(), "sh", "-c", c.script)
			cmd.Stdin = strings.NewReader("said\n")
			out, err := cmd.Output()
			if status := cmd.ProcessState.ExitCode(); string(out) != c.want || status != c.status {
				t.Errorf("%s: %q, status %d (%v), want %q, %d", c.script, out, status, err, c.want, c.status)
			}
		})
	}
}

func TestCommandIsNotFound(t *testing.T) {
	b := build(t)
	cmd := b.command(t.Context(), "nothing")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 127 || !bytes.Contains(out, []byte(`exec: "nothing": executable file not found`)) {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRoot(t *testing.T) {
	b, root := build(t), filepath.Join(t.TempDir(), "root")
	if _, err := busybox(root); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "mark"), []byte("here\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := b.command(t.Context(), "-root", root, "cat", "/mark").Output()
	if err != nil || string(out) != "here\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// A published port answers from the host and from outside, and Ctrl-C takes everything away.
func TestPublishedPortAndInterrupt(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			b := build(t)
			cmd := b.command(t.Context(), "-p", "8080:80", "sh", "-c", "httpd && echo up && cat")
			input, err1 := cmd.StdinPipe()
			output, err2 := cmd.StdoutPipe()
			if err := errors.Join(err1, err2, cmd.Start()); err != nil {
				t.Fatal(err)
			}
			if up, err := bufio.NewReader(output).ReadString('\n'); err != nil || up != "up\n" {
				t.Errorf("%q, %v", up, err)
			}
			b.mustAnswer(t, b.host, "127.0.0.1:8080")
			b.mustAnswer(t, b.outside, "192.0.2.2:8080")
			if err := cmd.Process.Signal(signal); err != nil {
				t.Error(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("it ended as if by itself")
			}
			input.Close()
		})
	}
}

func (b built) mustAnswer(t *testing.T, from *nstest.Host, address string) {
	t.Helper()
	c, err := from.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Error(err)
	}
	if answer, err := io.ReadAll(c); err != nil || !bytes.HasPrefix(answer, []byte("HTTP/1.")) {
		t.Errorf("%s from %s: %q, %v", address, from.Name, answer, err)
	}
}

// As early as the signal can be sent, and ever later, as the files show.
func TestInterruptOnTheWay(t *testing.T) {
	b := build(t)
	for _, made := range []string{"", "/netns", "/netns/*", "/root", "/root/bin/busybox", "/root/bin/sh"} {
		cmd := b.command(t.Context(), "-p", "8080:80", "cat")
		input, err := cmd.StdinPipe() // or cat ends by itself
		if err := errors.Join(err, cmd.Start()); err != nil {
			t.Fatal(err)
		}
		nstest.Eventually(t, "directory/"+made, func() bool {
			files, err := filepath.Glob(b.temp + "/*" + made)
			return err == nil && len(files) > 0
		})
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Errorf("interrupted at %s it ended as if by itself", made)
		}
		input.Close()
		nstest.MustBeUnused(t, b.temp)
	}
}
