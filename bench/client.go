package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/nsthread"
)

// Who asks for names is a process of its own, as in life: beside a server in one process, Go's scheduler would have both take turns.

const askVerb, floodVerb = "ask", "flood"

// client is a process that asks at a socket which it gets as descriptor 3.
func (n *names) client(space string, at *unix.SockaddrInet4, args ...string) (*exec.Cmd, error) {
	fd := -1
	err := nsthread.Do(space, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Connect(fd, at)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	c := exec.Command("/proc/self/exe", args...)
	c.ExtraFiles = []*os.File{os.NewFile(uintptr(fd), "socket")}
	c.Stderr = os.Stderr
	c.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return c, nil
}

// Ask is the load, from one thread and one socket.
func (n *names) Ask(questions, outstanding int) (each []time.Duration, total time.Duration, err error) {
	c, err := n.client(n.space, n.sockaddr(), askVerb, strconv.Itoa(questions), strconv.Itoa(outstanding))
	if err != nil {
		return nil, 0, err
	}
	defer c.ExtraFiles[0].Close()
	out, err := c.Output()
	if err != nil {
		return nil, 0, err
	}
	var r result
	err = json.Unmarshal(out, &r)
	return r.Each, r.Total, err
}

// serveClient is the whole life of a process that asks.
func serveClient(args []string) error {
	question, err := ask().Pack()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if args[0] == floodVerb {
		return flood(3, question)
	}
	questions, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	outstanding, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	r, err := askMany(3, question, questions, outstanding)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func askMany(fd int, question []byte, questions, outstanding int) (r result, err error) {
	// A lost datagram must not hang us; none is expected.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return r, err
	}
	buf := make([]byte, 512)
	r.Each = make([]time.Duration, 0, questions)
	began := time.Now()
	for sent, got := 0, 0; got < questions; {
		last := time.Now()
		for ; sent < questions && sent < got+outstanding; sent++ {
			if _, err := unix.Write(fd, question); err != nil {
				return r, fmt.Errorf("ask: %w", err)
			}
		}
		switch _, err := unix.Read(fd, buf); {
		case errors.Is(err, unix.EINTR): // with a time-out the kernel does not go on by itself after a signal of Go's scheduler
			continue
		case err != nil:
			return r, fmt.Errorf("%d of %d answered: %w", got, questions, err)
		}
		if got++; outstanding == 1 {
			r.Each = append(r.Each, time.Since(last))
		}
	}
	r.Total = time.Since(began)
	return r, nil
}

// flood asks without waiting for answers until it is killed, or has asked for longer than any row takes.
func flood(fd int, question []byte) error {
	for began := time.Now(); time.Since(began) < time.Minute; {
		unix.Write(fd, question)
	}
	return nil
}

// Flooded is Ask, one outstanding, while another sandbox asks without waiting for answers.
func (n *names) Flooded(questions int) (each []time.Duration, err error) {
	space, at := n.space, n.sockaddr()
	if n.space == "" {
		at.Addr = beside // of a bare loop
	} else {
		const id = "f100d0"
		ns, _, err := n.rooms.give(id)
		if err != nil {
			return nil, err
		}
		defer n.rooms.takeBack(ns, id)
		space = ns.Key()
	}
	c, err := n.client(space, at, floodVerb)
	if err != nil {
		return nil, err
	}
	defer c.ExtraFiles[0].Close()
	if err := c.Start(); err != nil {
		return nil, err
	}
	defer func() {
		c.Process.Kill()
		c.Wait()
	}()
	if _, _, err := n.Ask(questions/10, 1); err != nil { // until it floods
		return nil, err
	}
	each, _, err = n.Ask(questions, 1)
	return each, err
}
