// Overlay shows one network on two hosts, over the Consul or etcd that they share, and that traffic goes on without it.
//
//	make overlay-demo                 # STORE=etcd for etcd
//	make overlay-demo-vm
//
// The hosts are network namespaces with a wire between them, or, with -vm, machines in QEMU, each with a daemon of its own; nothing in this
// machine's own network changes. demo.go is what you would type on two machines, in that order. Around it: lab.go what the demo does on its
// hosts, and what it asks of those; spaces.go and machines.go the two kinds of host; packet.go how one packet is read.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/vm"
)

// options of the command line.
type options struct {
	store    string // consul or etcd
	programs string // directory of this program, of sealane, and of consul if it is not on the PATH
	vm       bool   // hosts are machines in QEMU
	kernel   string // directory of the kernel that they boot
}

// self is the program that this is, as the demo calls it on its hosts.
const self = "overlay"

func main() {
	if os.Getpid() == 1 {
		vm.Init()
	}
	var o options
	flag.StringVar(&o.store, "store", "consul", "consul or etcd")
	flag.StringVar(&o.programs, "programs", "bin", "directory with this program, sealane and consul")
	flag.BoolVar(&o.vm, "vm", false, "have machines in QEMU for hosts")
	flag.StringVar(&o.kernel, "kernel", "", "directory with the kernel that they boot")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := play(ctx, o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "overlay:", err)
		os.Exit(1)
	}
}

// play is all the parts of this binary: it runs itself as the web server in one container and as the client in the other.
func play(ctx context.Context, o options, args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve(ctx)
	case len(args) == 2 && args[0] == "fetch":
		return fetch(ctx, args[1])
	case len(args) > 0:
		return fmt.Errorf("arguments %q: there are none", args)
	case !o.vm && os.Geteuid() != 0:
		return errors.New("network namespaces are made by root only: run it with sudo")
	case o.store != "consul" && o.store != "etcd":
		return fmt.Errorf("-store %s: want consul or etcd", o.store)
	}
	under, err := newUnderlay(o)
	if err != nil {
		return err
	}
	return demo(ctx, os.Stdout, under, o.store)
}

func newUnderlay(o options) (underlay, error) {
	if o.vm {
		return newMachines(o)
	}
	return newSpaces(o)
}

func serve(ctx context.Context) error {
	s := &http.Server{Addr: ":80", Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello from the other host, %s", r.RemoteAddr)
	})}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// fetch prints what a server says. It is asked again while it is not there yet.
func fetch(ctx context.Context, url string) error {
	const pause = 100 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		text, err := get(ctx, url)
		if err == nil {
			fmt.Print(text)
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

func get(ctx context.Context, url string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	reply, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	text := make([]byte, 200)
	n, _ := reply.Body.Read(text)
	return string(text[:n]), nil
}
