package vm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Init is the first process of a machine: it mounts what every Linux has, loads the image's modules, and from then on runs what Boot's
// caller asks for and buries whoever dies. It does not return: when it fails the machine is switched off.
func Init() {
	err := Prepare()
	if err == nil {
		err = Obey()
	}
	fmt.Fprintln(os.Stderr, "init:", err)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// Obey runs what Boot's caller asks for, until the line to it breaks. Where another init is the first process, one of its services does it.
func Obey() error {
	line, err := os.OpenFile("/dev/ttyS1", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	if err := raw(line); err != nil {
		return err
	}
	return obey(line, newFamily())
}

// Prepare mounts what every Linux has and loads the image's modules.
func Prepare() error {
	if err := os.Setenv("PATH", "/bin"); err != nil {
		return err
	}
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"}} {
		if err := errors.Join(os.MkdirAll(m.at, 0o755), unix.Mount(m.kind, m.at, m.kind, 0, "")); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	modules, err := filepath.Glob(modulesDir + "/*.ko")
	if err != nil {
		return err
	}
	for _, file := range modules {
		if err := load(file); err != nil {
			return fmt.Errorf("load %s: %w", file, err)
		}
	}
	return nil
}

func load(file string) error {
	f, err := os.Open(filepath.Clean(file))
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// raw has a terminal pass bytes as they are, both ways: cfmakeraw(3).
func raw(line *os.File) error {
	settings, err := unix.IoctlGetTermios(int(line.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	settings.Iflag, settings.Oflag, settings.Lflag = unix.IGNBRK|unix.IGNPAR, 0, 0
	settings.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.B115200
	settings.Cc[unix.VMIN], settings.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(int(line.Fd()), unix.TCSETS, settings)
}

// obey says that the machine is up, and then runs what it is told, until the line breaks.
func obey(line io.ReadWriter, f *family) error {
	replies, requests := json.NewEncoder(line), json.NewDecoder(bufio.NewReader(line))
	for did := (reply{}); ; {
		if err := replies.Encode(did); err != nil {
			return err
		}
		var r request
		if err := requests.Decode(&r); err != nil {
			return err
		}
		did = f.run(r.Args)
	}
}

// family is the processes of the machine. All that lose their parent become children of the first process, so it waits for any, and tells
// whoever waits for this one.
type family struct {
	mu      sync.Mutex
	waiting map[int]chan<- int // by process, for its status
}

func newFamily() *family {
	f := &family{waiting: make(map[int]chan<- int)}
	deaths := make(chan os.Signal, 1)
	signal.Notify(deaths, unix.SIGCHLD)
	go func() {
		for range deaths {
			f.bury()
		}
	}()
	return f
}

// run runs a program. What it prints goes to a file: a pipe would be held open by what it leaves running.
func (f *family) run(args []string) reply {
	out, err := os.CreateTemp("", "output-")
	if err != nil {
		return reply{Error: err.Error()}
	}
	defer out.Close()
	defer os.Remove(out.Name())
	ended, err := f.start(args, out)
	if err != nil {
		return reply{Error: err.Error()}
	}
	status := <-ended
	text, err := os.ReadFile(out.Name())
	if err != nil {
		return reply{Error: err.Error()}
	}
	return reply{Output: string(text), Status: status}
}

// start starts a program and gives where its status will be told.
func (f *family) start(args []string, out *os.File) (<-chan int, error) {
	if len(args) == 0 {
		return nil, errors.New("nothing to run")
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return nil, err
	}
	input, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer input.Close()
	f.mu.Lock() // nobody is buried before he is known
	defer f.mu.Unlock()
	pid, err := syscall.ForkExec(program, args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{input.Fd(), out.Fd(), out.Fd()}})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	ended := make(chan int, 1)
	f.waiting[pid] = ended
	return ended, nil
}

// bury takes leave of all that are dead.
func (f *family) bury() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err != nil || pid <= 0 {
			return
		}
		if ended := f.waiting[pid]; ended != nil {
			delete(f.waiting, pid)
			ended <- shellStatus(status)
		}
	}
}

// shellStatus is what a shell makes of a process's end.
func shellStatus(s unix.WaitStatus) int {
	const signalled = 128
	if s.Signaled() {
		return signalled + int(s.Signal())
	}
	return s.ExitStatus()
}
