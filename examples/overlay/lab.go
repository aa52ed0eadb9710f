package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// lab is what the demo is played on: two hosts, what runs on them, and what they are made of.
type lab struct {
	out   io.Writer // is told what happens
	under underlay
	store string // consul or etcd
	hosts []*host

	stopStore func() error
}

// host is one with a daemon.
type host struct {
	name, address string
	dir           string // there, for all of the demo's files
}

// underlay is what hosts and the wire between them are made of: namespaces of this machine (spaces.go) or machines of their own
// (machines.go).
type underlay interface {
	fmt.Stringer // what hosts are, in a sentence
	// open makes the hosts and gives them their addresses and directories.
	open(context.Context, []*host) error
	// program is the path, on every host, of a program that the demo uses.
	program(name string) string
	// run runs a program on a host and gives what it prints.
	run(ctx context.Context, h *host, program string, args ...string) (string, error)
	// start starts one that goes on, and gives what kills it. What it prints goes to a file of that name.
	start(ctx context.Context, h *host, name, program string, args ...string) (kill func() error, err error)
	// watch gives the first packet of a tunnel that is on the wire from now on.
	watch(context.Context) (<-chan packet, error)
	// close ends what was started and takes everything away.
	close(context.Context) error
}

func newLab(out io.Writer, under underlay, store string) *lab {
	return &lab{out: out, under: under, store: store, hosts: []*host{{name: "north", address: "192.0.2.1"}, {name: "south", address: "192.0.2.2"}}}
}

func (l *lab) addresses() string {
	var all []string
	for _, h := range l.hosts {
		all = append(all, h.name+" "+h.address)
	}
	return strings.Join(all, ", ")
}

// storeHost is where the store is: on the first host.
func (l *lab) storeHost() *host { return l.hosts[0] }

func (l *lab) storeAddress() string {
	if l.store == "etcd" {
		return l.storeHost().address + ":2379"
	}
	return l.storeHost().address + ":8500"
}

func (l *lab) url() string { return l.store + "://" + l.storeAddress() }

// startStore starts one server and waits until it answers.
func (l *lab) startStore(ctx context.Context) (err error) {
	h := l.storeHost()
	data, client, ready := filepath.Join(h.dir, "store"), "http://"+l.storeAddress(), "/v1/status/leader"
	args := []string{"agent", "-server", "-bootstrap-expect=1", "-data-dir", data, "-bind", h.address, "-client", h.address}
	if l.store == "etcd" {
		ready = "/health"
		args = []string{"--data-dir", data, "--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", "http://" + h.address + ":2380"}
	}
	if l.stopStore, err = l.under.start(ctx, h, "store", l.under.program(l.store), args...); err != nil {
		return err
	}
	_, err = l.under.run(ctx, h, l.under.program(self), "fetch", client+ready)
	return err
}

// startDaemon starts a host's daemon and waits until it is ready and sees the hosts before it.
func (l *lab) startDaemon(ctx context.Context, h *host) error {
	_, err := l.under.start(ctx, h, "sealane", l.under.program("sealane"), "serve", "--run", h.run(), "--root", filepath.Join(h.dir, "root"),
		"--store", l.url(), "--advertise", "eth0")
	if err != nil {
		return err
	}
	want := slices.Index(l.hosts, h) + 1
	return until(ctx, fmt.Sprintf("%s sees %d hosts", h.name, want), func() error {
		out, err := l.sealane(ctx, h, "host", "ls", "-q")
		if err == nil && len(strings.Fields(out)) != want {
			err = fmt.Errorf("it sees %s", out)
		}
		return err
	})
}

func (h *host) run() string { return filepath.Join(h.dir, "run") }

// sealane runs the command line against a host's daemon.
func (l *lab) sealane(ctx context.Context, h *host, args ...string) (string, error) {
	return l.under.run(ctx, h, l.under.program("sealane"), append([]string{"--run", h.run(), "--timeout", patience.String()}, args...)...)
}

// startServer runs this program as a web server in a container.
func (l *lab) startServer(ctx context.Context, h *host, container string) error {
	_, err := l.under.start(ctx, h, container, l.under.program("sealane"), "--run", h.run(), "sandbox", "exec", container, "--",
		l.under.program(self), "serve")
	return err
}

// fetch runs this program as a web client in the other container.
func (l *lab) fetch(ctx context.Context) (string, error) {
	return l.sealane(ctx, l.hosts[0], "sandbox", "exec", "app", "--", l.under.program(self), "fetch", "http://web/")
}

// patience is for one thing, on a slow and busy machine.
const patience = 4 * time.Minute

// until repeats a check that the world gives no event for.
func until(ctx context.Context, what string, check func() error) error {
	const pause = 100 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited until %s: %w: %w", what, context.Cause(ctx), err)
		case <-time.After(pause):
		}
	}
}
