// Quickstart makes a network with two containers, lets them talk, and leaves nothing behind.
//
//	make demo                     # or: go build ./examples/quickstart && sudo ./quickstart
//	sudo ./quickstart -stay       # keep it until Ctrl-C, to look around
//	sudo ./quickstart -host       # in this machine's own network
//
// Read demo.go: it is what a program that uses the library does. Around it: talk.go who reaches whom, host.go a host that may be thrown away,
// process.go programs that run in a sandbox, programs.go what they do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// options of the command line.
type options struct {
	host, stay bool
	port       uint
}

func main() {
	var o options
	flag.BoolVar(&o.host, "host", false, "act in this machine's own network, not in a network namespace made for the demo")
	flag.BoolVar(&o.stay, "stay", false, "when all is done, stay until Ctrl-C")
	flag.UintVar(&o.port, "port", 8080, "port of the host at which the server is published; 0: any free one")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	err := play(ctx, o, flag.Args())
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "quickstart:", err)
	if errors.Is(err, errInterrupted) {
		os.Exit(128 + int(unix.SIGINT))
	}
	os.Exit(1)
}

// play is all the parts of this binary: it runs itself in the host that may be thrown away, and in the sandboxes.
func play(ctx context.Context, o options, args []string) error {
	switch {
	case len(args) == 0 && os.Geteuid() != 0:
		return errors.New("network namespaces are made by root only: run it with sudo")
	case len(args) == 0 && o.host:
		fmt.Printf("Two containers on a network of this machine. All goes at the end, but that forwarding stays on if it was off.\n\n")
		return demo(ctx, o)
	case len(args) == 0:
		fmt.Printf("Two containers on a network. The host is a network namespace made for this demo:\n" +
			"nothing in your machine's own network changes. With -host it would be the machine itself.\n\n")
		return becomeThrowAwayHost("demo")
	case args[0] == "demo":
		return demo(ctx, o)
	case args[0] == "serve" && len(args) == 2:
		return serve(args[1])
	case args[0] == "ping" && len(args) == 2:
		return ping(args[1])
	case args[0] == "fetch" && len(args) == 2:
		return printFetched(ctx, args[1])
	}
	return fmt.Errorf("no part is called %q", args)
}
