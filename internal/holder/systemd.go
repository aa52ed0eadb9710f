package holder

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Systemd is the descriptor store of the unit that we are. What it has no room for is kept by another. Safe for concurrent use.
type Systemd struct {
	prefix string
	socket string
	given  []*os.File
	rest   *Process

	mu   sync.Mutex
	kept map[string][]inode
	room room
}

// inode tells what descriptors lead to apart.
type inode struct{ dev, ino uint64 }

func inodeOf(fd int) (inode, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return inode{}, os.NewSyscallError("fstat", err)
	}
	return inode{st.Dev, st.Ino}, nil
}

// room is what is left of a store.
type room struct{ fds, bytes int }

// maxNames is what systemd can tell the next process in $LISTEN_FDNAMES, in bytes: the kernel takes no longer string (execve(2)), and a store with
// more would keep the unit from starting.
const maxNames = 128<<10 - len("LISTEN_FDNAMES=") - 1

// NewSystemd is about names with a prefix, and what systemd handed us of them, which it takes (sd_listen_fds(3); a file's name is that of
// its descriptor). false when the unit has no store (FileDescriptorStoreMax=) that systemd tells of, by $FDSTORE, as of version 254. What
// does not fit is rest's to keep.
func NewSystemd(prefix string, given []*os.File, rest *Process) (*Systemd, bool) {
	most, _ := strconv.Atoi(os.Getenv("FDSTORE"))
	socket := os.Getenv("NOTIFY_SOCKET")
	s := &Systemd{prefix: prefix, socket: socket, given: given, rest: rest, kept: map[string][]inode{}, room: room{most, maxNames}}
	return s, most > 0 && socket != ""
}

// Kept gives what systemd handed us of it, and what the other one kept. It may be asked once. The caller closes it.
func (s *Systemd) Kept() (map[string][]int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := s.rest.Kept()
	if err != nil {
		return nil, err
	}
	for _, f := range s.given {
		name, ours := strings.CutPrefix(f.Name(), s.prefix)
		if !ours { // of a socket unit: it is not in the store, but is named beside what is
			s.room.bytes -= len(f.Name()) + 1
			continue
		}
		s.room = s.room.less(1, f.Name())
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // a file closes its own when it is collected
		node, err2 := inodeOf(fd)
		if err := errors.Join(err, err2, f.Close()); err != nil {
			return all, fmt.Errorf("descriptor %s of systemd: %w", f.Name(), err)
		}
		all[name], s.kept[name] = append(all[name], fd), append(s.kept[name], node)
	}
	return all, nil
}

// less is what is left when so many descriptors of a name are added.
func (r room) less(n int, name string) room { return room{r.fds - n, r.bytes - n*(len(name)+1)} }

// Keep has descriptors held under a name, instead of what was. Those that are held already stay, without a moment in which they are not.
func (s *Systemd) Keep(name string, fds ...int) error {
	if err := checkName(name); err != nil {
		return err
	}
	var nodes []inode
	for _, fd := range fds {
		node, err := inodeOf(fd)
		if err != nil {
			return err
		}
		nodes = append(nodes, node)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if same(s.kept[name], nodes) {
		return nil
	}
	if err := s.drop(name); err != nil {
		return err
	}
	left := s.room.less(len(fds), s.prefix+name)
	if left.fds < 0 || left.bytes < 0 {
		return s.rest.Keep(name, fds...)
	}
	// FDPOLL=0: it would drop sockets that have an error.
	if err := s.tell("FDSTORE=1\nFDPOLL=0\nFDNAME="+s.prefix+name, fds...); err != nil {
		return err
	}
	s.kept[name], s.room = nodes, left
	return nil
}

// same says that two lists have the same in any order.
func same(a, b []inode) bool {
	return len(a) == len(b) && !slices.ContainsFunc(b, func(n inode) bool { return !slices.Contains(a, n) })
}

// Drop lets go.
func (s *Systemd) Drop(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.drop(name), s.rest.Drop(name))
}

func (s *Systemd) drop(name string) error {
	n := len(s.kept[name])
	if n == 0 {
		return nil
	}
	delete(s.kept, name)
	s.room = s.room.less(-n, s.prefix+name)
	return s.tell("FDSTOREREMOVE=1\nFDNAME=" + s.prefix + name)
}

// Close lets go of nothing: the store is the unit's.
func (s *Systemd) Close() error { return s.rest.Close() }

func (s *Systemd) tell(text string, fds ...int) error {
	name := s.socket
	if strings.HasPrefix(name, "@") {
		name = "\x00" + name[1:]
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Sendmsg(fd, []byte(text), rights(fds), &unix.SockaddrUnix{Name: name}, unix.MSG_NOSIGNAL)
	if err != nil {
		return fmt.Errorf("tell systemd at %s: %w", s.socket, err)
	}
	return nil
}
