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
}

// NewSystemd is about names with a prefix; false when the unit has no store (FileDescriptorStoreMax=) that systemd tells of, by $FDSTORE, as
// of version 254.
func NewSystemd(prefix string) (*Systemd, bool) {
	most, _ := strconv.Atoi(os.Getenv("FDSTORE"))
	socket := os.Getenv("NOTIFY_SOCKET")
	return &Systemd{prefix: prefix, socket: socket}, most > 0 && socket != ""
}

// Kept gives what systemd handed us of it. It may be asked once. The caller closes it.
func (s *Systemd) Kept() (map[string][]int, error) {
	const first = 3 // SD_LISTEN_FDS_START
	all := map[string][]int{}
	if pid, _ := strconv.Atoi(os.Getenv("LISTEN_PID")); pid != os.Getpid() {
		return all, nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS: %w", err)
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for i := range min(n, len(names)) {
		if name, ours := strings.CutPrefix(names[i], s.prefix); ours {
			unix.CloseOnExec(first + i)
			all[name] = append(all[name], first+i)
		}
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
