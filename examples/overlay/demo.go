package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// demo is the whole story, told to out. What it makes is removed again, also when it fails or ctx ends.
func demo(ctx context.Context, out io.Writer, under underlay, store string) (err error) {
	const limit = 10 * time.Minute // many times what it takes
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the demo is not over after %v", limit))
	defer cancel()
	l := newLab(out, under, store)
	fmt.Fprintf(out, "Two hosts, a container on each, one network. The hosts are %v.\n\n", under)
	defer func() {
		err = errors.Join(err, l.step("clean up", func() (string, error) {
			return "daemons, store, hosts, files: nothing is left", under.close(context.WithoutCancel(ctx))
		}))
	}()
	for _, act := range []func(context.Context, *lab) error{open, connect, talk, withoutStore} {
		if err := act(ctx, l); err != nil {
			return errors.Join(err, context.Cause(ctx)) // why, if it was broken off
		}
	}
	return nil
}

// open starts the store and a daemon on each host.
func open(ctx context.Context, l *lab) error {
	err := l.step("hosts", func() (string, error) { return l.addresses(), l.under.open(ctx, l.hosts) })
	if err != nil {
		return err
	}
	if err := l.step(l.store, func() (string, error) { return l.url(), l.startStore(ctx) }); err != nil {
		return err
	}
	for _, h := range l.hosts {
		err := l.step("host "+h.name, func() (string, error) {
			return fmt.Sprintf("sealane serve --store %s --advertise eth0", l.url()), l.startDaemon(ctx, h)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// connect makes the network on one host and a container on each.
func connect(ctx context.Context, l *lab) error {
	north, south := l.hosts[0], l.hosts[1]
	for _, command := range []struct {
		on   *host
		args []string
	}{
		{north, []string{"network", "create", "--driver", "overlay", "blue"}},
		{north, []string{"sandbox", "create", "--network", "blue", "app"}},
		{south, []string{"sandbox", "create", "--network", "blue", "web"}}, // which finds the network by its name
	} {
		err := l.step(command.on.name+"$ sealane "+strings.Join(command.args, " "), func() (string, error) {
			id, err := l.sealane(ctx, command.on, command.args...)
			return id[:min(12, len(id))], err
		})
		if err != nil {
			return err
		}
	}
	return l.startServer(ctx, south, "web")
}

// talk shows that the containers reach each other by name, and what that is on the wire.
func talk(ctx context.Context, l *lab) error {
	seen, err := l.under.watch(ctx)
	if err != nil {
		return err
	}
	if err := ping(ctx, l, "ping web from app", "3"); err != nil {
		return err
	}
	err = l.step("one packet on the wire", func() (string, error) {
		select {
		case p := <-seen:
			return p.describe()
		case <-ctx.Done():
			return "", errors.Join(errNoPacket, ctx.Err())
		}
	})
	if err != nil {
		return err
	}
	return l.step("http://web from app", func() (string, error) { return l.fetch(ctx) })
}

// withoutStore shows that packets, names and new containers need no store.
func withoutStore(ctx context.Context, l *lab) error {
	if err := l.step("stop "+l.store, func() (string, error) { return "no server is left", l.stopStore() }); err != nil {
		return err
	}
	if err := ping(ctx, l, "ping web from app", "50"); err != nil {
		return err
	}
	if err := l.step("http://web from app", func() (string, error) { return l.fetch(ctx) }); err != nil {
		return err
	}
	return l.step("north$ sealane sandbox create --network blue late", func() (string, error) {
		id, err := l.sealane(ctx, l.hosts[0], "sandbox", "create", "--network", "blue", "late")
		return id[:min(12, len(id))] + ", told to the others when the store is back", err
	})
}

// ping sends some packets a second and wants each answered.
func ping(ctx context.Context, l *lab, what, count string) error {
	return l.step(what, func() (string, error) {
		out, err := l.sealane(ctx, l.hosts[0], "sandbox", "exec", "app", "--", "ping", "-c", count, "-i", "0.02", "-W", "20", "web")
		m := regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`).FindStringSubmatch(out)
		if m == nil || m[1] != m[2] {
			return "", errors.Join(fmt.Errorf("not all is answered: %s", out), err)
		}
		return m[2] + " of " + m[1] + " answered", err
	})
}

// step does one thing and prints what came of it.
func (l *lab) step(what string, do func() (string, error)) error {
	result, err := do()
	if err != nil {
		fmt.Fprintf(l.out, "  ✗ %s\n", what)
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Fprintf(l.out, "  ✓ %-52s %s\n", what, result)
	return nil
}
