package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// demo is the whole story. What it makes is removed again, also when it fails or ctx ends.
func demo(ctx context.Context, o options) (err error) {
	fmt.Printf("Two hosts, a container on each, one network. The hosts are network namespaces: nothing in your machine's own network changes.\n\n")
	l, err := newLab(o)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, step("clean up", func() (string, error) {
			return "daemons, store, namespaces, files: nothing is left", l.clean(context.WithoutCancel(ctx))
		}))
	}()
	for _, act := range []func(context.Context, *lab) error{open, connect, talk, withoutStore} {
		if err := act(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// open starts the store and a daemon on each host.
func open(ctx context.Context, l *lab) error {
	err := step("wire", func() (string, error) { return strings.Join(l.addresses(), ", "), l.wire(ctx) })
	if err != nil {
		return err
	}
	if err := step(l.o.store, func() (string, error) { return l.url(), l.startStore(ctx) }); err != nil {
		return err
	}
	for _, h := range l.hosts {
		err := step("host "+h.name, func() (string, error) {
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
		err := step(command.on.name+"$ sealane "+strings.Join(command.args, " "), func() (string, error) {
			id, err := l.sealane(ctx, command.on, command.args...)
			return id[:min(12, len(id))], err
		})
		if err != nil {
			return err
		}
	}
	return l.startServer(south, "web")
}

// talk shows that the containers reach each other by name, and what that is on the wire.
func talk(ctx context.Context, l *lab) error {
	seen, err := l.watchWire(ctx)
	if err != nil {
		return err
	}
	if err := ping(ctx, l, "ping web from app", "3"); err != nil {
		return err
	}
	if err := step("one packet on the wire", func() (string, error) { return (<-seen).describe() }); err != nil {
		return err
	}
	return step("http://web from app", func() (string, error) { return l.fetch(ctx) })
}

// withoutStore shows that packets, names and new containers need no store.
func withoutStore(ctx context.Context, l *lab) error {
	if err := step("stop "+l.o.store, func() (string, error) { return "no server is left", l.stopStore() }); err != nil {
		return err
	}
	if err := ping(ctx, l, "ping web from app", "50"); err != nil {
		return err
	}
	if err := step("http://web from app", func() (string, error) { return l.fetch(ctx) }); err != nil {
		return err
	}
	return step("north$ sealane sandbox create --network blue late", func() (string, error) {
		id, err := l.sealane(ctx, l.hosts[0], "sandbox", "create", "--network", "blue", "late")
		return id[:min(12, len(id))] + ", told to the others when the store is back", err
	})
}

// ping sends some packets a second and wants each answered.
func ping(ctx context.Context, l *lab, what, count string) error {
	return step(what, func() (string, error) {
		out, err := l.sealane(ctx, l.hosts[0], "sandbox", "exec", "app", "--", "ping", "-c", count, "-i", "0.02", "-W", "2", "web")
		m := regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`).FindStringSubmatch(out)
		if m == nil || m[1] != m[2] {
			return "", errors.Join(fmt.Errorf("not all is answered: %s", out), err)
		}
		return m[2] + " of " + m[1] + " answered", err
	})
}

// step does one thing and prints what came of it.
func step(what string, do func() (string, error)) error {
	result, err := do()
	if err != nil {
		fmt.Fprintf(os.Stdout, "  ✗ %s\n", what)
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Fprintf(os.Stdout, "  ✓ %-52s %s\n", what, result)
	return nil
}
