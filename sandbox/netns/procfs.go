package netns

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// procfs opens files below /proc/sys/net of the namespace that the thread is in, through a mount of its own that has no path. The kernel
// remembers each name that was looked up there once for every namespace that lives, and the next look-up goes through all of them: beside
// 500 namespaces that takes as long as making one. So the mount, and what is remembered of it, is replaced now and then. Where no mount is
// allowed the common one serves. Safe for concurrent use.
type procfs struct {
	mu   sync.Mutex
	root int // descriptor of the mount; -1: none
	uses int
}

func newProcfs() *procfs { return &procfs{root: -1} }

// open opens a file by its key, such as ipv6/conf/default/accept_ra.
func (p *procfs) open(key string, flags int) (int, error) {
	const enough = 32 // uses, after which another mount is the cheaper one
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.root < 0 || p.uses >= enough {
		root, err := mountProc()
		if err != nil {
			return unix.Open("/proc/sys/net/"+key, flags|unix.O_CLOEXEC, 0)
		}
		if p.root >= 0 {
			unix.Close(p.root)
		}
		p.root, p.uses = root, 0
	}
	p.uses++
	return unix.Openat(p.root, "sys/net/"+key, flags|unix.O_CLOEXEC, 0)
}

// write sets a value.
func (p *procfs) write(key, value string) error {
	fd, err := p.open(key, unix.O_WRONLY)
	if err != nil {
		return fmt.Errorf("set net/%s: %w", key, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return fmt.Errorf("set net/%s: %w", key, err)
	}
	return nil
}

func (p *procfs) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.root < 0 {
		return nil
	}
	root := p.root
	p.root = -1
	return unix.Close(root)
}

func mountProc() (int, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}
