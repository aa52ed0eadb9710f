// Bench measures what it costs to attach containers, beside the least that the kernel asks for and beside a peer, in one run.
//
//   - floor: the fewest netlink messages that give a namespace a working link, by an encoder of its own. No records, names, ports.
//   - sealane: the Controller with the rooms of a daemon.
//   - miekg: a plain server of github.com/miekg/dns, for names only. There the floor is a loop that writes constant bytes.
//   - moby: Docker's libnetwork (v28.5.2, iptables), in process; for docker run the bridge network of the engine itself.
//
// Each has a process, a network namespace and a mount namespace of its own that act as a host, and nothing outlives them. Subjects
// take turns in rounds of ten; a figure is the median of all rounds of a run, what is printed the median of the runs, a ratio the
// median of the runs' ratios. A run in which the hypervisor took more than 15 % of the time is thrown away. Absolute figures move
// by a third from machine to machine and hour to hour: compare ratios.
//
// It needs root and the programs ip, nft and iptables (for moby and the set-up; nothing of ours starts a program), for the rows cluster
// Consul and etcd, which `make servers` unpacks (the floor there is what the store itself takes), and for the rows docker an engine: dockerd,
// docker and busybox.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sealane/sealane/internal/holder"
)

func main() {
	what := run
	if len(os.Args) == 5 && os.Args[1] == childVerb {
		what = func() error { return serveChild(os.Args[2], os.Args[3], os.Args[4]) }
	}
	if len(os.Args) == 3 && os.Args[1] == holdVerb {
		what = func() error { return holder.Serve(3, os.Args[2]) }
	}
	if len(os.Args) > 1 && (os.Args[1] == askVerb || os.Args[1] == floodVerb) {
		what = func() error { return serveClient(os.Args[1:]) }
	}
	// libnetwork locks the main goroutine to its thread when it is imported, which would make each switch to another one slow.
	done := make(chan error)
	go func() { done <- what() }()
	if err := <-done; err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	b := bench{progress: os.Stderr}
	names := func(list []section) (out []string) {
		for _, s := range list {
			out = append(out, s.name)
		}
		return out
	}
	rows := flag.String("rows", "", "which rows, with commas: "+strings.Join(names(sections()), ", ")+"; all when empty")
	chosen := flag.String("subjects", strings.Join(subjects(), ","), "who takes part, with commas")
	flag.IntVar(&b.rounds, "rounds", 10, "rounds of a run")
	flag.IntVar(&b.runs, "runs", 3, "runs")
	flag.IntVar(&b.crowd, "crowd", 900, "endpoints on the bridge that make it crowded; at most 1000")
	quick := flag.Bool("quick", false, "two rounds, one run, 100 endpoints make a crowd: tells whether it works, not how fast")
	flag.StringVar(&b.profile, "profile", "", "an existing directory in which each subject leaves its CPU profile")
	flag.Parse()
	if *quick {
		b.rounds, b.runs, b.crowd = 2, 1, 100
	}
	b.subjects = strings.Split(*chosen, ",")
	if os.Geteuid() != 0 {
		return fmt.Errorf("it makes network namespaces: run it as root")
	}
	wanted := sections()
	if *rows != "" {
		list := strings.Split(*rows, ",")
		for _, name := range list {
			if !slices.Contains(names(wanted), name) {
				return fmt.Errorf("there are no rows %q: there are %s", name, strings.Join(names(wanted), ", "))
			}
		}
		wanted = slices.DeleteFunc(wanted, func(s section) bool { return !slices.Contains(list, s.name) })
	}
	var all []row
	start := time.Now()
	for _, s := range wanted {
		got, err := b.measure(s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		all = append(all, got...)
	}
	printTable(os.Stdout, all)
	fmt.Printf("\n%d runs of %d rounds, %s.\n", b.runs, b.rounds, time.Since(start).Round(time.Second))
	return nil
}
