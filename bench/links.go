package main

import (
	"encoding/binary"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// links knows which links the host has, and hears when one is gone: what a detach leaves to be done later is only then done.
type links struct {
	fd    wire
	known map[uint32]bool
}

func watchLinks() (*links, error) {
	fd, err := openWire(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	l := &links{fd: fd, known: make(map[uint32]bool)}
	const groups = 1 << (unix.RTNLGRP_LINK - 1)
	err = unix.Bind(int(fd), &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	if err == nil {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	}
	if err == nil {
		var m message
		m.begin(unix.RTM_GETLINK, unix.NLM_F_DUMP, ifinfo(0, false)...)
		_, err = unix.Write(int(fd), m.buf)
	}
	for done := false; err == nil && !done; {
		done, err = l.read()
	}
	if err != nil {
		fd.close()
		return nil, fmt.Errorf("watch links: %w", err)
	}
	return l, nil
}

func (l *links) close() { l.fd.close() }

// waitFor returns when the host has no more than n links.
func (l *links) waitFor(n int) error {
	const patience = 60 * time.Second // for one event; a thousand links take a second
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(int(l.fd), unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return err
	}
	for len(l.known) > n {
		if _, err := l.read(); err != nil {
			return fmt.Errorf("wait until %d links are %d: %w", len(l.known), n, err)
		}
	}
	return nil
}

// read takes in what one datagram says; done is the end of the dump.
func (l *links) read() (done bool, err error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Read(int(l.fd), buf)
	if err == unix.EINTR {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for p := buf[:n]; len(p) >= unix.SizeofNlMsghdr; {
		length := min((int(binary.NativeEndian.Uint32(p))+3)&^3, len(p))
		body := p[unix.SizeofNlMsghdr:]
		switch typ := binary.NativeEndian.Uint16(p[4:]); {
		case typ == unix.NLMSG_DONE:
			done = true
		case typ == unix.RTM_NEWLINK && body[0] == unix.AF_UNSPEC:
			l.known[binary.NativeEndian.Uint32(body[4:])] = true
		case typ == unix.RTM_DELLINK && body[0] == unix.AF_UNSPEC: // those of AF_BRIDGE say that it left the bridge
			delete(l.known, binary.NativeEndian.Uint32(body[4:]))
		}
		p = p[length:]
	}
	return done, nil
}
