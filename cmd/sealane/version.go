package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/api"
)

// version is what the build says of itself: a tag, or a commit.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}

// about describes this program and the kernel that it runs on.
func about() api.Version {
	v := api.Version{Version: version(), APIVersion: api.APIVersion, GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		v.KernelVersion = unix.ByteSliceToString(u.Release[:])
	}
	return v
}

// versions is what the command shows. Server nil: none answers.
type versions struct {
	Client api.Version
	Server *api.Version
}

func (c *cli) versionCommand() *cobra.Command {
	format := ""
	cmd := &cobra.Command{
		Use: "version [flags]", Short: "Show the version of this program and of the daemon", Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, d, done := c.daemon(cmd)
			defer done()
			v := versions{Client: about()}
			server, unanswered := d.Version(ctx)
			if unanswered == nil {
				v.Server = &server
			}
			if err := c.printVersions(format, v); err != nil {
				return err
			}
			return unanswered
		},
	}
	cmd.Flags().StringVar(&format, "format", "", `"json" or a Go template`)
	return cmd
}

func (c *cli) printVersions(format string, v versions) error {
	if format == "json" {
		format = "{{json .}}"
	}
	if format != "" {
		t, err := parseTemplate(format)
		if err != nil {
			return err
		}
		return printObject(c.out, t, v)
	}
	show := func(who string, v api.Version) {
		fmt.Fprintf(c.out, "%s:\n  Version:      %s\n  API version:  %s\n  Go version:   %s\n  Kernel:       %s\n  OS/Arch:      %s/%s\n",
			who, v.Version, v.APIVersion, v.GoVersion, v.KernelVersion, v.Os, v.Arch)
	}
	show("Client", v.Client)
	if v.Server != nil {
		show("Server", *v.Server)
	}
	return nil
}
