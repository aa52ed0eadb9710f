package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sealane/sealane/internal/nstest"
	"golang.org/x/sys/unix"
)

// TestEngine has a real Docker engine on each script's host, with its image "box" of busybox: the machine's, and for what engines do
// differently 26 of Debian's suite trixie and 28 of forky. An engine that Debian has not is tried by having it first on the PATH. Commands of
// theirs, beside those of TestScripts:
//
//	engine [ARG…]      start it with these flags and wait until it answers
//	engine-end SIGNAL  end it: what runs goes on, or not, as it sees fit
//	docker ARG…        its client; docker can be negated
//	let NAME CMD ARG…  what a command says, as $NAME
//	echo-in CONTAINER  TCP and UDP port 7 of a container answer with what they are told
//	outside ADDRESS:PORT/PROTO  an echo answers there to another host, which has 192.0.2.1 and 2001:db8::1, the engine's .2; can be negated
//	refuse             in the plugin's place answer the engine's calls with errors; ! refuse: no more
//	bare, is-bare      take down what the host contains; wait until it contains that again
func TestEngine(t *testing.T) {
	for _, program := range []string{"dockerd", "docker", "docker-compose", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: scripts/need dockerd:docker.io docker-compose:docker-compose busybox:busybox-static", err)
		}
	}
	runEngine(t, "", testscript.Params{Dir: "testdata/engine"}, nil)
	for version, scripts := range map[string][]string{
		"26":   {"testdata/engine/network.txt", "testdata/engine/outside.txt"},
		newest: {"testdata/engine/network.txt", "testdata/engine/outside.txt"},
	} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			runEngine(t, version, testscript.Params{Files: scripts}, nil)
		})
	}
}

// newest is what Debian's suite forky had when it was tried; a later one is an engine of its third generation too.
const newest = "28"

// runEngine runs scripts with an engine that `make servers` has unpacked, or "", the machine's own. Scripts may have more commands.
func runEngine(t *testing.T, version string, p testscript.Params, more map[string]func(*testscript.TestScript, bool, []string)) {
	usr := ""
	if version != "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		usr = filepath.Join(cache, "sealane", "docker"+version, "usr")
		if _, err := os.Stat(usr); err != nil {
			t.Fatalf("%v: make servers", err)
		}
	}
	p.UpdateScripts = os.Getenv("UPDATE") != ""
	p.Setup = func(env *testscript.Env) error {
		if usr != "" {
			env.Setenv("PATH", usr+"/sbin:"+usr+"/bin:"+env.Getenv("PATH"))
			env.Setenv("VERSION", version)
		}
		return setupEngine(env)
	}
	p.Cmds = map[string]func(*testscript.TestScript, bool, []string){
		"serve": serveScript, "sl": sl, "call": callScript, "halt": halt, "kill9": kill9, "until": until, "engine": engine, "engine-end": engineEnd, "docker": dockerScript,
		"let": let, "echo-in": echoIn, "outside": outside, "refuse": refuse, "bare": bare, "is-bare": isBare,
	}
	maps.Copy(p.Cmds, more)
	testscript.Run(t, p)
}

// setupEngine gives the script a /run/docker of its own, where engines look for plugins and nowhere else.
func setupEngine(env *testscript.Env) error {
	if err := setup(env); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/docker", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run/docker", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	host := env.Values["host"].(*nstest.Host)
	away := nstest.New(env.T().(testing.TB), "outside")
	nstest.Connect(host, away, []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")},
		[]netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")})
	env.Values["outside"], env.Values["bare"], env.Values["t"] = away, new([]string), env.T()
	env.Values["refusing"] = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusInternalServerError) })}
	env.Setenv("DOCKER_HOST", "unix://"+filepath.Join(env.WorkDir, "engine.sock"))
	env.Setenv("HOME", env.WorkDir)
	env.Defer(func() { _ = os.Remove(filepath.Join(env.WorkDir, "engine.log")) }) // long; -testwork keeps it
	env.Defer(func() {
		for _, pid := range nstest.ProcessesOf(filepath.Join(env.WorkDir, "engine")) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	return nil
}

func engine(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs("engine")
	ts.Check(os.MkdirAll(dir, 0o711))
	for _, stale := range []string{"pid", "exec/containerd/containerd.pid"} { // of one that was killed; nobody may have waited for it
		_ = os.Remove(filepath.Join(dir, stale))
	}
	log, err := os.OpenFile(ts.MkAbs("engine.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer log.Close()
	p := &process{cmd: exec.Command("sh", append([]string{"-c", `exec dockerd "$@"`, "dockerd"}, append([]string{"--data-root", dir + "/data", "--exec-root", dir + "/exec",
		"--pidfile", dir + "/pid", "-H", ts.Getenv("DOCKER_HOST")}, args...)...)...), ended: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"), "DOCKER_MIN_API_VERSION=1.24") // engine 29 would refuse docker-compose 1.29
	p.cmd.Stdout, p.cmd.Stderr = log, log
	ts.Check(p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	daemonsOf(ts)["engine"] = p
	ts.Setenv("PLUGINS", fmt.Sprintf("/proc/%d/root/run/docker/plugins", p.cmd.Process.Pid)) // good outside the script's mount namespace too
	for deadline := time.Now().Add(60 * time.Second); client(ts, "version") != nil; {
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			ts.Fatalf("the engine does not answer: %s", text)
		}
	}
	let(ts, false, []string{"IS", "docker", "version", "--format", "{{.Server.Version}}"})
	is, wanted := ts.Getenv("IS"), ts.Getenv("VERSION")
	if major, _, _ := strings.Cut(is, "."); major < wanted { // two digits each; suites get newer ones
		ts.Fatalf("the engine is %s, not %s or later", is, wanted)
	}
	if client(ts, "image", "inspect", "box") != nil {
		image(ts)
	}
}

func client(ts *testscript.TestScript, args ...string) error {
	c := exec.Command("docker", args...)
	c.Env = append(os.Environ(), "DOCKER_HOST="+ts.Getenv("DOCKER_HOST"))
	return c.Run()
}

// page is what the web server of a box says.
const page = "hello from the box\n"

// image imports a root of busybox alone.
func image(ts *testscript.TestScript) {
	busybox, err := exec.LookPath("busybox")
	ts.Check(err)
	program, err := os.ReadFile(busybox)
	ts.Check(err)
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	add := func(h tar.Header, content string) {
		h.Size = int64(len(content))
		ts.Check(w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		ts.Check(err)
	}
	add(tar.Header{Name: "bin/busybox", Mode: 0o755}, string(program))
	for _, applet := range []string{"sh", "ping", "wget", "httpd", "ip", "sleep", "true", "cat", "hostname", "nc"} {
		add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, "")
	}
	add(tar.Header{Name: "www/index.html", Mode: 0o644}, page)
	ts.Check(w.Close())
	c := exec.Command("docker", "import", "-", "box")
	c.Env = append(os.Environ(), "DOCKER_HOST="+ts.Getenv("DOCKER_HOST"))
	c.Stdin = &root
	if says, err := c.CombinedOutput(); err != nil {
		ts.Fatalf("docker import: %v: %s", err, says)
	}
}

func engineEnd(ts *testscript.TestScript, _ bool, args []string) {
	p := daemonsOf(ts)["engine"]
	delete(daemonsOf(ts), "engine")
	_ = p.kill(unix.SignalNum(args[0]))
}

// dockerScript tells the difference between a program that is not there and one that fails.
func dockerScript(ts *testscript.TestScript, neg bool, args []string) {
	if err := ts.Exec("docker", args...); (err != nil) != neg {
		ts.Fatalf("docker %s: %v", strings.Join(args, " "), err)
	}
}

func let(ts *testscript.TestScript, _ bool, args []string) {
	if args[1] == "sl" {
		args = append([]string{args[0], "sealane", "--run", ts.MkAbs(ts.Getenv("D") + "/run")}, args[2:]...)
	}
	ts.Check(ts.Exec(args[1], args[2:]...))
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

func echoIn(ts *testscript.TestScript, _ bool, args []string) {
	let(ts, false, []string{"PID", "docker", "inspect", "--format", "{{.State.Pid}}", args[0]})
	nstest.At(ts.Value("t").(testing.TB), args[0], "/proc/"+ts.Getenv("PID")+"/ns/net").Echo("7")
}

func outside(ts *testscript.TestScript, neg bool, args []string) {
	patience := time.Minute
	if neg {
		patience = time.Second
	}
	address, proto, _ := strings.Cut(args[0], "/")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := errors.New("not asked")
	for ctx.Err() == nil && err != nil {
		err = echoes(ctx, ts.Value("outside").(*nstest.Host), proto, address)
	}
	if (err != nil) != neg {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

// echoes asks an echo once.
func echoes(ctx context.Context, from *nstest.Host, proto, address string) error {
	const word = "echo"
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := from.DialContext(ctx, proto, address)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if _, err := io.WriteString(c, word); err != nil {
		return err
	}
	said := make([]byte, len(word))
	_, err = io.ReadFull(c, said)
	if err == nil && string(said) != word {
		err = fmt.Errorf("it says %q", said)
	}
	return err
}

func refuse(ts *testscript.TestScript, neg bool, _ []string) {
	socket := ts.Getenv("PLUGINS") + "/sealane.sock"
	if neg {
		ts.Check(ts.Value("refusing").(*http.Server).Close())
		return
	}
	ts.Check(os.Remove(socket))
	l, err := net.Listen("unix", socket)
	ts.Check(err)
	go ts.Value("refusing").(*http.Server).Serve(l)
}

func bare(ts *testscript.TestScript, _ bool, _ []string) {
	*ts.Value("bare").(*[]string) = ts.Value("host").(*nstest.Host).Inventory()
}

func isBare(ts *testscript.TestScript, _ bool, _ []string) {
	host, want, t := ts.Value("host").(*nstest.Host), *ts.Value("bare").(*[]string), ts.Value("t").(testing.TB)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("left on the host (-before +after):\n%s", cmp.Diff(want, host.Inventory()))
		}
	})
	nstest.Eventually(t, "the host is bare", func() bool { return slices.Equal(want, host.Inventory()) })
}

// boxSays succeeds when the web server of a box answers at an address.
func boxSays() {
	c := http.Client{Timeout: 2 * time.Second}
	reply, err := c.Get("http://" + os.Args[1] + "/")
	if err == nil {
		var text []byte
		text, err = io.ReadAll(reply.Body)
		if err == nil && string(text) != page {
			err = fmt.Errorf("it says %q", text)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// noLinks succeeds when the host has no link of ours.
func noLinks() {
	links, err := net.Interfaces()
	for _, l := range links {
		if strings.HasPrefix(l.Name, "sl-") || strings.HasPrefix(l.Name, "sv") || strings.HasPrefix(l.Name, "sp") {
			err = fmt.Errorf("there is %s", l.Name)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
