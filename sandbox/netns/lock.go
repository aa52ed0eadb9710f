package netns

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nsthread"
	"golang.org/x/sys/unix"
)

// lock claims a host for one process of an instance: two would undo each other's work. The claim is an abstract unix socket, whose names
// belong to a network namespace and which no crash leaves behind. The result is its descriptor, -1 on error.
func lock(host, instance string) (int, error) {
	const askers = 64 // nobody accepts: those who ask who it is stay in the queue
	name := &unix.SockaddrUnix{Name: "@sealane/" + instance}
	fd := -1
	err := nsthread.Do(host, func() (err error) {
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err = unix.Bind(fd, name); errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("%w: instance %s is in use in this network namespace%s", errdefs.ErrFailedPrecondition, instance, holder(fd, name))
		}
		if err != nil {
			return err
		}
		return unix.Listen(fd, askers)
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, err
	}
	return fd, nil
}

// holder says who has the name, if it can be told: whoever connects is told the credentials of the listener.
func holder(fd int, name *unix.SockaddrUnix) string {
	if unix.SetNonblock(fd, true) != nil || unix.Connect(fd, name) != nil {
		return ""
	}
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" by process %d", c.Pid)
}
