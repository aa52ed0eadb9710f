package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"time"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// settings are the flags of serve.
type settings struct {
	run   string
	root  string
	store storeFlags

	advertise string
	hostLost  time.Duration
	firewall  string
	group     string
	instance  string
	config    string
	plugins   string
	docker    bool
	ask       time.Duration // how often the engine is asked what it still knows; 0: as package docker has it
	names     bool          // of the engine's containers
	listeners []string
}

func (c *cli) serveCommand() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use: "serve [flags]", Short: "Be the daemon", Args: between(0, 0),
		Long: `Be the daemon: restore what the records say, answer on <run>/api.sock, print "ready" and go on until SIGTERM or SIGINT. What runs keeps
running when the daemon ends, and is taken over by the next one.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := readConfig(cmd, s.config); err != nil {
				return err
			}
			s.run = c.run
			signal.Ignore(unix.SIGPIPE) // nobody reading our log is no reason to end
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGTERM, unix.SIGINT)
			defer stop()
			context.AfterFunc(ctx, stop) // a second signal ends us at once
			if err := serve(ctx, s, slog.New(slog.NewTextHandler(c.err, nil)), func() { fmt.Fprintln(c.err, "ready") }); err != nil {
				return fmt.Errorf("serve: %w", err)
			}
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.root, "root", "/var/lib/sealane", "directory of what outlives the boot")
	s.store.declare(flags)
	flags.StringVar(&s.advertise, "advertise", "", "address or interface where other hosts reach this one (where it reaches --store from)")
	flags.DurationVar(&s.hostLost, "host-lost", 0, "free the endpoints of a host that was away for this long (0: never, \"sealane host rm\" does)")
	flags.StringVar(&s.firewall, "firewall", "auto", "auto, nftables or none")
	flags.StringVar(&s.group, "group", "", "group that may use the socket; its members are as good as root")
	flags.StringVar(&s.instance, "instance", "", "name that marks what is ours in this network namespace (the one kept in --root, at first sealane)")
	flags.StringVar(&s.plugins, "plugin-dir", "", "directory of Docker plugins' sockets and spec files (/run/docker/plugins, then /etc and /usr/lib/docker/plugins)")
	flags.BoolVar(&s.docker, "docker", false, "be a plugin of the Docker engine on this host: docker network create -d sealane --ipam-driver sealane NAME")
	flags.BoolVar(&s.names, "docker-names", false,
		"with --docker: learn the containers' names from the engine, and answer them at the gateway of each network: docker run --dns GATEWAY")
	flags.DurationVar(&s.ask, "docker-ask", 0, "how often the engine is asked what it still knows")
	cobra.CheckErr(flags.MarkHidden("docker-ask")) // for tests, which cannot wait minutes
	flags.StringArrayVar(&s.listeners, "dns-listen", nil,
		"answer names at an address of the host too, as 127.0.0.1:5300 or, for others, 192.0.2.1:53=NETWORK,NETWORK; may be repeated")
	flags.StringVar(&s.config, "config", "", "file of flags in TOML ("+configFile+")")
	laterFlags(flags, []string{"metrics"}, nil)
	return cmd
}

// check refuses what cannot be meant, and what this version cannot do.
func (s settings) check() error {
	if _, err := groupID(s.group); err != nil {
		return err
	}
	for _, l := range s.listeners {
		if _, err := parseListener(l); err != nil {
			return fmt.Errorf("--dns-listen %.80s: %w", l, err)
		}
	}
	if len(s.listeners) > 0 && s.firewall == "none" {
		return fmt.Errorf("--dns-listen: %w: it is not for --firewall none, which leaves no resolver", errdefs.ErrInvalidArgument)
	}
	if _, err := s.store.parse(); err != nil {
		return err
	}
	if s.names && (!s.docker || s.firewall == "none") {
		return fmt.Errorf("--docker-names: %w: it is for --docker, and not for --firewall none, which leaves no resolver", errdefs.ErrInvalidArgument)
	}
	switch s.firewall {
	case "auto", "nftables", "none":
		return nil
	case "iptables":
		return fmt.Errorf("--firewall iptables: %w", errLater)
	}
	return fmt.Errorf("--firewall %.80s: %w: want auto, nftables or none", s.firewall, errdefs.ErrInvalidArgument)
}

// serve is the daemon, from its locks to its last reply. ready is called when it answers.
func serve(ctx context.Context, s settings, log *slog.Logger, ready func()) (err error) {
	if err := s.check(); err != nil {
		return err
	}
	d := &daemon{settings: s, log: log, given: activation.Files(true)}
	defer func() { err = errors.Join(err, d.close()) }()
	for _, step := range []func(context.Context) error{d.openDirectories, d.openStores, d.openRooms, d.openResolver, d.openController, d.answerNames, d.serveDocker, d.listen} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	ready()
	if err := notify("READY=1"); err != nil {
		log.Warn("the service manager is not told that we are ready", "error", err)
	}
	return d.answer(ctx)
}
