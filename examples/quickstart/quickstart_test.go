package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sealane/sealane/internal/nstest"
)

// built is the example as a user has it, with a directory for its temporary files.
type built struct{ binary, temp string }

// build makes it, and checks at the end of the test that it has left nothing: no file, no mount, no process.
func build(t *testing.T) built {
	t.Helper()
	b := built{binary: filepath.Join(t.TempDir(), "quickstart"), temp: t.TempDir()}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", b.binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Cleanup(func() { nstest.MustBeUnused(t, b.temp) })
	return b
}

// in prepares it to run inside a host, as its own.
func (b built) in(t *testing.T, host *nstest.Host, args ...string) *exec.Cmd {
	return b.prepared(host.Command(t.Context(), b.binary, append([]string{"-host"}, args...)...))
}

func (b built) prepared(cmd *exec.Cmd) *exec.Cmd {
	cmd.Env = append(os.Environ(), "TMPDIR="+b.temp)
	return cmd
}

// steps are what the demo says it does, in order, with what is told of each.
func steps(gateway string) []string {
	const four, six, took = `172\.\d+\.0`, `fd[0-9a-f:]+`, ` +\d+\.\d ms$`
	return []string{
		`^  network blue +` + four + `\.0/16, ` + six + `/64` + took,
		`^  container web +` + four + `\.2, ` + six + `:2, port 80 at the host's 8080` + took,
		`^  container app +` + four + `\.3, ` + six + `:3` + took,
		`^  web serves +HTTP at port 80, process \d+` + took,
		`^  app pings +` + four + `\.2, which answers after \d+(\.\d+)?[µm]s` + took,
		`^  app pings +` + six + `:2, which answers after \d+(\.\d+)?[µm]s` + took,
		`^  app fetches +` + four + `\.2:80: "hello ` + four + `\.3, this is web"` + took,
		`^  app fetches +\[` + six + `:2\]:80: "hello ` + six + `:3, this is web"` + took,
		`^  host fetches +127\.0\.0\.1:8080: "hello ` + four + `\.1, this is web"` + took,
		`^  host fetches +\[` + gateway + `\]:8080: "hello ` + six + `:1, this is web"` + took,
		`^  clean up +.*` + took,
	}
}

// mustTell checks what was printed against the steps.
func mustTell(t *testing.T, printed string, want []string) {
	t.Helper()
	_, told, _ := strings.Cut(printed, "\n\n")
	lines := strings.Split(strings.TrimRight(told, "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("%d steps, want %d:\n%s", len(lines), len(want), printed)
	}
	for i, line := range lines {
		if !regexp.MustCompile(want[i]).MatchString(line) {
			t.Errorf("step %d is %q\nwant %s", i+1, line, want[i])
		}
	}
}

// machine is what the demo must not touch: links, addresses, rules and settings of the namespace that the test runs in.
func machine(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, command := range []string{"ip -brief link", "ip -brief address", "nft list ruleset"} {
		words := strings.Fields(command)
		out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
		all.Write(out)
	}
	for _, setting := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		value, err := os.ReadFile("/proc/sys/net/" + setting)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(value)
	}
	return all.String()
}

func TestMachineIsNotTouched(t *testing.T) {
	b, before := build(t), machine(t)
	out, err := b.prepared(exec.CommandContext(t.Context(), b.binary)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	mustTell(t, string(out), steps(`[0-9a-f:]+`))
	if diff := cmp.Diff(before, machine(t)); diff != "" {
		t.Errorf("the machine's network has changed:\n%s", diff)
	}
}

func TestHost(t *testing.T) {
	for name, c := range map[string]struct {
		filtered bool // bridged packets pass the firewall: the kernel cannot translate ::1 then
		gateway  string
	}{
		"plain":          {false, "::1"},
		"bridge-nf-call": {true, `fd[0-9a-f:]+:1`},
	} {
		t.Run(name, func(t *testing.T) {
			b, host := build(t), nstest.New(t, "host")
			host.BridgeNetfilter(c.filtered)
			host.MustReturn()
			out, err := b.in(t, host).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			mustTell(t, string(out), steps(c.gateway))
		})
	}
}

// A port that is taken is an error that says so, and nothing stays.
func TestPortIsTaken(t *testing.T) {
	b, host := build(t), nstest.New(t, "host")
	host.MustReturn()
	taken := host.Listen("tcp", ":8080")
	out, err := b.in(t, host).CombinedOutput()
	if err == nil || !bytes.Contains(out, []byte("8080")) || !bytes.Contains(out, []byte("address already in use")) {
		t.Errorf("%v\n%s", err, out)
	}
	taken.Close()
}

func TestInterruptAtEveryStep(t *testing.T) {
	b, host := build(t), nstest.New(t, "host")
	host.MustReturn()
	for after := range len(steps("")) - 1 {
		signal := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}[after%2]
		printed, err := interrupt(t, b.in(t, host), after, signal)
		if err == nil {
			t.Logf("%s after %d steps came too late", signal, after)
		}
		if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 130) {
			t.Errorf("%s after %d steps: %v\n%s", signal, after, err, printed)
		}
		if !strings.Contains(printed, "clean up") {
			t.Errorf("%s after %d steps: not cleaned up:\n%s", signal, after, printed)
		}
		nstest.MustBeUnused(t, b.temp)
	}
}

// interrupt runs a demo, sends it a signal when it has told of some steps, and returns all that it printed.
func interrupt(t *testing.T, cmd *exec.Cmd, after int, signal syscall.Signal) (string, error) {
	t.Helper()
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var printed strings.Builder
	told := -2 // the heading and a blank line
	for lines := bufio.NewScanner(out); lines.Scan(); told++ {
		if fmt.Fprintln(&printed, lines.Text()); told == after-1 {
			if err := cmd.Process.Signal(signal); err != nil {
				t.Error(err)
			}
		}
	}
	err = cmd.Wait()
	return printed.String() + errs.String(), err
}

// What stays until Ctrl-C can be looked at from elsewhere.
func TestStay(t *testing.T) {
	b, host := build(t), nstest.New(t, "host")
	host.MustReturn()
	cmd := b.in(t, host, "-stay", "-port", "0")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines, port := bufio.NewScanner(out), ""
	for lines.Scan() && !strings.Contains(lines.Text(), "stays until Ctrl-C") {
		if found := regexp.MustCompile(`host's (\d+)`).FindStringSubmatch(lines.Text()); found != nil {
			port = found[1]
		}
	}
	conn, err := host.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Errorf("port %s: %v", port, err)
	} else {
		conn.Close()
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
