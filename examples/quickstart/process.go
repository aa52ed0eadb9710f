package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// startIn starts a process in the network namespace whose file is path.
//
// A new process has the namespaces of the thread that starts it. So a thread of ours goes there and starts it; it is not let back among
// the others, because whatever goroutine ran on it next would be in the wrong network.
func startIn(path string, cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		started <- func() error {
			ns, err := os.Open(path)
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", path, err)
			}
			return cmd.Start()
		}()
	}()
	return <-started
}

// self is this binary as another program.
func self(ctx context.Context, args ...string) (*exec.Cmd, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stderr = os.Stderr
	return cmd, nil
}

// runIn runs a part of this binary in a namespace to its end, and returns what it said.
func runIn(ctx context.Context, path string, args ...string) (string, error) {
	cmd, err := self(ctx, args...)
	if err != nil {
		return "", err
	}
	var said bytes.Buffer
	cmd.Stdout = &said
	if err := startIn(path, cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", errors.Join(ctx.Err(), err)
	}
	return strings.TrimSpace(said.String()), nil
}

// server is a process that serves as long as its standard input is open: it cannot outlive us.
type server struct {
	cmd   *exec.Cmd
	input io.Closer
}

// serveIn starts the server in a namespace and returns when it listens.
func serveIn(ctx context.Context, path, name string) (*server, error) {
	cmd, err := self(ctx, "serve", name)
	if err != nil {
		return nil, err
	}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := startIn(path, cmd); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, input: input}
	if _, err := output.Read(make([]byte, 1)); err != nil { // it writes when it listens
		return nil, errors.Join(fmt.Errorf("the server in %s did not come up: %w", name, err), s.stop())
	}
	return s, nil
}

// stop ends the server and waits for its end. How it ended does not matter: Ctrl-C reaches it as well as us.
func (s *server) stop() error {
	if err := s.input.Close(); err != nil {
		return err
	}
	err := s.cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
