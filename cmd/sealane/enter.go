package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/api"
)

// place is where a command runs.
type place struct {
	netns                string // path; "": here
	hostname, domainname string // "": the host's
	files                string // directory of what is to be seen as /etc/hosts, /etc/hostname and /etc/resolv.conf, each where it exists
}

// place says where a sandbox is.
func (c *cli) place(s api.Sandbox) place {
	return place{netns: s.NetNS, hostname: s.Hostname, domainname: s.Domainname, files: filepath.Join(sandboxFiles(c.run), cmp.Or(s.Join, s.ID))}
}

// sandboxFiles is where a daemon keeps what sandboxes see as their own files.
func sandboxFiles(run string) string { return filepath.Join(run, "sandboxes") }

// enterError is a failure to get where the command should run.
type enterError struct{ err error }

func (e *enterError) Error() string { return "enter sandbox: " + e.err.Error() }
func (e *enterError) Unwrap() error { return e.err }

// startIn starts a command in a place. Namespaces are a thread's: one goes there, starts the command, which inherits them, and ends.
func startIn(p place, cmd *exec.Cmd) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with this goroutine
		if err := p.enter(); err != nil {
			started <- &enterError{err}
			return
		}
		started <- cmd.Start()
	}()
	return <-started
}

// enter takes the calling thread there.
func (p place) enter() error {
	if p.netns != "" {
		if err := setns(p.netns); err != nil {
			return err
		}
	}
	if err := p.cover(); err != nil {
		return err
	}
	if err := p.rename(); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	return nil
}

// rename gives the command's machine the names of the sandbox, if it has any.
func (p place) rename() error {
	if p.hostname == "" && p.domainname == "" {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
		return err
	}
	if p.hostname != "" {
		if err := unix.Sethostname([]byte(p.hostname)); err != nil {
			return err
		}
	}
	if p.domainname != "" {
		return unix.Setdomainname([]byte(p.domainname))
	}
	return nil
}

func setns(path string) error {
	// O_NONBLOCK: a FIFO under this name must not hang us.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return &os.PathError{Op: "enter", Path: path, Err: err}
	}
	return nil
}

// cover lets the sandbox's files be seen in the place of the host's, in a mount namespace for the command alone. Where there are none it
// stays in the caller's.
func (p place) cover() error {
	var there []string
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		if _, err := os.Stat(filepath.Join(p.files, name)); err == nil {
			there = append(there, name)
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if len(there) == 0 {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	for _, name := range there {
		target := filepath.Join("/etc", name)
		if err := unshare(target); err != nil {
			return err
		}
		err := unix.Mount(filepath.Join(p.files, name), target, "", unix.MS_BIND, "")
		if err != nil && !errors.Is(err, unix.ENOENT) { // a host may be without the file
			return &os.PathError{Op: "mount", Path: target, Err: err}
		}
	}
	return nil
}

// unshare lets what is mounted at a path be seen by the command only. What the command mounts elsewhere is the caller's affair as before.
func unshare(path string) error {
	for {
		err := unix.Mount("", path, "", unix.MS_SLAVE, "")
		if path == "/" || !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			if err != nil {
				return &os.PathError{Op: "unshare the mount", Path: path, Err: err}
			}
			return nil
		}
		path = filepath.Dir(path) // it is no mount point
	}
}
