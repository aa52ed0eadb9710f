package nsthread

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// New makes a network namespace and runs fn in it. The namespace ends when fn returns, unless fn gave it a mount, a descriptor or a socket
// to live on. /proc/thread-self/ns/net is its file meanwhile. Safe for concurrent use.
func New(fn func() error) error {
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		return nil
	}, fn)
}
