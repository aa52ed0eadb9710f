package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/vm"
)

// The test binary is every program of the machine that TestSystemd boots, but systemd's own and busybox.
const (
	firstProcess = "/init"                      // which makes place for systemd
	agent        = "/usr/local/bin/agent"       // a service: it does what the test tells the machine to
	questions    = "/usr/local/bin/questions"   // asks for a name until it is told to stop
	engineCalls  = "/usr/local/bin/engine-call" // asks the plugin what an engine does first
)

// becomeSystemd is what the machine's first process does.
func becomeSystemd() {
	err := vm.Prepare()
	if err == nil {
		const systemd = "/usr/lib/systemd/systemd"
		err = unix.Exec(systemd, []string{systemd}, []string{"PATH=/usr/local/bin:/usr/bin:/bin"})
	}
	fmt.Fprintln(os.Stderr, "init:", err)
}

func obeyMachine() {
	if err := vm.Obey(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func callEngine() {
	c := http.Client{Transport: &http.Transport{DialContext: dialer("/run/docker/plugins/sealane.sock")}}
	reply, err := c.Post("http://plugin/Plugin.Activate", "", nil)
	if err == nil {
		_, err = io.Copy(os.Stdout, reply.Body)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// askQuestions NAME ADDRESS FILE asks for a name, each question once, until the file is there, and says how many were asked and how long the
// slowest answer took.
func askQuestions() {
	asked, slowest, err := askUntil(os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		fmt.Printf("question %d: %v\n", asked, err)
		return
	}
	fmt.Printf("%d questions, the slowest answered after %s\n", asked, slowest.Round(time.Millisecond))
}

func askUntil(name, want, file string) (asked int, slowest time.Duration, err error) {
	c, err := net.Dial("udp", "127.0.0.11:53")
	if err != nil {
		return 0, 0, err
	}
	conn := &dns.Conn{Conn: c}
	for {
		began, q := time.Now(), new(dns.Msg).SetQuestion(name+".", dns.TypeA)
		_ = conn.SetDeadline(began.Add(time.Minute))
		if err := conn.WriteMsg(q); err != nil {
			return asked, slowest, err
		}
		for {
			m, err := conn.ReadMsg()
			if err != nil {
				return asked, slowest, err
			}
			if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != want {
				return asked, slowest, fmt.Errorf("answer %v, want %s", m, want)
			}
			if m.Id == q.Id { // and not once more the answer to an earlier one
				break
			}
		}
		asked++
		slowest = max(slowest, time.Since(began))
		if _, err := os.Stat(file); err == nil {
			return asked, slowest, nil
		}
	}
}

// systemdMachine boots Debian trixie's systemd with our units, the plugin's socket enabled.
func systemdMachine(t *testing.T) *vm.Machine {
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := vm.OpenKernel(filepath.Join(cache, "sealane", "kernel"))
	if err != nil {
		t.Fatalf("%v: scripts/kernel", err)
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	i := systemdImage(t, kernel, filepath.Join(cache, "sealane", "systemd"), dir)
	if err := i.Save(image); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(image); err == nil {
		t.Logf("the machine starts with %d MiB", info.Size()>>20)
	}
	wire, err := vm.NewWire()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { wire.Close() })
	console := filepath.Join(dir, "console")
	t.Cleanup(func() {
		if text, _ := os.ReadFile(console); t.Failed() {
			t.Logf("console:\n%s", text)
		}
	})
	begin := time.Now()
	m, err := vm.Boot(t.Context(), vm.Options{Kernel: kernel.Image, Initrd: image, Memory: 1024, Wire: wire, Console: console})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	t.Logf("systemd is up after %s", time.Since(begin).Round(time.Millisecond))
	return m
}

func systemdImage(t *testing.T, kernel *vm.Kernel, debian, dir string) *vm.Image {
	var i vm.Image
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	self := filepath.Join(dir, "self")
	build := exec.Command("go", "test", "-c", "-ldflags", "-s -w", "-o", self, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if says, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, says)
	}
	check(i.Program(firstProcess, self))
	for _, name := range []string{agent, questions, engineCalls, "/usr/local/bin/sealane"} {
		i.Link(name, firstProcess)
	}
	busybox, err := exec.LookPath("busybox")
	check(err)
	check(i.Program("/usr/bin/busybox", busybox))
	for _, applet := range []string{"sh", "cat", "touch", "tr", "grep", "mkdir", "printf"} {
		i.Link("/usr/bin/"+applet, "busybox")
	}
	check(i.Modules(kernel, "veth", "bridge", "nf_tables", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq", "nft_fib_inet", "nf_conntrack_netlink"))
	for _, program := range []string{"/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd-executor", "/usr/bin/systemctl"} {
		check(i.Foreign(debian, program))
	}
	const units, ours = "/usr/lib/systemd/system/", "/etc/systemd/system/"
	add := func(pattern, to string) {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v: make servers", pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			check(err)
			i.File(to+filepath.Base(file), text)
		}
	}
	for _, target := range []string{"basic", "sysinit", "sockets", "timers", "paths", "slices", "local-fs*", "swap", "network*", "shutdown", "umount", "final", "poweroff", "emergency", "rescue"} {
		add(debian+units+target+".target", units)
	}
	add("../../packaging/*", ours)
	i.Link(ours+"sockets.target.wants/sealane-docker.socket", "../sealane-docker.socket")
	i.Link(ours+"default.target", units+"basic.target")
	i.File(ours+"agent.service", []byte("[Unit]\nDefaultDependencies=no\nAfter=basic.target\n[Service]\nExecStart="+agent+"\n"))
	i.Link(ours+"basic.target.wants/agent.service", "../agent.service")
	i.File("/etc/systemd/system.conf", []byte("[Manager]\nDefaultStandardOutput=kmsg\nLogTarget=kmsg\n"))
	i.File("/etc/machine-id", []byte("0123456789abcdef0123456789abcdef\n"))
	i.File("/etc/passwd", []byte("root:x:0:0::/:/bin/sh\n"))
	i.File("/etc/group", []byte("root:x:0:\n"))
	i.File("/etc/hosts", nil)
	i.File("/etc/resolv.conf", nil)
	return &i
}

// managed is a machine whose systemd manages the daemon.
type managed struct {
	*vm.Machine
	t    *testing.T
	pids []string // of the daemons so far
}

// run runs a program in the machine, which must succeed.
func (m *managed) run(args ...string) string {
	m.t.Helper()
	out, err := m.Run(m.t.Context(), args...)
	if err != nil {
		text, _ := m.Run(context.WithoutCancel(m.t.Context()), "systemctl", "status", "sealane")
		m.t.Fatalf("%v\n%s", err, text)
	}
	return out
}

// is asks systemd for a property of the service.
func (m *managed) is(name string) string {
	m.t.Helper()
	return m.run("systemctl", "show", "--value", "-p", name, "sealane")
}

// kept is how many descriptors systemd has.
func (m *managed) kept() int {
	m.t.Helper()
	n, err := strconv.Atoi(m.is("NFileDescriptorStore"))
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// holders are how many processes of ours hold what systemd does not; the pattern does not find grep itself.
func (m *managed) holders() string {
	m.t.Helper()
	return m.run("sh", "-c", "cat /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n' | grep -cx 'hol[d]' || true")
}

// ends has systemctl end the daemon, and waits until another one is ready.
func (m *managed) ends(args ...string) {
	m.t.Helper()
	m.pids = append(m.pids, m.is("MainPID"))
	m.run(append([]string{"systemctl"}, args...)...)
	nstest.Eventually(m.t, "another daemon is ready", func() bool {
		return m.is("ActiveState") == "active" && !slices.Contains(append(m.pids, "0"), m.is("MainPID"))
	})
}

func (m *managed) restarted() { m.t.Helper(); m.ends("restart", "sealane") }
func (m *managed) killed() {
	m.t.Helper()
	m.ends("kill", "--signal=KILL", "--kill-whom=main", "sealane")
}

// attach makes two sandboxes that know each other by name.
func (m *managed) attach() {
	m.t.Helper()
	m.run("sealane", "network", "create", "--subnet", "10.1.0.0/24", "blue")
	m.run("sealane", "sandbox", "create", "--network", "blue:ip=10.1.0.2", "web")
	m.run("sealane", "sandbox", "create", "--network", "blue", "asks")
}

// detach takes them away again.
func (m *managed) detach() {
	m.t.Helper()
	m.run("sealane", "sandbox", "rm", "web", "asks")
	m.run("sealane", "network", "rm", "blue")
	if left := m.kept(); left != 0 {
		m.t.Errorf("systemd keeps %d descriptors of nobody's", left)
	}
}

var withSystemd = flag.Bool("systemd", false, "boot a machine with systemd, which takes a minute (make systemd)")

// TestSystemd runs the daemon as a service of a real systemd that keeps descriptors (257 of Debian trixie, process 1 of a machine in QEMU), with
// the units of packaging: a call to the plugin's socket starts it, and while it is restarted, and killed, no question of a sandbox is lost.
func TestSystemd(t *testing.T) {
	if !*withSystemd {
		t.Skip("only with -systemd: make systemd")
	}
	m := &managed{Machine: systemdMachine(t), t: t}
	if is := m.is("ActiveState"); is != "inactive" {
		t.Errorf("before anybody calls it is %s", is)
	}
	if says := m.run(engineCalls); !strings.Contains(says, "NetworkDriver") {
		t.Errorf("the plugin says %s", says)
	}
	if is := m.is("ActiveState"); is != "active" {
		t.Errorf("it has answered and is %s", is)
	}
	m.attach()
	const stop, said = "/run/stop", "/run/said"
	m.run("sh", "-c", "sealane sandbox exec asks -- "+questions+" web 10.1.0.2 "+stop+" >"+said+" 2>&1 &")
	kept := m.kept()
	m.restarted()
	m.killed()
	if again := m.kept(); kept == 0 || again != kept || m.holders() != "0" {
		t.Errorf("systemd keeps %d descriptors, kept %d before, and %s processes of ours hold some", again, kept, m.holders())
	}
	m.run("touch", stop)
	nstest.Eventually(t, "all questions are answered", func() bool { return m.run("cat", said) != "" })
	if says := m.run("cat", said); strings.Contains(says, "questions, the slowest") {
		t.Logf("%d descriptors kept over a restart and a kill: %s", kept, says)
	} else {
		t.Error(says)
	}
	m.detach()

	// What systemd has no room for a process of ours holds.
	m.run("sh", "-c", "mkdir /run/systemd/system/sealane.service.d && printf '[Service]\nFileDescriptorStoreMax=3\n' >/run/systemd/system/sealane.service.d/few.conf")
	m.run("systemctl", "daemon-reload")
	m.restarted()
	m.attach()
	m.killed()
	if n := m.kept(); n == 0 || n > 3 || m.holders() == "0" {
		t.Errorf("systemd keeps %d descriptors and may keep 3, %s processes of ours hold some\n%s", n, m.holders(), m.run("systemctl", "status", "sealane"))
	}
	if says := m.run("sealane", "sandbox", "exec", "asks", "--", questions, "web", "10.1.0.2", stop); !strings.HasPrefix(says, "1 questions") {
		t.Error(says)
	}
	m.detach()
	m.run("systemctl", "stop", "sealane-docker.socket", "sealane")
	if is := m.is("ActiveState") + " " + m.is("Result"); is != "inactive success" {
		t.Errorf("stopped it is %s", is)
	}
}
