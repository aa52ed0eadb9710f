package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/sealane/sealane/internal/holder"
	"github.com/sealane/sealane/resolver/dns"
)

// newHolder is about the process that keeps the sockets of a daemon's resolver while the daemon is away.
func newHolder(run string) *holder.Process {
	path := filepath.Join(run, "resolver.sock")
	return holder.NewProcess(path, "/proc/self/exe", "hold", path)
}

// holdCommand is that process. The daemon starts it.
func (c *cli) holdCommand() *cobra.Command {
	return &cobra.Command{
		Use: "hold SOCKET", Short: "Keep a daemon's sockets", Hidden: true, Args: between(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			const listener = 3 // inherited
			if err := holder.Serve(listener, args[0]); err != nil {
				return fmt.Errorf("hold: %w", err)
			}
			return nil
		},
	}
}

// parseListener reads ADDRESS:PORT or ADDRESS:PORT=NETWORK,NETWORK.
func parseListener(text string) (l dns.Listener, err error) {
	address, names, named := strings.Cut(text, "=")
	if l.At, err = netip.ParseAddrPort(address); err != nil {
		return l, fmt.Errorf("%w: want ADDRESS:PORT or ADDRESS:PORT=NETWORK,NETWORK", errdefs.ErrInvalidArgument)
	}
	if named {
		l.Networks = strings.Split(names, ",")
	}
	if slices.Contains(l.Networks, "") {
		return l, fmt.Errorf("%w: a network without a name", errdefs.ErrInvalidArgument)
	}
	return l, l.Check()
}
