// Package holder keeps descriptors open beyond the life of a process, so that the next one takes them over: in systemd's descriptor store
// (sd_notify(3), FDSTORE) or, without that, in a process of its own, which does nothing else.
//
// That process has a SOCK_SEQPACKET socket at a path and reads one letter and a name from each message: K keeps the descriptors that come with it,
// D drops them, L has it send them all, each as F, and then E. It ends when it holds nothing and nobody is connected any more, and when its
// socket's file is removed.
package holder

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Letters that begin a message.
const (
	letterKeep, letterDrop, letterList = 'K', 'D', 'L'
	letterKept, letterEnd              = 'F', 'E'
)

// maxMessage is longer than any message, and maxFDs more than come with one.
const maxMessage, maxFDs = 512, 16

// message is what goes over the socket.
type message struct {
	letter byte
	name   string
	fds    []int
}

func (m message) send(fd int) error {
	for {
		err := unix.Sendmsg(fd, append([]byte{m.letter}, m.name...), rights(m.fds), nil, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func rights(fds []int) []byte {
	if len(fds) == 0 {
		return nil
	}
	return unix.UnixRights(fds...)
}

// receive reads one message; the zero message at the end. flags are those of recvmsg(2).
func receive(fd, flags int) (m message, err error) {
	buf, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4*maxFDs))
	n, oobn := 0, 0
	for {
		n, oobn, _, _, err = unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC|flags)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil || n == 0 {
		return m, err
	}
	m.letter, m.name = buf[0], string(buf[1:n])
	controls, err := unix.ParseSocketControlMessage(oob[:oobn])
	for _, c := range controls {
		if fds, err := unix.ParseUnixRights(&c); err == nil {
			m.fds = append(m.fds, fds...)
		}
	}
	return m, err
}

// Serve is the process: it holds what whoever connects to the listening socket gives it, until it holds nothing and nobody is connected any
// more, or the file at path is removed. Only processes of its own user are heard.
func Serve(listener int, path string) error {
	h := &held{fds: map[string][]int{}}
	defer h.closeAll()
	removed, err := watchRemoval(path)
	if err != nil {
		return err
	}
	polled := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}, {Fd: int32(removed), Events: unix.POLLIN}}
	for exists(path) { // it may have been removed before it was watched
		if _, err := unix.Poll(polled, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for messages: %w", err)
		}
		if polled[1].Revents != 0 {
			unix.Read(removed, make([]byte, 4096))
		}
		if polled[0].Revents != 0 {
			if fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC); err == nil && mayTalk(fd) {
				polled = append(polled, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			} else if err == nil {
				unix.Close(fd)
			}
		}
		// What an earlier process said comes before what the next one asks, so the oldest is heard out first.
		for i := 2; i < len(polled); i++ {
			if polled[i].Revents == 0 || h.hearOut(int(polled[i].Fd)) {
				continue
			}
			unix.Close(int(polled[i].Fd))
			if polled = slices.Delete(polled, i, i+1); len(polled) == 2 && len(h.fds) == 0 {
				return nil
			}
			i--
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// watchRemoval is a descriptor that can be read when something was removed beside path.
func watchRemoval(path string) (int, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == nil {
		_, err = unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_DELETE_SELF|unix.IN_UNMOUNT)
	}
	if err != nil {
		return -1, fmt.Errorf("watch %s: %w", filepath.Dir(path), err)
	}
	return fd, nil
}

func mayTalk(fd int) bool {
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	return err == nil && int(peer.Uid) == os.Geteuid()
}

// held is what the process holds.
type held struct{ fds map[string][]int }

// hearOut does what all messages say that have come. False: there will be no more.
func (h *held) hearOut(fd int) bool {
	for {
		m, err := receive(fd, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return true
		}
		if err != nil || m.letter == 0 || !h.hear(fd, m) {
			return false
		}
	}
}

// hear does what one message says.
func (h *held) hear(fd int, m message) bool {
	switch m.letter {
	case letterKeep:
		closeFDs(h.fds[m.name])
		h.fds[m.name] = m.fds
	case letterDrop:
		closeFDs(h.fds[m.name])
		delete(h.fds, m.name)
	case letterList:
		for name, fds := range h.fds {
			if err := (message{letterKept, name, fds}).send(fd); err != nil {
				return false
			}
		}
		return message{letter: letterEnd}.send(fd) == nil
	}
	return true
}

func (h *held) closeAll() {
	for _, fds := range h.fds {
		closeFDs(fds)
	}
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

func checkName(name string) error {
	if name == "" || len(name) > 200 || strings.ContainsAny(name, ":\n") {
		return fmt.Errorf("%q cannot name what is kept", name)
	}
	return nil
}
