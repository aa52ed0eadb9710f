package sealane_test

import (
	"bufio"
	"errors"
	"fmt"
	"go/format"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sealane/sealane/internal/nstest"
)

// The README is executed: its Go by a program that is made of it, its command lines by a shell on a host of their own, and what it shows
// as output is compared, but for what differs from run to run.

// blocks are the README's fenced blocks of a language.
func blocks(t *testing.T, language string) []string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		found = append(found, m[1])
	}
	if len(found) == 0 {
		t.Fatalf("the README has no %s", language)
	}
	return found
}

// readmeMain runs the functions of the README, says so, and takes everything away when its input ends.
const readmeMain = `
func main() {
	ctx := context.Background()
	ctl, err := open(ctx, os.Args[1])
	if err == nil {
		err = publish(ctx, ctl, os.Args[2])
	}
	fmt.Println(err)
	io.Copy(io.Discard, os.Stdin)
	web, err1 := ctl.Sandbox(ctx, "web")
	blue, err2 := ctl.Network(ctx, "blue")
	if err := errors.Join(err1, err2); err != nil {
		panic(err)
	}
	if err := errors.Join(web.Delete(ctx), blue.Delete(ctx), ctl.Close()); err != nil {
		panic(err)
	}
}
`

// readmeImports are those that its Go may name.
var readmeImports = []string{"context", "errors", "fmt", "io", "os", "path/filepath", module, module + "/datastore/bolt", module + "/drivers",
	module + "/endpoint", module + "/firewall/nftables", module + "/ipam", module + "/ipam/pool", module + "/sandbox", module + "/sandbox/netns"}

// readmeProgram builds a program of the README's Go. It is placed in the module by an overlay: nothing is written there.
func readmeProgram(t *testing.T) (binary string) {
	t.Helper()
	dir := t.TempDir()
	var source strings.Builder
	fmt.Fprintln(&source, "package main")
	for _, path := range readmeImports {
		fmt.Fprintf(&source, "import %q\n", path)
	}
	for _, snippet := range append(blocks(t, "go"), readmeMain) {
		if formatted, err := format.Source([]byte(snippet)); err != nil || string(formatted) != snippet {
			t.Errorf("not formatted by gofmt (%v):\n%s", err, snippet)
		}
		fmt.Fprintln(&source, snippet)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	file, overlay, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "readme")
	place := fmt.Sprintf(`{"Replace": {%q: %q}}`, filepath.Join(here, "examples/readme/main.go"), file)
	if err := errors.Join(os.WriteFile(file, []byte(source.String()), 0o600), os.WriteFile(overlay, []byte(place), 0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-overlay", overlay, "-o", binary, "./examples/readme").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return binary
}

func TestREADMEGo(t *testing.T) {
	program := readmeProgram(t)
	host, outside, container := nstest.New(t, "host"), nstest.New(t, "outside"), nstest.New(t, "container")
	nstest.Connect(host, outside, []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")})
	host.MustReturn()
	container.MustReturn()
	cmd := host.Command(t.Context(), program, runDir(t), container.Path())
	cmd.Stderr = os.Stderr
	input, err1 := cmd.StdinPipe()
	output, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	if said, err := bufio.NewReader(output).ReadString('\n'); said != "<nil>\n" || err != nil {
		t.Errorf("%s%v", said, err)
	}
	server := container.Listen("tcp", ":80")
	for from, address := range map[*nstest.Host]string{host: "127.0.0.1:8080", outside: "192.0.2.2:8080"} {
		if c, err := from.Dial("tcp", address); err != nil {
			t.Errorf("%s: %v", from.Name, err)
		} else {
			c.Close()
		}
	}
	server.Close()
	if err := errors.Join(input.Close(), cmd.Wait()); err != nil {
		t.Error(err)
	}
}

// command is a command line of the README with the output that is shown; none: any.
type command struct{ line, output string }

func commands(t *testing.T) []command {
	t.Helper()
	var all []command
	for _, block := range blocks(t, "console") {
		for line := range strings.Lines(block) {
			if typed, is := strings.CutPrefix(line, "$ "); is {
				all = append(all, command{line: strings.TrimSuffix(typed, "\n")})
			} else {
				all[len(all)-1].output += line
			}
		}
	}
	return all
}

func TestREADMECommands(t *testing.T) {
	host := nstest.New(t, "host")
	host.MustReturn()
	sh := newShell(t, host)
	for _, c := range commands(t) {
		sh.run(c)
	}
	sh.end()
}

// shell is one shell on a host, with directories of its own in the places that the README names. All it starts ends with it.
type shell struct {
	t     *testing.T
	cmd   *exec.Cmd
	input io.WriteCloser
	lines chan string
	early bool // the last command runs in the background and may not have come far
}

func newShell(t *testing.T, host *nstest.Host) *shell {
	t.Helper()
	const root = "/var/lib/sealane" // the directory above may have what we need
	if err := os.Mkdir(root, 0o711); err == nil {
		t.Cleanup(func() { os.Remove(root) })
	} else if !errors.Is(err, fs.ErrExist) {
		t.Fatal(err)
	}
	const own = "for dir in /run /usr/local/bin " + root + "; do mount -t tmpfs -o mode=755 tmpfs $dir || exit; done; exec bash"
	sh := &shell{t: t, lines: make(chan string, 1000)}
	sh.cmd = host.Command(t.Context(), "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", own)
	sh.cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false", "PATH="+filepath.Join(goroot(t), "bin")+":/usr/local/bin:"+os.Getenv("PATH"))
	input, err := sh.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := sh.cmd.StdoutPipe()
	sh.input, sh.cmd.Stderr = input, sh.cmd.Stdout
	if err := errors.Join(err, sh.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(sh.lines)
		for s := bufio.NewScanner(output); s.Scan(); {
			sh.lines <- s.Text()
		}
	}()
	return sh
}

// instead of these, which write into the tree or run us, their parts are run.
var instead = map[string]string{
	"make demo": "make -n demo && go build -o /run/quickstart ./examples/quickstart && /run/quickstart",
	"make test": "make -n test",
}

// goroot is where the go that we use lives.
func goroot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// run has a command run, and waits until the shell is ready for the next and what is shown has been printed. What follows a command in the
// background may come too early, and is tried again.
func (sh *shell) run(c command) {
	sh.t.Helper()
	for patience := time.Now().Add(time.Minute); ; {
		status, printed := sh.try(c)
		if status == "0" && c.shows(printed) {
			sh.early = strings.HasSuffix(c.line, "&")
			return
		}
		if status == "0" || !sh.early || time.Now().After(patience) {
			sh.t.Fatalf("%s: status %s, printed (-shown +printed):\n%s", c.line, status, cmp.Diff(masked(c.output), masked(printed)))
		}
	}
}

// try has a command run and returns its status and what was printed. For what is shown it waits a while.
func (sh *shell) try(c command) (status, printed string) {
	sh.t.Helper()
	const done = "README: status "
	line := c.line
	if by, is := instead[line]; is {
		line = by
	}
	if _, err := fmt.Fprintf(sh.input, "%s\nstatus=$?; echo; echo '%s'$status\n", line, done); err != nil {
		sh.t.Fatalf("%s: %v", c.line, err)
	}
	for late := time.After(5 * time.Minute); status == "" || status == "0" && !c.shows(printed); {
		select {
		case line, more := <-sh.lines:
			if !more {
				sh.t.Fatalf("%s: the shell has ended:\n%s", c.line, printed)
			}
			if end, is := strings.CutPrefix(line, done); is {
				status = end
				late = time.After(time.Minute) // for what is shown by the background
			} else {
				printed += line + "\n"
			}
		case <-late:
			return status, printed
		}
	}
	return status, printed
}

// end ends what runs in the background, and the shell.
func (sh *shell) end() {
	sh.t.Helper()
	_, err := io.WriteString(sh.input, "kill $(jobs -p); wait\n")
	if err := errors.Join(err, sh.input.Close()); err != nil {
		sh.t.Error(err)
	}
	for range sh.lines {
	}
	if err := sh.cmd.Wait(); err != nil {
		sh.t.Error(err)
	}
}

// shows says whether what was printed is what the README shows. A line "…" stands for any lines.
func (c command) shows(printed string) bool {
	if c.output == "" {
		return true
	}
	pattern := strings.ReplaceAll(regexp.QuoteMeta(masked(c.output)), "…\n", "(?s:.*)")
	return regexp.MustCompile("^" + pattern + "$").MatchString(masked(printed))
}

// masks are what differs from run to run, and what stands for it.
func masked(text string) string {
	for _, mask := range []struct{ pattern, by string }{
		{`(?m)^(time=.*)?\n`, ""}, // the daemon's log
		{`\b[0-9a-f]{64}\b`, "ID"},
		{`\b[0-9a-f]{12}\b`, "SHORT"},
		{`\bprocess \d+`, "process PID"},
		{`\d+(\.\d+)? ?(µs|ms)\b`, "TIME"},
		{`\[(::1|fd[0-9a-f:]+:1)\]:8080`, "[HOST]:8080"}, // ::1 is not asked where bridged packets pass the firewall
		{`\b172\.\d+\.0\.`, "172.17.0."},
		{` {2,}`, "  "},
	} {
		text = regexp.MustCompile(mask.pattern).ReplaceAllString(text, mask.by)
	}
	return text
}

// What the texts name exists: targets of make, files, packages.
func TestREADMENames(t *testing.T) {
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	quoted, file := regexp.MustCompile("`([^`\n]+)`"), regexp.MustCompile(`^[a-zA-Z_]+(/[a-z_]+)*(\.(go|md))?$`)
	packages := filepath.Join(goroot(t), "src")
	for _, doc := range []string{"README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/docker.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range quoted.FindAllStringSubmatch(string(text), -1) {
			target, isTarget := strings.CutPrefix(m[1], "make ")
			if isTarget && !regexp.MustCompile(`(?m)^`+target+`:`).Match(makefile) {
				t.Errorf("%s: make has no target %s", doc, target)
			}
			_, err := os.Stat(m[1])
			if _, of := os.Stat(filepath.Join(packages, m[1])); of == nil {
				err = nil // a package of Go's
			}
			if strings.Contains(m[1], "/") && file.MatchString(m[1]) && err != nil {
				t.Errorf("%s: %v", doc, err)
			}
		}
	}
}
