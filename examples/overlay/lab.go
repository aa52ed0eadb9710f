package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/nsthread"
)

// wire is the namespace that stands for the network between the hosts; the store is there too.
const (
	wire         = "overlay-demo-wire"
	storeAddress = "192.0.2.100"
)

// lab is what the demo runs in: namespaces, processes, a directory.
type lab struct {
	o         options
	dir       string
	hosts     []*host
	store     *exec.Cmd
	processes []*exec.Cmd
}

// host is a namespace with a daemon.
type host struct{ name, space, address string }

func newLab(o options) (*lab, error) {
	dir, err := os.MkdirTemp("", "overlay-demo-")
	if err != nil {
		return nil, err
	}
	return &lab{o: o, dir: dir, hosts: []*host{
		{"north", "overlay-demo-north", "192.0.2.1"}, {"south", "overlay-demo-south", "192.0.2.2"},
	}}, nil
}

func (l *lab) addresses() (all []string) {
	for _, h := range l.hosts {
		all = append(all, h.name+" "+h.address)
	}
	return append(all, l.o.store+" "+storeAddress)
}

// wire connects the hosts and the store by a bridge.
func (l *lab) wire(ctx context.Context) error {
	l.removeSpaces(ctx) // of a demo that was killed
	lines := []string{
		"netns add " + wire,
		"-n " + wire + " link add wire type bridge", "-n " + wire + " link set wire up",
		"-n " + wire + " link set lo up", "-n " + wire + " addr add " + storeAddress + "/24 dev wire",
	}
	for _, h := range l.hosts {
		lines = append(lines, "netns add "+h.space,
			"link add "+h.name+" netns "+wire+" type veth peer name eth0 netns "+h.space,
			"-n "+wire+" link set "+h.name+" master wire up", "-n "+h.space+" link set lo up", "-n "+h.space+" link set eth0 up",
			"-n "+h.space+" addr add "+h.address+"/24 dev eth0")
	}
	for _, line := range lines {
		if err := run(ctx, "ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) removeSpaces(ctx context.Context) error {
	var errs []error
	for _, space := range append([]string{wire}, l.hosts[0].space, l.hosts[1].space) {
		if _, err := os.Stat(spaceFile(space)); err == nil {
			errs = append(errs, run(ctx, "ip", "netns", "delete", space))
		}
	}
	return errors.Join(errs...)
}

func spaceFile(space string) string { return "/run/netns/" + space }

func (l *lab) url() string {
	if l.o.store == "etcd" {
		return "etcd://" + storeAddress + ":2379"
	}
	return "consul://" + storeAddress + ":8500"
}

// startStore starts one server and waits until it answers.
func (l *lab) startStore(ctx context.Context) error {
	data, args := filepath.Join(l.dir, "store"), []string(nil)
	program, port := l.program(l.o.store), "8500"
	if l.o.store == "etcd" {
		port = "2379"
		client := "http://" + storeAddress + ":" + port
		args = []string{"--data-dir", data, "--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", "http://" + storeAddress + ":2380"}
	} else {
		args = []string{"agent", "-server", "-bootstrap-expect=1", "-data-dir", data, "-bind", storeAddress, "-client", storeAddress}
	}
	var err error
	if l.store, err = l.start(wire, "store", program, args...); err != nil {
		return err
	}
	return until(ctx, "the store answers", func() error {
		return nsthread.Do(spaceFile(wire), func() error {
			c, err := net.DialTimeout("tcp", storeAddress+":"+port, time.Second)
			if err != nil {
				return err
			}
			return c.Close()
		})
	})
}

// program is one of the directory's, else of the PATH.
func (l *lab) program(name string) string {
	if own, err := filepath.Abs(filepath.Join(l.o.programs, name)); err == nil {
		if _, err := os.Stat(own); err == nil {
			return own
		}
	}
	return name
}

func (l *lab) stopStore() error {
	_ = l.store.Process.Kill()
	_ = l.store.Wait() // it was killed
	l.processes = slices.DeleteFunc(l.processes, func(p *exec.Cmd) bool { return p == l.store })
	return nil
}

// startDaemon starts a host's daemon and waits until it is ready.
func (l *lab) startDaemon(ctx context.Context, h *host) error {
	if _, err := l.start(h.space, h.name, l.program("sealane"), "serve", "--run", l.run(h), "--root", filepath.Join(l.dir, h.name+"-root"),
		"--store", l.url(), "--advertise", "eth0"); err != nil {
		return err
	}
	return until(ctx, h.name+" sees two hosts", func() error {
		out, err := l.sealane(ctx, h, "host", "ls", "-q")
		if err == nil && h != l.hosts[0] && len(strings.Fields(out)) != len(l.hosts) {
			err = fmt.Errorf("it sees %s", out)
		}
		return err
	})
}

func (l *lab) run(h *host) string { return filepath.Join(l.dir, h.name) }

// start starts a program in a namespace; its output goes to a file that is shown if something fails.
func (l *lab) start(space, name, program string, args ...string) (*exec.Cmd, error) {
	out, err := os.Create(filepath.Join(l.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := exec.Command("nsenter", append([]string{"--net=" + spaceFile(space), "--", program}, args...)...)
	p.Stdout, p.Stderr = out, out
	if err := p.Start(); err != nil {
		return nil, err
	}
	l.processes = append(l.processes, p)
	return p, nil
}

// sealane runs the command line against a host's daemon.
func (l *lab) sealane(ctx context.Context, h *host, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, l.program("sealane"), append([]string{"--run", l.run(h)}, args...)...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return text, err
}

// startServer runs this program as a web server in a container.
func (l *lab) startServer(h *host, container string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p := exec.Command(l.program("sealane"), "--run", l.run(h), "sandbox", "exec", container, "--", self, "serve")
	if err := p.Start(); err != nil {
		return err
	}
	l.processes = append(l.processes, p)
	return nil
}

// fetch runs this program as a web client in the other container.
func (l *lab) fetch(ctx context.Context) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return l.sealane(ctx, l.hosts[0], "sandbox", "exec", "app", "--", self, "fetch", "http://web/")
}

// until repeats a check that the world gives no event for.
func until(ctx context.Context, what string, check func() error) error {
	const patience, pause = 30 * time.Second, 100 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not in %v: %s: %w", patience, what, err)
		case <-time.After(pause):
		}
	}
}

// clean ends what runs, the last first, and removes what is left.
func (l *lab) clean(ctx context.Context) error {
	var errs []error
	for _, h := range l.hosts {
		for _, name := range []string{"app", "web", "late"} {
			_, _ = l.sealane(ctx, h, "sandbox", "rm", name) // those that were made
		}
	}
	for _, p := range slices.Backward(l.processes) {
		_ = p.Process.Signal(os.Interrupt)
		_ = p.Wait() // as it was asked to
	}
	errs = append(errs, l.removeSpaces(ctx), os.RemoveAll(l.dir))
	return errors.Join(errs...)
}

func run(ctx context.Context, program string, args ...string) error {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, out)
	}
	return nil
}
