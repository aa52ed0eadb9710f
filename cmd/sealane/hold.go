package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/sealane/sealane/internal/holder"
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
func parseListener(text string) (at netip.AddrPort, networks []string, err error) {
	address, names, named := strings.Cut(text, "=")
	if at, err = netip.ParseAddrPort(address); err != nil {
		return at, nil, fmt.Errorf("%w: want ADDRESS:PORT or ADDRESS:PORT=NETWORK,NETWORK", errdefs.ErrInvalidArgument)
	}
	if named {
		networks = strings.Split(names, ",")
	}
	for _, n := range networks {
		if n == "" {
			return at, nil, fmt.Errorf("%w: a network without a name", errdefs.ErrInvalidArgument)
		}
	}
	return at, networks, nil
}
