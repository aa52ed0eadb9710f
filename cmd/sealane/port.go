package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/sealane/sealane/api"
	"github.com/sealane/sealane/endpoint"
)

func (c *cli) portCommand() *cobra.Command {
	return &cobra.Command{
		Use: "port SANDBOX [PORT[/PROTO]]", Short: "Show where a sandbox's ports are published", Args: between(1, 2),
		ValidArgsFunction: c.completeSandboxes,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, d, done := c.daemon(cmd)
			defer done()
			s, err := d.Sandbox(ctx, args[0])
			if err != nil {
				return err
			}
			if len(args) == 1 {
				return c.printLines(portLines(s.Ports))
			}
			key := args[1]
			if !strings.Contains(key, "/") {
				key += "/tcp"
			}
			at := s.Ports[strings.ToLower(key)]
			if len(at) == 0 {
				return fmt.Errorf("port: %s: %s: %w: it is not published", s.Name, key, errdefs.ErrNotFound)
			}
			var lines []string
			for _, h := range at {
				lines = append(lines, net.JoinHostPort(h.HostIP, h.HostPort))
			}
			return c.printLines(lines)
		},
	}
}

func (c *cli) printLines(lines []string) error {
	for _, line := range lines {
		if _, err := fmt.Fprintln(c.out, line); err != nil {
			return err
		}
	}
	return nil
}

// portLines are published ports as in 80/tcp -> 0.0.0.0:8080, sorted.
func portLines(ports map[string][]api.HostPort) []string {
	keys := slices.SortedFunc(maps.Keys(ports), func(a, b string) int {
		portA, protoA := splitPort(a)
		portB, protoB := splitPort(b)
		return cmp.Or(cmp.Compare(portA, portB), cmp.Compare(protoA, protoB))
	})
	var lines []string
	for _, key := range keys {
		for _, h := range ports[key] {
			lines = append(lines, key+" -> "+net.JoinHostPort(h.HostIP, h.HostPort))
		}
	}
	return lines
}

func splitPort(key string) (int, string) {
	port, proto, _ := strings.Cut(key, "/")
	n, _ := strconv.Atoi(port) // the daemon's
	return n, proto
}

func (c *cli) publishCommand() *cobra.Command {
	return &cobra.Command{
		Use: "publish SANDBOX SPEC", Short: "Publish a port of a sandbox that runs", Args: between(2, 2), ValidArgsFunction: c.completeSandboxes,
		Long: "Publish a port of a sandbox that runs, and show where: [IP:][HOST[-HOST]:]CTR[-CTR][/tcp|udp|sctp].",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.changePort(cmd, args, (*api.Client).Publish)
		},
	}
}

func (c *cli) unpublishCommand() *cobra.Command {
	return &cobra.Command{
		Use: "unpublish SANDBOX SPEC", Short: "End the publication of a port", Args: between(2, 2), ValidArgsFunction: c.completeSandboxes,
		Long: "End the publication of a port. What SPEC leaves out matches anything: 80 ends all that leads to 80/tcp.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.changePort(cmd, args, (*api.Client).Unpublish)
		},
	}
}

// changePort shows what is left of the container ports that are named.
func (c *cli) changePort(cmd *cobra.Command, args []string,
	change func(*api.Client, context.Context, string, api.PortChange) (api.Published, error)) error {
	b, err := endpoint.ParsePort(args[1])
	if err != nil {
		return err
	}
	ctx, d, done := c.daemon(cmd)
	defer done()
	now, err := change(d, ctx, args[0], api.PortChange{Port: args[1]})
	if err != nil {
		return err
	}
	maps.DeleteFunc(now.Ports, func(key string, _ []api.HostPort) bool {
		port, proto := splitPort(key)
		return proto != b.Proto.String() || !b.Ports.Contains(uint16(port))
	})
	return c.printLines(portLines(now.Ports))
}
