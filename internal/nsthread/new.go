package nsthread

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// New makes a network namespace and runs fn in it. The namespace ends when fn returns, unless fn gave it a mount, a descriptor or a socket
// to live on. /proc/thread-self/ns/net is its file meanwhile. Safe for concurrent use.
func New(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		done <- inNew(fn)
	}()
	return <-done
}

// inNew goes back instead of throwing the thread away: another would have to be made for the next. Where the way back fails the thread
// stays locked and ends with the goroutine.
func inNew(fn func() error) error {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("find own namespace: %w", err)
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("make a network namespace: %w", err)
	}
	defer func() {
		if netns.Set(home) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return fn()
}
