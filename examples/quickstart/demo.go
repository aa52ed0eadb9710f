package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/drivers"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
)

// instance marks all that the demo makes, so that a sealane of the machine's own goes on beside it.
const instance = "sealane-quickstart"

// errInterrupted is Ctrl-C before the end.
var errInterrupted = errors.New("interrupted")

// show is a demo under way.
type show struct {
	ctl     *sealane.Controller
	network sealane.Network
	gateway netip.Addr // of the network, IPv6: an address of the host; zero on a machine without IPv6
	server  *server
	closers []func() error // what is closed and removed at the end, the last first
}

// container is a sandbox on the network.
type container struct {
	name, path string // of its namespace
	addresses  []netip.Prefix
	ports      []endpoint.PortBinding
}

// demo makes two containers and has them talk. What it has made is removed again, also when it fails or ctx ends.
func demo(ctx context.Context, o options) error {
	s := &show{}
	err := s.perform(ctx, o)
	if ctx.Err() != nil {
		fmt.Println() // behind the ^C of a terminal
	}
	if ctx.Err() != nil && err != nil {
		err = errInterrupted
	}
	return errors.Join(err, step("clean up", func() (string, error) {
		return "processes, containers, network, rules, files: nothing is left", s.clean(context.WithoutCancel(ctx))
	}))
}

func (s *show) perform(ctx context.Context, o options) error {
	port, err := endpoint.ParsePort(fmt.Sprintf("%d:80/tcp", o.port))
	if err != nil {
		return err
	}
	if err := s.open(ctx); err != nil {
		return err
	}
	if err := s.makeNetwork(ctx, "blue"); err != nil {
		return err
	}
	web, err := s.makeContainer(ctx, "web", port)
	if err != nil {
		return err
	}
	app, err := s.makeContainer(ctx, "app")
	if err != nil {
		return err
	}
	if err := s.startServer(ctx, web); err != nil {
		return err
	}
	if err := s.talk(ctx, web, app); err != nil {
		return err
	}
	if o.stay {
		fmt.Printf("\n  All stays until Ctrl-C. Another terminal can look around: sudo nsenter --net --target %d\n\n", os.Getpid())
		<-ctx.Done()
	}
	return nil
}

// open chooses the rooms and makes a Controller of them. A program that lives longer keeps its records in files: datastore/bolt.
func (s *show) open(ctx context.Context) error {
	dir, err := os.MkdirTemp("", instance+"-")
	if err != nil {
		return err
	}
	s.later(func() error { return os.RemoveAll(dir) })
	spaces, err := netns.New(netns.Options{Run: dir, Instance: instance})
	if err != nil {
		return err
	}
	s.later(spaces.Close)
	walls, err := nftables.New(nftables.Options{Instance: instance})
	if err != nil {
		return err
	}
	addresses, err := pool.New(pool.Options{HostID: instance})
	if err != nil {
		return err
	}
	s.ctl, err = sealane.New(ctx, sealane.Options{
		Instance: instance, Run: datastore.NewMemory(), Spaces: spaces, Firewalls: walls,
		Drivers: drivers.All(), IPAM: map[string]ipam.Driver{"default": addresses},
	})
	if err == nil {
		s.later(s.ctl.Close)
	}
	return err
}

func (s *show) makeNetwork(ctx context.Context, name string) error {
	return step("network "+name, func() (string, error) {
		_, err := os.Stat("/proc/sys/net/ipv6")
		if s.network, err = s.ctl.CreateNetwork(ctx, sealane.NetworkSpec{Name: name, IPv6: err == nil}); err != nil {
			return "", err
		}
		n, err := s.network.Info(ctx)
		var subnets []string
		for _, sub := range n.Subnets {
			subnets = append(subnets, sub.Pool.Subnet.String())
			if sub.Gateway.Addr().Is6() {
				s.gateway = sub.Gateway.Addr()
			}
		}
		return strings.Join(subnets, ", "), err
	})
}

// makeContainer makes a sandbox, with a namespace of its own, and puts it on the network.
func (s *show) makeContainer(ctx context.Context, name string, publish ...endpoint.PortBinding) (c container, err error) {
	return c, step("container "+name, func() (string, error) {
		sb, err := s.ctl.CreateSandbox(ctx, sandbox.Spec{Name: name})
		if err != nil {
			return "", err
		}
		ep, err := s.network.CreateEndpoint(ctx, endpoint.Spec{Name: name, For: sb.ID(), Publish: publish})
		if err != nil {
			return "", err
		}
		if err := ep.Join(ctx, sb); err != nil {
			return "", err
		}
		in, err := sb.Info(ctx)
		if err != nil {
			return "", err
		}
		at, err := ep.Info(ctx)
		c = container{name: name, path: in.Key, addresses: at.Addresses, ports: at.Ports}
		return c.String(), err
	})
}

// clean removes what there is, whatever was reached. An endpoint made for a sandbox goes with it.
func (s *show) clean(ctx context.Context) error {
	var errs []error
	if s.server != nil {
		errs = append(errs, s.server.stop())
	}
	if s.ctl != nil {
		for info, err := range s.ctl.Sandboxes(ctx) {
			if err == nil {
				var sb sandbox.Sandbox
				if sb, err = s.ctl.Sandbox(ctx, string(info.ID)); err == nil {
					err = sb.Delete(ctx)
				}
			}
			errs = append(errs, err)
		}
		for info, err := range s.ctl.Networks(ctx) {
			if err == nil {
				var n sealane.Network
				if n, err = s.ctl.Network(ctx, string(info.ID)); err == nil {
					err = n.Delete(ctx)
				}
			}
			errs = append(errs, err)
		}
	}
	for _, closer := range slices.Backward(s.closers) {
		errs = append(errs, closer())
	}
	return errors.Join(errs...)
}

func (s *show) later(closer func() error) { s.closers = append(s.closers, closer) }
