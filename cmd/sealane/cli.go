package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sealane/sealane/api"
)

const defaultRun = "/run/sealane"

// cli is what all commands share.
type cli struct {
	in       *os.File
	out, err *os.File
	run      string // directory of the daemon that is meant
	timeout  time.Duration
}

// main runs one command line and returns the exit status.
func (c *cli) main(args []string) int {
	root := c.root()
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	return c.report(root.Execute())
}

func (c *cli) root() *cobra.Command {
	root := group(&cobra.Command{
		Use:           "sealane",
		Short:         "Networks for containers",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.SetVersionTemplate("sealane {{.Version}}\n")
	flags := root.PersistentFlags()
	flags.StringVar(&c.run, "run", defaultRun, "run directory of the daemon")
	flags.DurationVar(&c.timeout, "timeout", 30*time.Second, "how long a call may take")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if errors.Is(err, errdefs.ErrNotImplemented) {
			return err
		}
		return usage("%w", err)
	})
	root.AddCommand(c.serveCommand(), c.networkCommand(), c.sandboxCommand(), c.runCommand(), c.portCommand(), c.hostCommand(),
		c.eventsCommand(), c.versionCommand(), c.holdCommand())
	return root
}

// group makes a command that only has commands below it.
func group(cmd *cobra.Command, below ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(below...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return usage("%s has no command %q; see %s --help", cmd.CommandPath(), args[0], cmd.CommandPath())
	}
	return cmd
}

// exit is an error with an exit status of its own. Err nil: everything has been said.
type exit struct {
	status int
	err    error
}

func (e *exit) Error() string { return fmt.Sprint(e.err) }
func (e *exit) Unwrap() error { return e.err }

const (
	failed   = 1
	misused  = 2
	oursFail = 125 // of run and exec, whose other statuses are the command's
)

// usage is the error of a command line that cannot be meant.
func usage(format string, args ...any) error { return &exit{misused, fmt.Errorf(format, args...)} }

// report says what went wrong in one line, and returns the exit status.
func (c *cli) report(err error) int {
	if err == nil {
		return 0
	}
	status, e := failed, (*exit)(nil)
	if errors.As(err, &e) {
		status = e.status
		if e.err == nil {
			return status
		}
	}
	fmt.Fprintf(c.err, "Error: %s\n", strings.ReplaceAll(c.explain(err), "\n", "; "))
	return status
}

// explain says what the user can do where the error does not.
func (c *cli) explain(err error) string {
	if !errdefs.IsUnavailable(err) {
		return err.Error()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		start := "sealane serve"
		if c.run != defaultRun {
			start = "sealane --run " + c.run + " serve"
		}
		return fmt.Sprintf("no daemon answers on %s: start one with %q", c.socket(), start)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%s: permission denied: it is root's and of the group that serve was given", c.socket())
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("%s: unavailable: no reply within %s; see --timeout", c.socket(), c.timeout)
	}
	return err.Error()
}

func (c *cli) socket() string { return filepath.Join(c.run, "api.sock") }

// daemon returns a client for one call, which ends in time. Call done afterwards.
func (c *cli) daemon(cmd *cobra.Command) (ctx context.Context, d *api.Client, done func()) {
	d = api.NewClient(c.socket())
	ctx, cancel := context.WithTimeout(cmd.Context(), c.timeout)
	quiet := c.progress(cmd.CommandPath())
	return ctx, d, func() {
		quiet()
		cancel()
		d.Close()
	}
}

// progress tells somebody who waits at a terminal that we do too, from the second second on.
func (c *cli) progress(what string) (done func()) {
	if !term.IsTerminal(int(c.err.Fd())) {
		return func() {}
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		begun := time.Now()
		for tick := time.NewTicker(time.Second); ; {
			select {
			case <-tick.C:
				fmt.Fprintf(c.err, "\r%s: %.0f s…", what, time.Since(begun).Seconds())
			case <-stop:
				tick.Stop()
				if time.Since(begun) >= time.Second {
					fmt.Fprint(c.err, "\r\x1b[K")
				}
				return
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

// each does something with several objects: it carries on, says what failed, and fails if anything did.
func (c *cli) each(cmd *cobra.Command, refs []string, do func(ctx context.Context, d *api.Client, ref string) error) error {
	status := 0
	for _, ref := range refs {
		ctx, d, done := c.daemon(cmd)
		err := do(ctx, d, ref)
		done()
		status = max(status, c.report(err))
	}
	if status > 0 {
		return &exit{status: status}
	}
	return nil
}

// atLeast wants so many arguments.
func atLeast(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usage("usage: %s", cmd.UseLine())
		}
		return nil
	}
}

// between wants so many arguments.
func between(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return usage("usage: %s", cmd.UseLine())
		}
		return nil
	}
}

// sure asks before much is deleted. Where nobody can be asked it must have been said before.
func (c *cli) sure(force bool, warning string) error {
	if force {
		return nil
	}
	if !term.IsTerminal(int(c.in.Fd())) {
		return usage("nobody can be asked here: say --force")
	}
	fmt.Fprintf(c.err, "WARNING! %s\nAre you sure you want to continue? [y/N] ", warning)
	var answer string
	fmt.Fscanln(c.in, &answer) // an error is no answer
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return errors.New("nothing is done: not confirmed")
	}
	return nil
}
