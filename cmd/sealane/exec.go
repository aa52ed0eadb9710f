package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/sealane/sealane/api"
)

// Exit statuses of a command that did not run, as shells have them.
const (
	notExecutable = 126
	notFound      = 127
	signalled     = 128 // and the signal's number
)

func (c *cli) execCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "exec SANDBOX -- COMMAND [ARG...]", Short: "Run a command in a sandbox", Args: atLeast(2), ValidArgsFunction: c.completeSandboxes,
		Long: `Run a command in a sandbox's network namespace, with its hosts, hostname and resolv.conf, as the user who asks.

The status is the command's, 128 and the number of the signal that ended it, 127 when it is not found, 126 when it cannot be run, and 125
when we fail to enter the sandbox.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.findSandbox(cmd, args[0])
			if err != nil {
				return err
			}
			argv := command(args[1:])
			if len(argv) == 0 {
				return usage("usage: %s", cmd.UseLine())
			}
			signals := catch()
			defer signals.stop()
			return c.perform(s, argv, signals)
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// command is what stands behind the dashes that part it from our own words.
func command(args []string) []string {
	if len(args) > 0 && args[0] == "--" {
		return args[1:]
	}
	return args
}

func (c *cli) findSandbox(cmd *cobra.Command, ref string) (api.Sandbox, error) {
	ctx, d, done := c.daemon(cmd)
	defer done()
	return d.Sandbox(ctx, ref)
}

// perform runs a command in a sandbox to its end. Its status, where it is not 0, is that of the error.
func (c *cli) perform(s api.Sandbox, argv []string, signals *signals) error {
	if s.NetNS == "" && s.State == api.StatePending {
		return &exit{oursFail, fmt.Errorf("sandbox %s: %w: its network namespace is not there yet", s.Name, errdefs.ErrFailedPrecondition)}
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return &exit{statusOf(err), err}
	}
	cmd := &exec.Cmd{Path: path, Args: argv, Env: append(os.Environ(), s.Env...), Stdin: c.in, Stdout: c.out, Stderr: c.err}
	if err := startIn(c.place(s), cmd); err != nil {
		return &exit{statusOf(err), err}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals.caught:
			if !typed(sig, c.in) {
				_ = cmd.Process.Signal(sig) // it may have ended
			}
		case err := <-ended:
			return outcome(cmd.ProcessState, err)
		}
	}
}

// outcome is how a command ended, as the error that gives us its status.
func outcome(state *os.ProcessState, err error) error {
	if state == nil {
		return &exit{oursFail, err}
	}
	switch w := state.Sys().(syscall.WaitStatus); {
	case w.Signaled():
		return &exit{status: signalled + int(w.Signal())}
	case w.ExitStatus() != 0:
		return &exit{status: w.ExitStatus()}
	}
	return nil
}

// statusOf is the exit status for a command that did not start.
func statusOf(err error) int {
	var entering *enterError
	switch {
	case errors.As(err, &entering):
		return oursFail
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return notFound
	}
	return notExecutable
}

// signals are those that we are sent and hand on.
type signals struct{ caught chan os.Signal }

// catch begins to catch what would end us, except for what we were told to ignore.
func catch() *signals {
	wanted := []os.Signal{unix.SIGHUP, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGINT, unix.SIGQUIT}
	s := &signals{make(chan os.Signal, len(wanted))}
	for _, sig := range wanted {
		if !signal.Ignored(sig) {
			signal.Notify(s.caught, sig)
		}
	}
	return s
}

func (s *signals) stop() { signal.Stop(s.caught) }

// typed says that a signal came from the keys of a terminal, which sends it to the command too.
func typed(s os.Signal, in *os.File) bool {
	return (s == unix.SIGINT || s == unix.SIGQUIT) && term.IsTerminal(int(in.Fd()))
}
