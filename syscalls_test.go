package sealane_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// tracedEnv tells a process of this test how many endpoints to have before it is traced.
const tracedEnv = "SEALANE_TEST_TRACED"

// TestTracedAttach is the process that TestAttachStartsNoProcessAndDumpsNothing traces; by itself it does nothing.
func TestTracedAttach(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv(tracedEnv))
	if err != nil {
		return // nobody traces
	}
	w := newWorld(t)
	blue := w.network(sealane.NetworkSpec{Name: "blue", IPv6: true})
	w.crowd(n, func(i int) error {
		c, err := w.CreateSandbox(t.Context(), sandbox.Spec{Name: fmt.Sprint("c", i)})
		if err != nil {
			return err
		}
		e, err := blue.CreateEndpoint(t.Context(), endpoint.Spec{Name: fmt.Sprint("c", i), For: c.ID()})
		if err != nil {
			return err
		}
		return e.Join(t.Context(), c)
	})
	defer w.crowd(n, func(i int) error {
		c, err := w.Sandbox(t.Context(), fmt.Sprint("c", i))
		if err != nil {
			return err
		}
		return c.Delete(t.Context())
	})
	once := func(name string) { // as is measured, before: what is opened once and stays open
		mark("attach")
		c := w.sandbox(sandbox.Spec{Name: name})
		e := c.join(blue, endpoint.Spec{Name: name, Publish: ports(t, "8080:80")})
		mark("publish")
		err := e.Update(t.Context(), func(s *endpoint.Spec) error {
			s.Publish = append(s.Publish, ports(t, "8053:53/udp")...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		mark("detach")
		if err := c.Delete(t.Context()); err != nil {
			t.Fatal(err)
		}
		mark("rest")
		w.rest()
	}
	once("before")
	orders := bufio.NewReader(os.Stdin)
	for _, word := range []string{"ready", "done"} {
		fmt.Println(word)
		if _, err := orders.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		if word == "ready" {
			once("traced")
			mark("end")
		}
	}
}

// crowd does something n times, eight at a time.
func (w *world) crowd(n int, do func(i int) error) {
	w.t.Helper()
	var g errgroup.Group
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error { return do(i) })
	}
	if err := g.Wait(); err != nil {
		w.t.Fatal(err)
	}
}

// mark writes a word where the tracer sees it.
func mark(phase string) {
	f, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err == nil {
		fmt.Fprintf(f, "phase %s", phase)
		f.Close()
	}
}

// traced is what one phase did.
type traced struct {
	started  []string // processes
	dumps    []string // of links, addresses, routes, rules, neighbours, tables, sets, elements
	tracking []string // of connection tracking: a pass over its entries in the background
	messages int      // of netlink, those to connection tracking left out
	groups   int      // questions which multicast groups the sandbox's own links are in, asked until the kernel has joined them
}

// trace runs TestTracedAttach with n endpoints and has strace watch its last attach, by phase.
func trace(t *testing.T, n int) map[string]*traced {
	t.Helper()
	out := filepath.Join(runDir(t), "trace")
	child := exec.Command(os.Args[0], "-test.run=^TestTracedAttach$", "-test.v")
	child.Env = append(os.Environ(), tracedEnv+"="+strconv.Itoa(n))
	stdin, errIn := child.StdinPipe()
	stdout, errOut := child.StdoutPipe()
	if err := errors.Join(errIn, errOut, child.Start()); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewReader(stdout)
	await := func(word string) {
		var before strings.Builder
		for line := ""; line != word+"\n"; before.WriteString(line) {
			var err error
			if line, err = said.ReadString('\n'); err != nil {
				t.Fatalf("the traced process ended: %v\n%s%s", child.Wait(), &before, line)
			}
		}
	}
	tell := func() {
		if _, err := io.WriteString(stdin, "go on\n"); err != nil {
			t.Fatal(err)
		}
	}
	await("ready")
	tracer := exec.Command("strace", "-f", "-yy", "-xx", "-s", "65536", "-o", out, "-e", "trace=execve,execveat,clone,clone3,fork,vfork,sendto,sendmsg,sendmmsg,write,writev",
		"-p", strconv.Itoa(child.Process.Pid))
	stderr, err := tracer.StderrPipe()
	if err == nil {
		err = tracer.Start()
	}
	if err != nil {
		t.Fatalf("strace: %v", err)
	}
	attached := bufio.NewReader(stderr)
	if line, err := attached.ReadString('\n'); err != nil || !strings.Contains(line, "attached") {
		t.Fatalf("strace: %s, %v", line, err)
	}
	go io.Copy(io.Discard, attached)
	tell()
	await("done")
	if err := tracer.Process.Signal(os.Interrupt); err != nil { // it lets go, so that the rest is fast
		t.Fatal(err)
	}
	tracer.Wait() // says that it was interrupted
	tell()
	rest, _ := io.ReadAll(said)
	if err := child.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, rest)
	}
	return readTrace(t, out)
}

var (
	tracedCall = regexp.MustCompile(`^\d+ +(\w+)\((?:\d+<(.*?)>+, )?(.*)$`)
	tracedText = regexp.MustCompile(`\\x([0-9a-f]{2})`)
)

// readTrace sorts what strace wrote by the phase that it was in.
func readTrace(t *testing.T, file string) map[string]*traced {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all, now := map[string]*traced{}, &traced{}
	for lines := bufio.NewReaderSize(f, 1<<20); ; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return all
		}
		line = strings.TrimSpace(line)
		m := tracedCall.FindStringSubmatch(line)
		if m == nil {
			continue // a signal, or the end of a call that was told before
		}
		call, on, data := m[1], m[2], unhex(m[3])
		switch {
		case strings.HasPrefix(call, "exec"), strings.HasSuffix(call, "fork"), strings.HasPrefix(call, "clone") && !strings.Contains(line, "CLONE_THREAD"):
			now.started = append(now.started, line)
		case bytes.HasPrefix(data, []byte("phase ")):
			now = &traced{}
			all[string(data[len("phase "):])] = now
		case strings.HasPrefix(on, "NETLINK") && call != "write":
			now.dumps = append(now.dumps, "not understood: "+line)
		case strings.HasPrefix(on, "NETLINK"):
			now.netlink(data)
		}
	}
}

func unhex(s string) []byte {
	var data []byte
	for _, m := range tracedText.FindAllStringSubmatch(s, -1) {
		b, _ := strconv.ParseUint(m[1], 16, 8)
		data = append(data, byte(b))
	}
	return data
}

// netlink counts the messages in what was sent by one call, and finds those that ask for all there is.
func (p *traced) netlink(data []byte) {
	for len(data) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(data))
		typ, flags := binary.NativeEndian.Uint16(data[4:]), binary.NativeEndian.Uint16(data[6:])
		if size < unix.SizeofNlMsghdr || size > len(data) {
			p.dumps = append(p.dumps, fmt.Sprintf("not understood: %x", data))
			return
		}
		dump := flags&unix.NLM_F_DUMP == unix.NLM_F_DUMP && asks(typ)
		subsystem := typ >> 8
		switch {
		case typ == unix.RTM_GETMULTICAST:
			p.groups++
		case subsystem == unix.NFNL_SUBSYS_CTNETLINK && dump:
			p.tracking = append(p.tracking, fmt.Sprint("message ", typ&0xff))
		case subsystem == unix.NFNL_SUBSYS_CTNETLINK:
		case dump:
			p.dumps = append(p.dumps, fmt.Sprintf("subsystem %d message %d", subsystem, typ&0xff))
			fallthrough
		default:
			p.messages++
		}
		data = data[min((size+3)&^3, len(data)):]
	}
}

// asks says that a message of a type gets something: for others the bits of NLM_F_DUMP mean NLM_F_REPLACE and NLM_F_EXCL.
func asks(typ uint16) bool {
	gets := map[uint16][]uint16{unix.NFNL_SUBSYS_CTNETLINK: {1, 3, 4, 5, 6, 7}, unix.NFNL_SUBSYS_NFTABLES: {1, 4, 7, 10, 13, 16, 19, 21, 23}}
	if subsystem := typ >> 8; subsystem != 0 {
		return slices.Contains(gets[subsystem], typ&0xff)
	}
	return typ&3 == 2 // RTM_GET…
}

// Attaching, publishing and detaching start no process and list nothing, and send as many messages with 900 endpoints there as with 10.
// What connection tracking remembers of a withdrawn address is looked through in the background, if it remembers anything; that is counted
// apart.
func TestAttachStartsNoProcessAndDumpsNothing(t *testing.T) {
	few, many := trace(t, 10), trace(t, 900)
	for _, phase := range []string{"attach", "publish", "detach"} {
		for n, all := range map[int]map[string]*traced{10: few, 900: many} {
			p := all[phase]
			if p == nil || p.messages == 0 {
				t.Fatalf("%s at %d endpoints was not seen: phases %v", phase, n, slices.Collect(maps.Keys(all)))
			}
			if len(p.started) > 0 {
				t.Errorf("%s at %d endpoints starts processes:\n%s", phase, n, strings.Join(p.started, "\n"))
			}
			if len(p.dumps) > 0 {
				t.Errorf("%s at %d endpoints dumps:\n%s", phase, n, strings.Join(p.dumps, "\n"))
			}
		}
		const workers = 4 // messages of the reaper, which is not waited for, may fall in any phase
		if d := few[phase].messages - many[phase].messages; d < -workers || d > workers {
			t.Errorf("%s: %d messages at 10 endpoints, %d at 900", phase, few[phase].messages, many[phase].messages)
		}
		t.Logf("%s: %d netlink messages at 10 endpoints, %d at 900", phase, few[phase].messages, many[phase].messages)
	}
	for n, all := range map[int]map[string]*traced{10: few, 900: many} {
		for phase, p := range all {
			if len(p.tracking) > 0 {
				t.Logf("%s at %d endpoints: %d passes over connection tracking", phase, n, len(p.tracking))
			}
		}
	}
}
