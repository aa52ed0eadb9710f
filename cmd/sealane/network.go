package main

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealane/sealane/api"
)

func (c *cli) networkCommand() *cobra.Command {
	global := false
	inspect := inspect(c, "inspect NETWORK...", "Show networks with all that is known of them", func(cmd *cobra.Command, ref string) (api.Network, error) {
		ctx, d, done := c.daemon(cmd)
		defer done()
		if global {
			return d.NetworkEverywhere(ctx, ref)
		}
		return d.Network(ctx, ref)
	})
	inspect.Flags().BoolVar(&global, "global", false, "show the endpoints of all hosts, not only of this one")
	inspect.ValidArgsFunction = c.completeNetworks
	return group(&cobra.Command{Use: "network", Short: "Make, show and remove networks"},
		c.networkCreate(), c.networkList(), inspect, c.networkRemove(), c.networkPrune(), c.networkConnect(), c.networkDisconnect(), c.networkUpdate())
}

// networkFlags are those of network create that need putting together.
type networkFlags struct {
	subnets, ranges prefixes
	gateways        addresses
	aux             pairs
	ipv4            bool
	spec            api.NetworkSpec
}

func (c *cli) networkCreate() *cobra.Command {
	var f networkFlags
	cmd := &cobra.Command{
		Use: "create [flags] NETWORK", Short: "Make a network", Args: between(1, 1),
		Example: "  sealane network create blue\n  sealane network create --subnet 10.1.0.0/16 --ipv6 --subnet fd00:1::/64 green",
		RunE: func(cmd *cobra.Command, args []string) error {
			f.spec.Name = args[0]
			var err error
			if f.spec.IPAM.Config, err = f.config(); err != nil {
				return fmt.Errorf("create network: %s: %w", args[0], err)
			}
			if !f.ipv4 {
				f.spec.EnableIPv4 = &f.ipv4
			}
			ctx, d, done := c.daemon(cmd)
			defer done()
			made, err := d.CreateNetwork(ctx, f.spec)
			return c.printCreated(made, err)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.spec.Driver, "driver", "d", "bridge", "driver: bridge, host, null")
	flags.Var(&f.subnets, "subnet", "subnet, as 10.1.0.0/16; may be repeated")
	flags.Var(&f.gateways, "gateway", "router's address in a subnet; may be repeated")
	flags.Var(&f.ranges, "ip-range", "part of a subnet that addresses are given from; may be repeated")
	flags.Var(&f.aux, "aux-address", "address that is taken by something else, as router=10.1.0.9; may be repeated")
	flags.BoolVar(&f.ipv4, "ipv4", true, "give it IPv4")
	flags.BoolVar(&f.spec.EnableIPv6, "ipv6", false, "give it IPv6")
	flags.BoolVar(&f.spec.Internal, "internal", false, "no way out of the network")
	flags.Var((*pairs)(&f.spec.Labels), "label", "label; may be repeated")
	flags.VarP((*pairs)(&f.spec.Options), "opt", "o", "option of the driver; may be repeated")
	flags.StringVar(&f.spec.IPAM.Driver, "ipam-driver", "default", "where addresses come from: default, null")
	flags.Var((*pairs)(&f.spec.IPAM.Options), "ipam-opt", "option of the IPAM driver; may be repeated")
	flags.StringVar(&f.spec.Scope, "scope", "", `"local" or "global" (the driver's)`)
	return cmd
}

func (c *cli) printCreated(made api.Created, err error) error {
	if err != nil {
		return err
	}
	if made.Warning != "" {
		fmt.Fprintln(c.err, "WARNING:", made.Warning)
	}
	_, err = fmt.Fprintln(c.out, made.ID)
	return err
}

// config gives each subnet the gateway, range and auxiliary addresses that lie in it.
func (f *networkFlags) config() ([]api.Subnet, error) {
	var config []api.Subnet
	for _, p := range f.subnets {
		config = append(config, api.Subnet{Subnet: p})
	}
	in := func(what string, a netip.Addr) (*api.Subnet, error) {
		for i := range config {
			if config[i].Subnet.Contains(a) {
				return &config[i], nil
			}
		}
		return nil, fmt.Errorf("%s: no --subnet contains it", what)
	}
	for _, r := range f.ranges {
		sub, err := in("range "+r.String(), r.Addr())
		if err != nil {
			return nil, err
		}
		if sub.IPRange.IsValid() {
			return nil, fmt.Errorf("range %s: subnet %s has one already: %s", r, sub.Subnet, sub.IPRange)
		}
		sub.IPRange = r
	}
	for _, g := range f.gateways {
		sub, err := in("gateway "+g.String(), g)
		if err != nil {
			return nil, err
		}
		if sub.Gateway.IsValid() {
			return nil, fmt.Errorf("gateway %s: subnet %s has one already: %s", g, sub.Subnet, sub.Gateway)
		}
		sub.Gateway = g
	}
	for name, text := range f.aux {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("auxiliary address %s=%s: want an address", name, text)
		}
		sub, err := in("auxiliary address "+name+"="+text, a)
		if err != nil {
			return nil, err
		}
		if sub.AuxiliaryAddresses == nil {
			sub.AuxiliaryAddresses = map[string]netip.Addr{}
		}
		sub.AuxiliaryAddresses[name] = a
	}
	return config, nil
}

func (c *cli) networkList() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"}, Short: "List networks", Args: between(0, 0),
		Long: "List networks.\n\nFilters: id, name (a part of them), driver, scope, state, type (builtin, custom), label (key or key=value), dangling (true, false).",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, d, done := c.daemon(cmd)
			defer done()
			all, err := d.Networks(ctx, api.Filters(f.filters))
			if err != nil {
				return err
			}
			l := list{
				heads: row{"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "State": "STATE", "IPv4": "IPV4", "IPv6": "IPV6",
					"Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT"},
				columns: []string{"ID", "Name", "Driver", "Scope"},
			}
			for _, n := range all {
				l.rows = append(l.rows, row{"ID": f.id(n.ID), "Name": n.Name, "Driver": n.Driver, "Scope": n.Scope, "State": n.State,
					"IPv4": strconv.FormatBool(n.EnableIPv4), "IPv6": strconv.FormatBool(n.EnableIPv6), "Internal": strconv.FormatBool(n.Internal),
					"Labels": (*pairs)(&n.Labels).String(), "CreatedAt": n.Created.Local().Format(time.RFC3339)})
			}
			return f.print(c.out, l)
		},
	}
	f.declare(cmd)
	return cmd
}

func (c *cli) networkRemove() *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use: "rm [flags] NETWORK...", Aliases: []string{"remove"}, Short: "Remove networks", Args: atLeast(1), ValidArgsFunction: c.completeNetworks,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.each(cmd, args, func(ctx context.Context, d *api.Client, ref string) error {
				if err := d.RemoveNetwork(ctx, ref, force); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.out, ref)
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "give up on what a dead driver or host holds")
	return cmd
}

func (c *cli) networkPrune() *cobra.Command {
	var f filters
	force := false
	cmd := &cobra.Command{
		Use: "prune [flags]", Short: "Remove the networks that nobody is on", Args: between(0, 0),
		Long: "Remove the networks that nobody is on.\n\nFilters: until (a time, or a duration as 24h), label, label! (key or key=value).",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.sure(force, "This removes all networks that no sandbox is on."); err != nil {
				return err
			}
			ctx, d, done := c.daemon(cmd)
			defer done()
			pruned, err := d.PruneNetworks(ctx, api.Filters(f))
			if err != nil {
				return err
			}
			for _, name := range pruned.NetworksDeleted {
				fmt.Fprintln(c.out, name)
			}
			for _, w := range pruned.Warnings {
				c.report(fmt.Errorf("prune: %s", w))
			}
			if len(pruned.Warnings) > 0 {
				return &exit{status: failed}
			}
			return nil
		},
	}
	cmd.Flags().Var(&f, "filter", "remove only what matches; may be repeated")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return cmd
}

func (c *cli) networkConnect() *cobra.Command {
	var how api.EndpointConfig
	var ip, ip6 addresses
	cmd := &cobra.Command{
		Use: "connect [flags] NETWORK SANDBOX...", Short: "Put a sandbox on a network", Args: atLeast(2), ValidArgsFunction: c.completeConnection,
		RunE: func(cmd *cobra.Command, args []string) error {
			how.IPAMConfig.IPv4Address, how.IPAMConfig.IPv6Address = ip.last(), ip6.last()
			return c.each(cmd, args[1:], func(ctx context.Context, d *api.Client, ref string) error {
				if err := d.Connect(ctx, args[0], api.Connection{Container: ref, EndpointConfig: how}); err != nil {
					return err
				}
				return c.printIfSeveral(args[1:], ref)
			})
		},
	}
	flags := cmd.Flags()
	flags.Var(&ip, "ip", "IPv4 address")
	flags.Var(&ip6, "ip6", "IPv6 address")
	flags.Var((*addresses)(&how.IPAMConfig.LinkLocalIPs), "link-local-ip", "link-local address beside it; may be repeated")
	flags.StringArrayVar(&how.Aliases, "alias", nil, "another name on the network; may be repeated")
	flags.StringVar(&how.MacAddress, "mac-address", "", "MAC address")
	flags.StringVar(&how.IfName, "ifname", "", "name of the interface in the sandbox")
	flags.IntVar(&how.GwPriority, "gw-priority", 0, "the network of the highest is the way out")
	flags.Var((*pairs)(&how.DriverOpts), "driver-opt", "option of the endpoint; may be repeated")
	flags.StringArrayVar(&how.Links, "link", nil, "know another sandbox by an alias there: SANDBOX[:ALIAS]; may be repeated")
	return cmd
}

// printIfSeveral says which of several is done; of one that is known.
func (c *cli) printIfSeveral(refs []string, ref string) error {
	if len(refs) == 1 {
		return nil
	}
	_, err := fmt.Fprintln(c.out, ref)
	return err
}

func (c *cli) networkDisconnect() *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use: "disconnect [flags] NETWORK SANDBOX...", Short: "Take a sandbox off a network", Args: atLeast(2), ValidArgsFunction: c.completeConnection,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.each(cmd, args[1:], func(ctx context.Context, d *api.Client, ref string) error {
				if err := d.Disconnect(ctx, args[0], api.Disconnection{Container: ref, Force: force}); err != nil {
					return err
				}
				return c.printIfSeveral(args[1:], ref)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "give up on what a dead driver or host holds")
	return cmd
}

func (c *cli) networkUpdate() *cobra.Command {
	var change api.NetworkChange
	cmd := &cobra.Command{
		Use: "update [flags] NETWORK", Short: "Change a network while it runs", Args: between(1, 1), ValidArgsFunction: c.completeNetworks,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, d, done := c.daemon(cmd)
			defer done()
			return d.UpdateNetwork(ctx, args[0], change)
		},
	}
	flags := cmd.Flags()
	flags.Var((*pairs)(&change.Labels), "label", "label to be set; may be repeated")
	flags.VarP((*pairs)(&change.Options), "opt", "o", "option of the driver to be set; may be repeated")
	laterFlags(flags, []string{"add-subnet"}, nil)
	return cmd
}
