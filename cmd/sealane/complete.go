package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/api"
)

// soon is how long somebody waits who has pressed the tabulator key.
const soon = 2 * time.Second

// completeNetworks offers the names of networks.
func (c *cli) completeNetworks(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return c.offer(cmd, func(ctx context.Context, d *api.Client) (names []string, err error) {
		all, err := d.Networks(ctx, nil)
		for _, n := range all {
			names = append(names, n.Name)
		}
		return names, err
	})
}

// completeSandboxes offers the names of sandboxes.
func (c *cli) completeSandboxes(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return c.offer(cmd, func(ctx context.Context, d *api.Client) (names []string, err error) {
		all, err := d.Sandboxes(ctx, nil)
		for _, s := range all {
			names = append(names, s.Name)
		}
		return names, err
	})
}

// completeConnection offers networks first, then sandboxes.
func (c *cli) completeConnection(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return c.completeNetworks(cmd, args, begun)
	}
	return c.completeSandboxes(cmd, args, begun)
}

func (c *cli) offer(cmd *cobra.Command, names func(context.Context, *api.Client) ([]string, error)) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), soon)
	defer cancel()
	d := api.NewClient(c.socket())
	defer d.Close()
	all, err := names(ctx, d)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}
