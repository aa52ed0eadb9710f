package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// TestEngine has a real Docker engine on each script's host, with its image "box" of busybox. Commands of theirs, beside those of
// TestScripts:
//
//	engine [ARG…]      start it with these flags and wait until it answers
//	engine-end SIGNAL  end it: what runs goes on, or not, as it sees fit
//	docker ARG…        its client; docker can be negated
func TestEngine(t *testing.T) {
	for _, program := range []string{"dockerd", "docker", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v: scripts/need dockerd:docker.io busybox:busybox-static", err)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/engine",
		UpdateScripts: os.Getenv("UPDATE") != "",
		Setup:         setupEngine,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": serveScript, "sl": sl, "halt": halt, "kill9": kill9, "until": until, "engine": engine, "engine-end": engineEnd, "docker": dockerScript,
		},
	})
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
	env.Setenv("DOCKER_HOST", "unix://"+filepath.Join(env.WorkDir, "engine.sock"))
	env.Setenv("HOME", env.WorkDir)
	env.Defer(func() { _ = os.Remove(filepath.Join(env.WorkDir, "engine.log")) }) // long; -testwork keeps it
	env.Defer(func() {
		for _, pid := range engineProcesses(env.WorkDir) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	return nil
}

// engineProcesses are the engine's and its containers', which outlive it: all name a directory below dir, or live in one's image.
func engineProcesses(dir string) []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		mounts, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "mountinfo"))
		root, _, _ := bytes.Cut(mounts, []byte("\n"))
		if bytes.Contains(line, []byte(dir+"/engine")) || bytes.Contains(root, []byte(dir+"/engine")) {
			pids = append(pids, pid)
		}
	}
	return pids
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
	p := &process{cmd: exec.Command("dockerd", append([]string{"--data-root", dir + "/data", "--exec-root", dir + "/exec",
		"--pidfile", dir + "/pid", "-H", ts.Getenv("DOCKER_HOST")}, args...)...), ended: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	ts.Check(p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	daemonsOf(ts)["engine"] = p
	for deadline := time.Now().Add(60 * time.Second); client(ts, "version") != nil; {
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			ts.Fatalf("the engine does not answer: %s", text)
		}
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
