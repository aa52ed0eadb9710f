package holder

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Systemd is the descriptor store of the unit that we are. Safe for concurrent use.
type Systemd struct {
	prefix string
	socket string
	given  []*os.File
}

// NewSystemd is about names with a prefix, and what systemd handed us of them, which it takes (sd_listen_fds(3); a file's name is that of
// its descriptor). false when the unit has no store (FileDescriptorStoreMax=) that systemd tells of, by $FDSTORE, as of version 254.
func NewSystemd(prefix string, given []*os.File) (*Systemd, bool) {
	most, _ := strconv.Atoi(os.Getenv("FDSTORE"))
	socket := os.Getenv("NOTIFY_SOCKET")
	return &Systemd{prefix: prefix, socket: socket, given: given}, most > 0 && socket != ""
}

// Kept gives what systemd handed us of it. It may be asked once. The caller closes it.
func (s *Systemd) Kept() (map[string][]int, error) {
	all := map[string][]int{}
	for _, f := range s.given {
		name, ours := strings.CutPrefix(f.Name(), s.prefix)
		if !ours {
			continue
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // a file closes its own when it is collected
		if err := errors.Join(err, f.Close()); err != nil {
			return all, fmt.Errorf("descriptor %s of systemd: %w", f.Name(), err)
		}
		all[name] = append(all[name], fd)
	}
	return all, nil
}

// Keep adds descriptors under a name.
func (s *Systemd) Keep(name string, fds ...int) error {
	if err := checkName(name); err != nil {
		return err
	}
	// FDPOLL=0: it would drop sockets that have an error.
	return s.tell("FDSTORE=1\nFDPOLL=0\nFDNAME="+s.prefix+name, fds...)
}

// Drop removes what is there under a name.
func (s *Systemd) Drop(name string) error {
	return s.tell("FDSTOREREMOVE=1\nFDNAME=" + s.prefix + name)
}

// Close does nothing: the store is the unit's.
func (s *Systemd) Close() error { return nil }

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
		return errors.Join(fmt.Errorf("tell systemd at %s: %w", s.socket, err))
	}
	return nil
}
