package holder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process keeps descriptors in a process that it starts when it first has something to keep. One Process may use a path at a time. Safe
// for concurrent use.
type Process struct {
	path string
	argv []string

	mu   sync.Mutex
	conn int // -1: none runs that we know of
	kept map[string][]int
}

// NewProcess is about the process with its socket at path. argv starts one: it gets the listening socket as descriptor 3 and calls Serve.
func NewProcess(path string, argv ...string) *Process {
	return &Process{path: path, argv: argv, conn: -1, kept: map[string][]int{}}
}

// Kept gives what is held since an earlier process, by name; nothing when no holder runs. The caller closes it.
func (p *Process) Kept() (map[string][]int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[string][]int{}
	err := p.connect()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return all, nil
	}
	if err == nil {
		err = message{letter: letterList}.send(p.conn)
	}
	for err == nil {
		var m message
		if m, err = receive(p.conn, 0); err != nil || m.letter == 0 {
			break
		}
		if m.letter == letterEnd {
			return all, nil
		}
		all[m.name], p.kept[m.name] = m.fds, nil
	}
	for _, fds := range all {
		closeFDs(fds)
	}
	p.disconnect()
	if err == nil || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return map[string][]int{}, nil // it ended meanwhile
	}
	return nil, fmt.Errorf("ask the holder at %s: %w", p.path, err)
}

// Keep has descriptors held under a name, instead of what was. They must stay open until Drop: a holder that was killed is replaced, and
// the new one is given all of them.
func (p *Process) Keep(name string, fds ...int) error {
	if err := checkName(name); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept[name] = fds
	if p.conn >= 0 {
		if err := (message{letterKeep, name, fds}).send(p.conn); err == nil {
			return nil
		}
		p.disconnect()
	}
	if err := p.start(); err != nil {
		return fmt.Errorf("start a holder: %w", err)
	}
	for name, fds := range p.kept {
		if err := (message{letterKeep, name, fds}).send(p.conn); err != nil {
			return fmt.Errorf("hand over to the holder: %w", err)
		}
	}
	return nil
}

// Drop lets go. The holder stays for the next, since to start one costs more than an attach does.
func (p *Process) Drop(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, known := p.kept[name]
	delete(p.kept, name)
	if p.conn < 0 || !known {
		return nil
	}
	err := message{letter: letterDrop, name: name}.send(p.conn)
	if err != nil {
		p.disconnect() // it has ended
	}
	return nil
}

// Close lets the holder go on as long as it holds something.
func (p *Process) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.disconnect()
	return nil
}

func (p *Process) disconnect() {
	if p.conn >= 0 {
		unix.Close(p.conn)
	}
	p.conn = -1
}

func (p *Process) connect() error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: p.path}); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	p.conn = fd
	return nil
}

// start runs a holder in a session of its own, so that what ends us does not end it.
func (p *Process) start() error {
	if err := os.Remove(p.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	listener := os.NewFile(uintptr(fd), p.path)
	defer listener.Close()
	const backlog = 8
	for _, step := range []func() error{
		func() error { return unix.Bind(fd, &unix.SockaddrUnix{Name: p.path}) },
		func() error { return os.Chmod(p.path, 0o600) },
		func() error { return unix.Listen(fd, backlog) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	c := exec.Command(p.argv[0], p.argv[1:]...)
	c.Args[0] = os.Args[0] // so that it is known by our name, whatever its path
	c.Dir, c.Env, c.ExtraFiles = "/", []string{}, []*os.File{listener}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		return err
	}
	go c.Wait() // or it would stay as a zombie
	return p.connect()
}
