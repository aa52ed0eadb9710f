package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/nstest"
)

// The test binary is sealane too, and two ends of a connection for what runs in sandboxes.
func TestMain(m *testing.M) {
	if os.Getpid() == 1 {
		becomeSystemd()
		return
	}
	testscript.Main(m, map[string]func(){"agent": obeyMachine, "questions": askQuestions, "engine-call": callEngine, "sealane": main, "greet": greet, "fetch": fetch, "box-says": boxSays, "no-links-of-ours": noLinks, "asked": asked})
}

// greet PORT NAME [ADDRESS] listens on a TCP port, of one address or all, and says hello with its name to everybody.
func greet() {
	l, err := net.Listen("tcp", strings.Join(os.Args[3:], "")+":"+os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		fmt.Fprintln(c, "hello from "+os.Args[2])
		c.Close()
	}
}

// fetch prints what an address says.
func fetch() {
	c, err := net.DialTimeout("tcp", os.Args[1], 10*time.Second)
	if err == nil {
		_, err = io.Copy(os.Stdout, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Each script has a host of its own, and daemons on it. Commands of theirs:
//
//	serve [ARG…]        start a daemon with the directories $D/run and $D/root and wait until it is ready; ! serve: it must refuse
//	sl ARG…             sealane --run $D/run ARG…
//	exits N CMD ARG…    the exit status is N
//	halt, kill9         end the daemon by SIGTERM, which must give status 0, or by SIGKILL
//	raw METHOD PATH [BODY]   a request by hand: prints the status and the body
//	until CMD ARG…      again until it succeeds, at most a minute
//	damage FILE         flip bits in each sector
//	signal NAME         send a signal to the last background command; signal-daemon NAME: to the daemon
//	notified [ARG…]     serve and stop, telling the service manager
//	call SOCKET PATH [BODY]  ask a plugin what an engine would
//	activated NAME SOCKET [ARG…]  serve with a socket of that name, as systemd would open it
//	unit [ARG…]         serve with systemd's descriptor store and its socket given/sealane.sock (unit_test.go)
//	plugin NAME SOCKET, unplug NAME, told NAME CALL…   other people's plugins (plugin_test.go)
func TestScripts(t *testing.T) {
	var others outsiders
	others.build(t)
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: os.Getenv("UPDATE") != "",
		Setup:         setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": serveScript, "sl": sl, "exits": exits, "halt": halt, "kill9": kill9, "raw": raw, "until": until, "damage": damage,
			"signal": signalBackground, "signal-daemon": signalDaemon, "notified": notified,
			"activated": activated, "unit": startUnit, "call": callScript, "plugin": others.plugin, "unplug": unplug, "told": told,
		},
	})
}

// setup puts the script's goroutine, and so all that it starts, on a host of its own: a network namespace, and a mount namespace so that
// what a daemon mounts ends with the script.
func setup(env *testscript.Env) error {
	t, ok := env.T().(testing.TB)
	if !ok {
		return errors.New("not run by go test")
	}
	host := nstest.New(t, "host")
	runtime.LockOSThread() // for ever: the thread ends with the script
	fd, err := unix.Open(host.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Setns(fd, unix.CLONE_NEWNET), unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "")); err != nil {
		return err
	}
	env.Setenv("D", "d")
	env.Setenv("GORACE", "atexit_sleep_ms=0 halt_on_error=1") // no process waits a second before it ends
	systemd := &unit{}
	env.Values["daemons"], env.Values["host"], env.Values["unit"] = map[string]*process{}, host, systemd
	env.Defer(func() {
		systemd.close()
		for _, d := range env.Values["daemons"].(map[string]*process) {
			d.kill(unix.SIGKILL)
		}
		unmountBelow(env.WorkDir)
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(env.WorkDir, "*.log"))
			for _, log := range logs {
				text, _ := os.ReadFile(log)
				t.Logf("%s:\n%s", filepath.Base(log), text)
			}
		}
	})
	return nil
}

func unmountBelow(dir string) {
	text, _ := os.ReadFile("/proc/thread-self/mountinfo")
	for _, line := range slices.Backward(strings.Split(string(text), "\n")) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			_ = unix.Unmount(fields[4], unix.MNT_DETACH)
		}
	}
}

// process is a daemon that runs.
type process struct {
	cmd   *exec.Cmd
	ended chan error
}

func (p *process) kill(sig unix.Signal) error {
	_ = p.cmd.Process.Signal(sig)
	return <-p.ended
}

func daemonsOf(ts *testscript.TestScript) map[string]*process {
	return ts.Value("daemons").(map[string]*process)
}

func serveScript(ts *testscript.TestScript, neg bool, args []string) {
	d := ts.Getenv("D")
	args = append([]string{"--run", ts.MkAbs(d + "/run"), "serve", "--root", ts.MkAbs(d + "/root")}, args...)
	if neg {
		if ts.Exec("sealane", args...) == nil {
			ts.Fatalf("it serves")
		}
		return
	}
	log, err := os.OpenFile(ts.MkAbs(d+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	p := &process{cmd: exec.Command("sealane", args...), ended: make(chan error, 1)}
	p.cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "DOCKER_HOST=" + ts.Getenv("DOCKER_HOST"), "NOTIFY_SOCKET=" + ts.Getenv("NOTIFY_SOCKET"), "GORACE=" + ts.Getenv("GORACE")}
	p.cmd.Dir = ts.MkAbs(".")
	says, err := p.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	ready := make(chan bool, 1)
	go func() {
		for lines := bufio.NewScanner(says); lines.Scan(); {
			fmt.Fprintln(log, lines.Text())
			if lines.Text() == "ready" {
				ready <- true
			}
		}
		log.Close()
		p.ended <- p.cmd.Wait()
		close(ready)
	}()
	if !<-ready {
		text, _ := os.ReadFile(log.Name())
		ts.Fatalf("it does not serve: %s", text)
	}
	daemonsOf(ts)[d] = p
}

func end(ts *testscript.TestScript, sig unix.Signal) error {
	d := ts.Getenv("D")
	p := daemonsOf(ts)[d]
	if p == nil {
		ts.Fatalf("no daemon in %s", d)
	}
	delete(daemonsOf(ts), d)
	return p.kill(sig)
}

func halt(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(end(ts, unix.SIGTERM)) }

func kill9(ts *testscript.TestScript, _ bool, _ []string) {
	if end(ts, unix.SIGKILL) == nil {
		ts.Fatalf("it ended by itself")
	}
}

func sl(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("sealane", append([]string{"--run", ts.MkAbs(ts.Getenv("D") + "/run")}, args...)...)
	if (err != nil) != neg {
		ts.Fatalf("sealane: %v", err)
	}
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if args = args[1:]; args[0] == "sl" {
		args = append([]string{"sealane", "--run", ts.MkAbs(ts.Getenv("D") + "/run")}, args[1:]...)
	}
	got, e := 0, (*exec.ExitError)(nil)
	if err := ts.Exec(args[0], args[1:]...); errors.As(err, &e) {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func raw(ts *testscript.TestScript, _ bool, args []string) {
	c := http.Client{Transport: &http.Transport{DialContext: dialer(ts.MkAbs(ts.Getenv("D") + "/run/api.sock")), DisableKeepAlives: true}}
	body := ""
	if len(args) > 2 {
		body = args[2]
	}
	r, err := http.NewRequest(args[0], "http://x"+args[1], strings.NewReader(body))
	ts.Check(err)
	reply, err := c.Do(r)
	ts.Check(err)
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	ts.Check(err)
	fmt.Fprintf(ts.Stdout(), "%d %s", reply.StatusCode, text)
}

// call SOCKET PATH [BODY] asks a plugin what an engine would.
func callScript(ts *testscript.TestScript, _ bool, args []string) {
	c := http.Client{Transport: &http.Transport{DialContext: dialer(ts.MkAbs(args[0])), DisableKeepAlives: true}}
	reply, err := c.Post("http://x"+args[1], "", strings.NewReader(strings.Join(args[2:], " ")))
	ts.Check(err)
	defer reply.Body.Close()
	_, err = io.Copy(ts.Stdout(), reply.Body)
	ts.Check(err)
}

func until(ts *testscript.TestScript, _ bool, args []string) {
	if args[0] == "sl" {
		args = append([]string{"sealane", "--run", ts.MkAbs(ts.Getenv("D") + "/run")}, args[1:]...)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		if err := ts.Exec(args[0], args[1:]...); err == nil {
			return
		} else if time.Now().After(deadline) {
			ts.Fatalf("%v", err)
		}
	}
}

func damage(ts *testscript.TestScript, _ bool, args []string) {
	text, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	for i := 100; i < len(text); i += 512 {
		text[i] ^= 0xff
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), text, 0o600))
}

// signalBackground sends a signal to the last background command.
func signalBackground(ts *testscript.TestScript, _ bool, args []string) {
	all := ts.BackgroundCmds()
	ts.Check(all[len(all)-1].Process.Signal(unix.SignalNum(args[0])))
}

func signalDaemon(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(daemonsOf(ts)[ts.Getenv("D")].cmd.Process.Signal(unix.SignalNum(args[0])))
}

// notified serves and wants to be told what systemd would be.
func notified(ts *testscript.TestScript, _ bool, args []string) {
	socket := ts.MkAbs("notify.sock")
	l, err := net.ListenPacket("unixgram", socket)
	ts.Check(err)
	defer l.Close()
	ts.Check(l.SetDeadline(time.Now().Add(time.Minute)))
	ts.Setenv("NOTIFY_SOCKET", socket)
	serveScript(ts, false, args)
	expect := func(want string) {
		b := make([]byte, 100)
		n, _, err := l.ReadFrom(b)
		if err != nil || !bytes.Equal(b[:n], []byte(want)) {
			ts.Fatalf("told %q (%v), want %q", b[:n], err, want)
		}
	}
	expect("READY=1")
	halt(ts, false, nil)
	expect("STOPPING=1")
	ts.Setenv("NOTIFY_SOCKET", "")
}

func dialer(socket string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
}
