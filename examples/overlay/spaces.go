package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/nshost"
	"github.com/sealane/sealane/internal/nsthread"
)

// spaces is an underlay of network namespaces, one a host, with a wire from the first to the second. They have no names: nothing of them is
// left when nobody is in them any more.
type spaces struct {
	programs string // directory of ours
	dir      string
	hosts    []*host
	made     map[*host]*nshost.Host
	started  []*exec.Cmd
}

func newSpaces(o options) (*spaces, error) {
	dir, err := os.MkdirTemp("", "overlay-demo-")
	return &spaces{programs: o.programs, dir: dir, made: make(map[*host]*nshost.Host)}, err
}

func (s *spaces) String() string {
	return "network namespaces: nothing in your machine's own network changes"
}

func (s *spaces) open(_ context.Context, hosts []*host) error {
	for _, h := range hosts {
		space, err := nshost.New()
		if err != nil {
			return err
		}
		s.hosts, s.made[h] = append(s.hosts, h), space
		h.dir = filepath.Join(s.dir, h.name)
		if err := os.Mkdir(h.dir, 0o700); err != nil {
			return err
		}
	}
	if err := s.made[hosts[0]].Connect("eth0", s.made[hosts[1]], "eth0"); err != nil {
		return err
	}
	for _, h := range hosts {
		if err := s.made[h].Raise("eth0", netip.MustParsePrefix(h.address+"/24")); err != nil {
			return err
		}
	}
	return nil
}

func (s *spaces) program(name string) string { return programPath(s.programs, name) }

// programPath is one of the directory's, or else of the PATH.
func programPath(dir, name string) string {
	if own, err := filepath.Abs(filepath.Join(dir, name)); err == nil {
		if _, err := os.Stat(own); err == nil {
			return own
		}
	}
	return name
}

func (s *spaces) run(ctx context.Context, h *host, program string, args ...string) (string, error) {
	return output(exec.CommandContext(ctx, "nsenter", s.inside(h, program, args)...))
}

func (s *spaces) inside(h *host, program string, args []string) []string {
	return append([]string{"--net=" + s.made[h].Path(), "--", program}, args...)
}

func (s *spaces) start(_ context.Context, h *host, name, program string, args ...string) (kill func() error, err error) {
	out, err := os.Create(filepath.Join(h.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := exec.Command("nsenter", s.inside(h, program, args)...)
	p.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // a Ctrl-C is for us, who then end it
	p.Stdout, p.Stderr = out, out
	if err := p.Start(); err != nil {
		return nil, err
	}
	s.started = append(s.started, p)
	return func() error {
		_ = p.Process.Kill()
		_ = p.Wait() // as it was told to
		return nil
	}, nil
}

// watch listens where the wire ends.
func (s *spaces) watch(ctx context.Context) (<-chan packet, error) {
	var socket int
	err := nsthread.Do(s.made[s.hosts[1]].Path(), func() (err error) {
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on the wire: %w", err)
	}
	wait := unix.NsecToTimeval(int64(time.Second))
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return nil, errors.Join(err, unix.Close(socket))
	}
	seen := make(chan packet, 1)
	go func() {
		defer unix.Close(socket)
		seen <- firstOfTunnel(ctx, socket)
	}()
	return seen, nil
}

// firstOfTunnel reads until one comes.
func firstOfTunnel(ctx context.Context, socket int) packet {
	frame := make([]byte, 2048)
	for began := time.Now(); ctx.Err() == nil && time.Since(began) < patience; {
		n, _, err := unix.Recvfrom(socket, frame, 0)
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return packet{err: err}
		}
		if p := (packet{frame: frame[:max(n, 0)]}); p.isTunnel() {
			return p
		}
	}
	return packet{err: errNoPacket}
}

// close removes containers while there are daemons to do it, ends what runs, the last first, and removes the hosts.
func (s *spaces) close(ctx context.Context) error {
	for _, h := range s.hosts {
		sealane := []string{s.program("sealane"), "--run", h.run(), "sandbox"}
		made, _ := s.run(ctx, h, sealane[0], append(sealane[1:], "ls", "-q")...) // none without a daemon
		for id := range strings.FieldsSeq(made) {
			_, _ = s.run(ctx, h, sealane[0], append(sealane[1:], "rm", id)...)
		}
	}
	for _, p := range slices.Backward(s.started) {
		_ = p.Process.Signal(os.Interrupt)
		_ = p.Wait() // as it was asked to
	}
	errs := []error{os.RemoveAll(s.dir)}
	for _, h := range s.made {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}

// output runs a program and gives what it prints, also as part of the error.
func output(c *exec.Cmd) (string, error) {
	out, err := c.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), err, text)
	}
	return text, err
}
