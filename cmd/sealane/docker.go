package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sealane/sealane/docker"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/remote"
)

// plugins are the names under which Docker engines find us, with the drivers that their networks have.
func plugins() map[string]string {
	return map[string]string{"sealane": "bridge", "sealane-overlay": "overlay"}
}

// find looks for other people's plugins; our own, seen from an engine, are not ours to use.
func (d *daemon) find(where *remote.Plugins) func(context.Context, string) (netdriver.Driver, ipam.Driver, error) {
	return func(ctx context.Context, name string) (netdriver.Driver, ipam.Driver, error) {
		if _, ours := plugins()[name]; ours {
			return nil, nil, nil
		}
		return where.Find(ctx, name)
	}
}

// serveDocker is a plugin of the engine on this host, or of the one that DOCKER_HOST names.
func (d *daemon) serveDocker(ctx context.Context) error {
	if !d.docker {
		return nil
	}
	engine, err := docker.NewEngine(os.Getenv("DOCKER_HOST"))
	if err != nil {
		return err
	}
	for name, driver := range plugins() {
		l, err := d.pluginSocket(name)
		if err != nil {
			return err
		}
		p := docker.New(docker.Options{Name: name, Driver: driver, Shared: driver == "overlay", Host: d.host, Cluster: d.options.Cluster, Controller: d.controller, Run: d.options.Run, Root: d.options.Root,
			Engine: engine, Every: d.ask, Logger: d.log})
		d.servePlugin(ctx, l, p)
	}
	return nil
}

// pluginSocket makes the socket where an engine looks for it, unless systemd opened it before.
func (d *daemon) pluginSocket(name string) (net.Listener, error) {
	for _, f := range d.given {
		if f.Name() == name {
			l, err := net.FileListener(f)
			return l, errors.Join(err, f.Close())
		}
	}
	dir := d.plugins
	if dir == "" {
		dir = remote.Sockets
	}
	group, err := groupID(d.group)
	if err != nil {
		return nil, err
	}
	return remote.Listen(filepath.Join(dir, name+".sock"), group)
}

// servePlugin answers until the daemon closes, and then lets verbs finish. A plugin for shared networks without a store to share them by only
// says so, to engines that find its socket: nothing of theirs is judged by what this daemon knows.
func (d *daemon) servePlugin(ctx context.Context, l net.Listener, p *docker.Plugin) {
	const grace = 10 * time.Second
	server := remote.NewServer(p.Network(), p.Addresses(), func(verb string, err error) {
		d.log.Warn("an engine's wish is refused", "verb", verb, "error", err)
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	var asking sync.WaitGroup // the engine
	go func() { ended <- server.Serve(l) }()
	alone := p.Shared && p.Cluster == nil
	if !alone {
		asking.Go(func() { p.Sweep(ctx) })
	}
	if d.names && !alone {
		asking.Go(func() { p.FollowNames(ctx) })
	}
	d.closing(func() error {
		stop()
		err := l.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			d.log.Warn("a plugin's socket was not served any more", "error", err)
		}
		asking.Wait()
		patience, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		return errors.Join(err, server.Close(patience))
	})
}
