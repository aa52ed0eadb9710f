// Docker-plugin is two Docker engines, each on a host of its own and without Swarm, whose containers share one network. It prints each
// command as you would type it, and leaves nothing behind.
//
//	make docker-demo
//
// Read demo.go: it is what you do on your hosts. host.go makes two hosts that may be thrown away, with an engine and a sealane on each.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	var tools programs
	flag.StringVar(&tools.sealane, "sealane", "bin/sealane", "the program sealane")
	flag.StringVar(&tools.consul, "consul", "consul", "the program consul")
	flag.Parse()
	if flag.Arg(0) == holding { // this program is a host's first process too
		if err := hold(); err != nil {
			fmt.Fprintln(os.Stderr, "docker-plugin:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := run(ctx, tools); err != nil {
		fmt.Fprintln(os.Stderr, "docker-plugin:", err)
		os.Exit(1)
	}
}
