package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/api"
)

func (c *cli) hostCommand() *cobra.Command {
	inspect := inspect(c, "inspect HOST...", "Show hosts with all that is known of them", func(cmd *cobra.Command, ref string) (api.Host, error) {
		ctx, d, done := c.daemon(cmd)
		defer done()
		return d.Host(ctx, ref)
	})
	return group(&cobra.Command{Use: "host", Short: "Show and forget the hosts that share networks"}, c.hostList(), inspect, c.hostRemove())
}

func (c *cli) hostList() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"}, Short: "List hosts", Args: between(0, 0),
		Long: "List hosts: without a cluster store this one.\n\nFilters: id, name (a part of them).",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, d, done := c.daemon(cmd)
			defer done()
			all, err := d.Hosts(ctx, api.Filters(f.filters))
			if err != nil {
				return err
			}
			l := list{heads: row{"ID": "HOST ID", "Name": "NAME", "Address": "ADDRESS", "State": "STATE"}, columns: []string{"ID", "Name", "Address", "State"}}
			for _, h := range all {
				l.rows = append(l.rows, row{"ID": f.id(h.ID), "Name": h.Name, "Address": h.Address, "State": h.State})
			}
			return f.print(c.out, l)
		},
	}
	f.declare(cmd)
	return cmd
}

func (c *cli) hostRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm HOST...", Short: "Forget hosts that will not come back", Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.each(cmd, args, func(ctx context.Context, d *api.Client, ref string) error {
				if err := d.RemoveHost(ctx, ref); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.out, ref)
				return err
			})
		},
	}
}
