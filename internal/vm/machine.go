package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what a machine is.
type Options struct {
	Kernel  string // the kernel's image
	Initrd  string // an Image that was saved; its /init calls Init
	Memory  int    // MiB; 0 is 1024
	Wire    *Wire  // what eth0 is plugged into
	End     int    // the wire's end, 0 or 1
	Console string // the file that the kernel's console is written to
}

// Machine is one that runs. Safe for concurrent use: it does one thing after the other.
type Machine struct {
	qemu    *exec.Cmd
	ended   chan struct{} // closed when QEMU is gone
	console string

	mu      sync.Mutex
	line    net.Conn // to the process inside
	replies *json.Decoder
}

// request is what Init's process is to run; reply what came of it. They go over the second serial port as JSON, a request at a time.
type request struct{ Args []string }

type reply struct {
	Output string // of both kinds
	Status int    // as a shell's
	Error  string // why it was not run
}

// Boot starts a machine and waits until it is up. Its QEMU ends with this process however that ends.
func Boot(ctx context.Context, o Options) (*Machine, error) {
	line, theirs, err := pair(unix.SOCK_STREAM)
	if err != nil {
		return nil, err
	}
	m := &Machine{qemu: exec.Command("qemu-system-x86_64", arguments(o)...), ended: make(chan struct{}), console: o.Console,
		line: line, replies: json.NewDecoder(bufio.NewReader(line))}
	m.qemu.ExtraFiles = []*os.File{theirs, o.Wire.plugs[o.End]}
	var complaints strings.Builder
	m.qemu.Stderr = &complaints
	err = m.start()
	_ = theirs.Close() // QEMU has it alone, so that the line ends when QEMU does
	if err != nil {
		return nil, errors.Join(err, line.Close())
	}
	var up reply
	if err := m.within(ctx, func() error { return m.replies.Decode(&up) }); err != nil || up.Error != "" {
		err = errors.Join(err, m.Close())
		return nil, fmt.Errorf("machine does not come up: %w %s%s\n%s", err, up.Error, complaints.String(), m.lastWords())
	}
	return m, nil
}

// Descriptors of QEMU's: the serial line and the wire.
const lineFD, wireFD = 3, 4

// arguments are QEMU's. Nothing is in the machine but what is named here. The kernel is told not to check that its timer ticks in time: on
// a busy machine it does not.
func arguments(o Options) []string {
	const memory = 1024
	if o.Memory == 0 {
		o.Memory = memory
	}
	return []string{
		"-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", strconv.Itoa(o.Memory),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", o.Kernel, "-initrd", o.Initrd, "-append", "console=ttyS0 quiet panic=-1 no_timer_check random.trust_cpu=on",
		"-chardev", "file,id=console,path=" + o.Console, "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=line,fd=%d", lineFD), "-serial", "chardev:line",
		"-netdev", fmt.Sprintf("socket,id=wire,fd=%d", wireFD),
		"-device", fmt.Sprintf("virtio-net-pci,netdev=wire,romfile=,mac=52:54:00:00:00:%02x", o.End+1),
	}
}

// start starts QEMU on a thread that lives as long as it does: the kernel ends QEMU when that thread ends.
func (m *Machine) start() error {
	m.qemu.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true} // a Ctrl-C is for us, who then close it
	started := make(chan error)
	go func() {
		defer close(m.ended)
		runtime.LockOSThread()
		err := m.qemu.Start()
		started <- err
		if err == nil {
			_ = m.qemu.Wait() // it is killed in the end
		}
	}()
	return <-started
}

// within does something with the line, and gives up when ctx ends or the machine does.
func (m *Machine) within(ctx context.Context, do func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = m.line.SetDeadline(time.Now()) })
	defer stop()
	if err := do(); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	return nil
}

// Run runs a program in the machine and gives what it printed, without space around it. An exit status other than 0 is an error. A machine
// that was given up, when ctx ended, is of no more use.
func (m *Machine) Run(ctx context.Context, args ...string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var r reply
	err := m.within(ctx, func() error {
		return errors.Join(json.NewEncoder(m.line).Encode(request{Args: args}), m.replies.Decode(&r))
	})
	output := strings.TrimSpace(r.Output)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, m.lastWords())
	case r.Error != "":
		return "", errors.New(r.Error)
	case r.Status != 0:
		return output, fmt.Errorf("%s: exit status %d: %s", strings.Join(args, " "), r.Status, output)
	}
	return output, nil
}

// lastWords are the end of what the kernel printed.
func (m *Machine) lastWords() string {
	const enough = 4000
	text, err := os.ReadFile(m.console)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-enough):])
}

// Close switches the machine off.
func (m *Machine) Close() error {
	_ = m.qemu.Process.Kill()
	<-m.ended
	return m.line.Close()
}
