package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sealane/sealane/api"
)

func (c *cli) sandboxCommand() *cobra.Command {
	inspect := inspect(c, "inspect SANDBOX...", "Show sandboxes with all that is known of them", func(cmd *cobra.Command, ref string) (api.Sandbox, error) {
		ctx, d, done := c.daemon(cmd)
		defer done()
		return d.Sandbox(ctx, ref)
	})
	inspect.ValidArgsFunction = c.completeSandboxes
	return group(&cobra.Command{Use: "sandbox", Short: "Make, show and remove sandboxes, which are what is on networks"},
		c.sandboxCreate(), c.sandboxList(), inspect, c.sandboxRemove(), c.execCommand(), c.publishCommand(), c.unpublishCommand())
}

// sandboxFlags are those that say what sandbox is wanted.
type sandboxFlags struct {
	spec     api.SandboxSpec
	networks joins
}

func (f *sandboxFlags) declare(flags *pflag.FlagSet) {
	flags.StringVar(&f.spec.NetNS, "netns", "", "path of the network namespace that it is")
	flags.IntVar(&f.spec.PID, "pid", 0, "process whose network namespace it is")
	flags.BoolVar(&f.spec.Host, "host", false, "it is the host's network namespace")
	flags.StringVar(&f.spec.Join, "join", "", "sandbox whose network namespace it shares")
	flags.Var(&f.networks, "network", "network to be on, as blue:ip=10.1.0.9,alias=www; may be repeated (bridge)")
	flags.StringArrayVarP(&f.spec.Publish, "publish", "p", nil, "publish a port: [IP:][HOST[-HOST]:]CTR[-CTR][/tcp|udp|sctp]; may be repeated")
	flags.BoolVarP(&f.spec.PublishAll, "publish-all", "P", false, "publish all exposed ports at free host ports")
	flags.StringArrayVar(&f.spec.Expose, "expose", nil, "expose a port: CTR[-CTR][/tcp|udp|sctp]; may be repeated")
	flags.StringVar(&f.spec.Hostname, "hostname", "", "host name inside (the beginning of the id)")
	flags.StringVar(&f.spec.Domainname, "domainname", "", "domain that the host name is in")
	flags.Var((*addresses)(&f.spec.DNS), "dns", "DNS server, asked from inside; may be repeated (the host's)")
	flags.StringArrayVar(&f.spec.DNSSearch, "dns-search", nil, `domain in which names are looked for, "." for none; may be repeated (the host's)`)
	flags.StringArrayVar(&f.spec.DNSOptions, "dns-option", nil, "option of resolv.conf; may be repeated (the host's)")
	flags.StringArrayVar(&f.spec.ExtraHosts, "add-host", nil, "line of hosts: NAME:ADDRESS, or NAME:host-gateway for the host; may be repeated")
	flags.StringArrayVar(&f.spec.Links, "link", nil, "know another sandbox by an alias: SANDBOX[:ALIAS]; may be repeated")
	flags.Var((*pairs)(&f.spec.Sysctls), "sysctl", "setting below net., as net.ipv4.ip_forward=1; may be repeated")
	flags.Var((*pairs)(&f.spec.Labels), "label", "label; may be repeated")
}

// wanted is what the daemon is asked for. It has another working directory.
func (f *sandboxFlags) wanted(name string) (api.SandboxSpec, error) {
	s := f.spec
	s.Name, s.Networks = name, f.networks
	var err error
	if s.NetNS != "" {
		s.NetNS, err = filepath.Abs(s.NetNS)
	}
	return s, err
}

func (c *cli) sandboxCreate() *cobra.Command {
	var f sandboxFlags
	cmd := &cobra.Command{
		Use: "create [flags] SANDBOX", Short: "Make a sandbox and put it on its networks", Args: between(1, 1),
		Example: "  sealane sandbox create --network blue -p 8080:80 web\n  sealane sandbox create --netns /run/netns/mine --network blue:ip=10.1.0.9 db",
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := f.wanted(args[0])
			if err != nil {
				return err
			}
			ctx, d, done := c.daemon(cmd)
			defer done()
			made, err := d.CreateSandbox(ctx, spec)
			return c.printCreated(made, err)
		},
	}
	f.declare(cmd.Flags())
	return cmd
}

func (c *cli) sandboxList() *cobra.Command {
	var f listFlags
	cmd := &cobra.Command{
		Use: "ls [flags]", Aliases: []string{"list"}, Short: "List sandboxes", Args: between(0, 0),
		Long: "List sandboxes.\n\nFilters: id, name (a part of them), state, network, label (key or key=value).",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, d, done := c.daemon(cmd)
			defer done()
			all, err := d.Sandboxes(ctx, api.Filters(f.filters))
			if err != nil {
				return err
			}
			l := list{
				heads: row{"ID": "SANDBOX ID", "Name": "NAME", "State": "STATE", "Networks": "NETWORKS", "Ports": "PORTS", "NetNS": "NETNS",
					"Labels": "LABELS", "CreatedAt": "CREATED AT"},
				columns: []string{"ID", "Name", "State", "Networks", "Ports"},
			}
			for _, s := range all {
				l.rows = append(l.rows, row{"ID": f.id(s.ID), "Name": s.Name, "State": s.State, "NetNS": s.NetNS,
					"Networks": strings.Join(slices.Sorted(maps.Keys(s.Networks)), ","), "Ports": strings.Join(portLines(s.Ports), ", "),
					"Labels": (*pairs)(&s.Labels).String(), "CreatedAt": s.Created.Local().Format(time.RFC3339)})
			}
			return f.print(c.out, l)
		},
	}
	f.declare(cmd)
	return cmd
}

func (c *cli) sandboxRemove() *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use: "rm [flags] SANDBOX...", Aliases: []string{"remove"}, Short: "Remove sandboxes", Args: atLeast(1), ValidArgsFunction: c.completeSandboxes,
		Long: "Remove sandboxes with their endpoints and, where we made it, their network namespace. Processes that run in one keep running without links.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.each(cmd, args, func(ctx context.Context, d *api.Client, ref string) error {
				if err := d.RemoveSandbox(ctx, ref, force); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.out, ref)
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also one in state unknown, or whose driver does not answer")
	return cmd
}
