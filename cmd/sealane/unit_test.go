package main

import (
	"fmt"
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

// unit stands in for systemd: it opens a plugin's socket before the daemon, and keeps descriptors for it (sd_listen_fds(3), sd_notify(3)).
type unit struct {
	plugin *os.File
	notify *net.UnixConn
	ready  chan bool

	mu   sync.Mutex // guards kept
	kept []*os.File
}

func (u *unit) open(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "given"), 0o755); err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "given/sealane.sock"), Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if u.plugin, err = l.File(); err != nil {
		return err
	}
	u.ready = make(chan bool, 1)
	if u.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify.sock"), Net: "unixgram"}); err == nil {
		go u.listen()
	}
	return err
}

// listen does what the daemon tells it, until it is closed.
func (u *unit) listen() {
	text, rights := make([]byte, 1024), make([]byte, 4096)
	for {
		n, r, _, _, err := u.notify.ReadMsgUnix(text, rights)
		if err != nil {
			return
		}
		said := map[string]string{}
		for line := range strings.Lines(string(text[:n])) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			said[key] = value
		}
		u.mu.Lock()
		if said["FDSTOREREMOVE"] == "1" {
			u.kept = slices.DeleteFunc(u.kept, func(f *os.File) bool { return f.Name() == said["FDNAME"] && f.Close() == nil })
		}
		messages, _ := unix.ParseSocketControlMessage(rights[:r])
		for _, m := range messages {
			fds, _ := unix.ParseUnixRights(&m)
			for _, fd := range fds {
				unix.CloseOnExec(fd)
				u.kept = append(u.kept, os.NewFile(uintptr(fd), said["FDNAME"]))
			}
		}
		u.mu.Unlock()
		if said["READY"] == "1" {
			u.ready <- true
		}
	}
}

func (u *unit) close() {
	if u.notify == nil {
		return
	}
	_ = u.notify.Close()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, f := range append(u.kept, u.plugin) {
		_ = f.Close()
	}
}

// startUnit [ARG…] serves as a unit with a store, and with a socket at given/sealane.sock.
func startUnit(ts *testscript.TestScript, _ bool, args []string) {
	u := ts.Value("unit").(*unit)
	if u.notify == nil {
		ts.Check(u.open(ts.MkAbs(".")))
	}
	d := ts.Getenv("D")
	log, err := os.OpenFile(ts.MkAbs(d+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer log.Close()
	u.mu.Lock()
	names, files := []string{"sealane"}, []*os.File{u.plugin}
	for _, f := range u.kept {
		names, files = append(names, f.Name()), append(files, f)
	}
	p := &process{cmd: exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec sealane "$@"`, "sealane", "--run", ts.MkAbs(d + "/run"), "serve",
		"--root", ts.MkAbs(d + "/root")}, args...)...), ended: make(chan error, 1)}
	p.cmd.ExtraFiles = files
	p.cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "GORACE=" + ts.Getenv("GORACE"), "NOTIFY_SOCKET=" + ts.MkAbs("notify.sock"), "FDSTORE=1000",
		fmt.Sprint("LISTEN_FDS=", len(files)), "LISTEN_FDNAMES=" + strings.Join(names, ":")}
	p.cmd.Stderr = log
	err = p.cmd.Start()
	u.mu.Unlock() // it drops what it was given
	ts.Check(err)
	go func() { p.ended <- p.cmd.Wait() }()
	daemonsOf(ts)[d] = p
	select {
	case <-u.ready:
	case <-time.After(time.Minute):
		ts.Fatalf("it does not serve")
	}
}

// The units say what systemd understands.
func TestUnits(t *testing.T) {
	units, err := filepath.Glob("../../packaging/*.s*")
	if err != nil || len(units) != 3 {
		t.Fatalf("%v, %v", units, err)
	}
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"verify", "--man=no"}
	for _, u := range units {
		text, err := os.ReadFile(u)
		if err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, filepath.Base(u))
		if err := os.WriteFile(copied, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/sealane", program)), 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, copied)
	}
	says, err := exec.Command("systemd-analyze", args...).CombinedOutput() // of the machine's own units too
	if err != nil || strings.Contains(string(says), "sealane") {
		t.Errorf("%v: %s", err, says)
	}
}
