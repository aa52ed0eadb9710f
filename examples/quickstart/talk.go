package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// step does one thing and prints what came of it and how long it took.
func step(what string, do func() (string, error)) error {
	begun := time.Now()
	result, err := do()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	fmt.Printf("  %-16s %-66s %8.1f ms\n", what, result, time.Since(begun).Seconds()*1000)
	return nil
}

// String is a container's addresses, and where its ports are published.
func (c container) String() string {
	var words []string
	for _, p := range c.addresses {
		words = append(words, p.Addr().String())
	}
	text := strings.Join(words, ", ")
	for _, b := range c.ports {
		text += fmt.Sprintf(", port %s at the host's %s", b.Ports, b.HostPorts)
	}
	return text
}

func (s *show) startServer(ctx context.Context, in container) error {
	return step(in.name+" serves", func() (string, error) {
		var err error
		if s.server, err = serveIn(ctx, in.path, in.name); err != nil {
			return "", err
		}
		return fmt.Sprintf("HTTP at port 80, process %d", s.server.cmd.Process.Pid), nil
	})
}

// talk has each reach the server in every way there is.
func (s *show) talk(ctx context.Context, web, app container) error {
	for _, p := range web.addresses {
		err := step(app.name+" pings", func() (string, error) {
			took, err := runIn(ctx, app.path, "ping", p.Addr().String())
			return fmt.Sprintf("%s, which answers after %s", p.Addr(), took), err
		})
		if err != nil {
			return err
		}
	}
	for _, p := range web.addresses {
		at := net.JoinHostPort(p.Addr().String(), "80")
		err := step(app.name+" fetches", func() (string, error) {
			page, err := runIn(ctx, app.path, "fetch", "http://"+at)
			return fmt.Sprintf("%s: %q", at, page), err
		})
		if err != nil {
			return err
		}
	}
	for _, host := range s.addressesOfHost() {
		at := net.JoinHostPort(host.String(), strconv.Itoa(int(web.ports[0].HostPorts.First)))
		err := step("host fetches", func() (string, error) {
			page, err := fetch(ctx, "http://"+at)
			return fmt.Sprintf("%s: %q", at, page), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// addressesOfHost are those at which the host asks itself for the published port. Where bridged packets pass the firewall the kernel
// cannot translate ::1: the host has another address then, the network's gateway.
func (s *show) addressesOfHost() []netip.Addr {
	addresses := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	setting, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-ip6tables")
	filtered := err == nil && strings.TrimSpace(string(setting)) != "0"
	switch {
	case s.gateway.IsValid() && filtered:
		addresses = append(addresses, s.gateway)
	case s.gateway.IsValid():
		addresses = append(addresses, netip.IPv6Loopback())
	}
	return addresses
}
