// Package nsthread runs a function on a thread that is inside another network namespace.
//
// It is for what cannot be done through a socket opened once: opening such sockets, and writing below /proc/sys/net, which shows the
// namespace of the thread that looks.
package nsthread

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Do runs fn inside the network namespace whose file is path; "" is the caller's own. fn must not start goroutines that rely on it:
// they run elsewhere. Safe for concurrent use.
func Do(path string, fn func() error) error {
	if path == "" {
		return fn()
	}
	// O_NONBLOCK: a FIFO under this name must not hang us.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	return DoFD(fd, fn)
}

// DoFD is Do for an open descriptor of a network namespace.
func DoFD(fd int, fn func() error) error {
	return onThread(func() error {
		if err := netns.Set(netns.NsHandle(fd)); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
		return nil
	}, fn)
}

// onThread has the caller's thread enter another namespace, run fn and return: another thread would have to be woken and waited for, and another
// one made if this one were thrown away. It panics where there is no way back, which takes a kernel without memory: the thread stays locked,
// so that it ends with this goroutine and nothing else runs on it.
func onThread(enter, fn func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("find own namespace: %w", err)
	}
	defer home.Close()
	if err := enter(); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if err := netns.Set(home); err != nil {
			panic(fmt.Sprintf("nsthread: a thread cannot come back to its own network namespace: %v", err))
		}
		runtime.UnlockOSThread()
	}()
	return fn()
}
