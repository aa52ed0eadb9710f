package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// listen makes the socket in the place of one that a daemon that was killed left: nobody else can be on it, since the directory is ours.
func (d *daemon) listen(ctx context.Context) error {
	path := filepath.Join(d.run, "api.sock")
	const longest = 107
	if len(path) > longest {
		return fmt.Errorf("%s: %w: a socket's path has at most %d bytes", path, errdefs.ErrInvalidArgument, longest)
	}
	group, err := groupID(d.group)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before := unix.Umask(0o177)
	d.listener, err = new(net.ListenConfig).Listen(ctx, "unix", path)
	unix.Umask(before)
	if err != nil {
		return err
	}
	d.closing(func() error {
		if err := d.listener.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	if d.group == "" {
		return nil
	}
	if err := os.Chown(path, 0, group); err != nil {
		return err
	}
	return os.Chmod(path, 0o660)
}

// groupID finds a group by name or number.
func groupID(name string) (int, error) {
	if id, err := strconv.ParseUint(name, 10, 31); err == nil || name == "" {
		return int(id), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("--group %.80s: %w: there is no such group", name, errdefs.ErrNotFound)
	}
	return strconv.Atoi(g.Gid)
}

// answer serves until ctx ends, and then lets calls finish.
func (d *daemon) answer(ctx context.Context) error {
	const header, idle, grace = 10 * time.Second, 2 * time.Minute, 10 * time.Second
	web := &http.Server{Handler: d.server, ReadHeaderTimeout: header, IdleTimeout: idle, ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelWarn)}
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(d.listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if err := notify("STOPPING=1"); err != nil {
		d.log.Warn("the service manager is not told that we stop", "error", err)
	}
	d.server.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := web.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("calls under way are cut short: %w", err), web.Close())
	}
	return nil
}

// notify tells the service manager, where there is one: sd_notify(3).
func notify(state string) error {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	c, err := net.Dial("unixgram", socket) // a leading @ is an abstract name
	if err != nil {
		return err
	}
	_, err = c.Write([]byte(state))
	return errors.Join(err, c.Close())
}
