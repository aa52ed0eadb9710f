package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/sealane/sealane/api"
)

func (c *cli) runCommand() *cobra.Command {
	var f sandboxFlags
	name, remove := "", false
	cmd := &cobra.Command{
		Use: "run [flags] -- COMMAND [ARG...]", Short: "Make a sandbox and run a command in it", Args: atLeast(1),
		Long: `Make a sandbox, put it on its networks and run a command in it, as the user who asks.

The status is the command's, 128 and the number of the signal that ended it, 127 when it is not found, 126 when it cannot be run, and 125
when there is no sandbox to run it in.`,
		Example: "  sealane run --rm --network blue -p 8080:80 -- httpd -f",
		RunE: func(cmd *cobra.Command, args []string) error {
			argv := command(args)
			if len(argv) == 0 {
				return usage("usage: %s", cmd.UseLine())
			}
			spec, err := f.wanted(name)
			if err != nil {
				return err
			}
			return c.runIn(cmd, spec, argv, remove)
		},
	}
	f.declare(cmd.Flags())
	cmd.Flags().StringVar(&name, "name", "", "name of the sandbox (the beginning of its id)")
	cmd.Flags().BoolVar(&remove, "rm", false, "remove the sandbox when the command has ended")
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// runIn makes a sandbox, runs a command in it and removes it if that is wanted. Signals are caught from the beginning, so that none leaves
// a sandbox behind.
func (c *cli) runIn(cmd *cobra.Command, spec api.SandboxSpec, argv []string, remove bool) error {
	signals := catch()
	defer signals.stop()
	id := make([]byte, 32)
	rand.Read(id)                    // never fails
	spec.ID = hex.EncodeToString(id) // known before the daemon answers: it can be removed when the answer does not come
	s, err := c.makeSandbox(cmd, spec, signals)
	if err != nil {
		return errors.Join(err, c.forget(cmd, spec.ID))
	}
	err = c.perform(s, argv, signals)
	if remove {
		if left := c.forget(cmd, spec.ID); left != nil {
			c.report(fmt.Errorf("the sandbox is left: %w", left))
		}
	}
	return err
}

// makeSandbox makes it and asks where it is. A signal ends that.
func (c *cli) makeSandbox(cmd *cobra.Command, spec api.SandboxSpec, signals *signals) (s api.Sandbox, err error) {
	ctx, d, done := c.daemon(cmd)
	defer done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	made := make(chan error, 1)
	go func() {
		_, err := d.CreateSandbox(ctx, spec)
		if err == nil {
			s, err = d.Sandbox(ctx, spec.ID)
		}
		made <- err
	}()
	select {
	case err = <-made:
	case sig := <-signals.caught:
		cancel()
		<-made
		return s, &exit{status: signalled + number(sig)}
	}
	if err != nil {
		return s, &exit{oursFail, err}
	}
	return s, nil
}

// forget removes a sandbox that may not be there.
func (c *cli) forget(cmd *cobra.Command, id string) error {
	ctx, d, done := c.daemon(cmd)
	defer done()
	if err := d.RemoveSandbox(ctx, id, false); !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

func number(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return int(n)
	}
	return 0
}
