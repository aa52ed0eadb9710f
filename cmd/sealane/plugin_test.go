package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// outsiders are the plugins in remote/testdata, compiled once.
type outsiders struct {
	once sync.Once
	dir  string
	err  error
}

func (o *outsiders) build(t *testing.T) {
	t.Helper()
	o.once.Do(func() {
		o.dir = t.TempDir()
		build := exec.Command("go", "build", "-o", o.dir+"/", "./weave", "./infoblox")
		build.Dir = filepath.Join("..", "..", "remote", "testdata")
		var says []byte
		if says, o.err = build.CombinedOutput(); o.err != nil {
			t.Logf("%s", says)
		}
	})
	if o.err != nil {
		t.Fatal(o.err)
	}
}

// plugin NAME SOCKET starts the outsider's plugin and waits for its socket.
func (o *outsiders) plugin(ts *testscript.TestScript, _ bool, args []string) {
	socket := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(filepath.Dir(socket), 0o755))
	log, err := os.OpenFile(ts.MkAbs(args[0]+".calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer log.Close()
	p := &process{cmd: exec.Command(filepath.Join(o.dir, args[0]), socket), ended: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	ts.Check(p.cmd.Start())
	go func() { p.ended <- p.cmd.Wait() }()
	daemonsOf(ts)["plugin "+args[0]] = p
	for deadline := time.Now().Add(time.Minute); ; {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return
		} else if time.Now().After(deadline) {
			ts.Fatalf("%s does not listen: %v", args[0], err)
		}
	}
}

// unplug NAME kills it.
func unplug(ts *testscript.TestScript, _ bool, args []string) {
	p := daemonsOf(ts)["plugin "+args[0]]
	delete(daemonsOf(ts), "plugin "+args[0])
	_ = p.kill(unix.SIGKILL)
}

// told NAME CALL… says that the plugin was called so, in this order, perhaps with others between.
func told(ts *testscript.TestScript, _ bool, args []string) {
	text, err := os.ReadFile(ts.MkAbs(args[0] + ".calls"))
	ts.Check(err)
	calls := strings.Split(string(bytes.TrimSpace(text)), "\n")
	left := calls
	for _, want := range args[1:] {
		i := slices.Index(left, want)
		if i < 0 {
			ts.Fatalf("%s was not told %q in that order: %q", args[0], want, calls)
		}
		left = left[i+1:]
	}
}

// activated NAME SOCKET [ARG…] serves with a socket that was opened before, as systemd would.
func activated(ts *testscript.TestScript, _ bool, args []string) {
	socket := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(filepath.Dir(socket), 0o755))
	l, err := net.Listen("unix", socket)
	ts.Check(err)
	f, err := l.(*net.UnixListener).File()
	ts.Check(err)
	d := ts.Getenv("D")
	words := append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=$0 exec sealane "$@"`, args[0], "--run", ts.MkAbs(d + "/run"), "serve", "--root",
		ts.MkAbs(d + "/root")}, args[2:]...)
	p := &process{cmd: exec.Command("sh", words...), ended: make(chan error, 1)}
	p.cmd.ExtraFiles = []*os.File{f}
	p.cmd.Env = []string{"PATH=" + ts.Getenv("PATH")}
	ts.Check(p.cmd.Start())
	ts.Check(f.Close())
	go func() { p.ended <- p.cmd.Wait() }()
	daemonsOf(ts)[d] = p
}
