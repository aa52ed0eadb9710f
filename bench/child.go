package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/firewall"
)

// Each subject runs in a process of its own, in a network and a mount namespace of its own that act as a host. The bench tells it on
// its standard input what to do and reads on its standard output how long that took, one line of JSON each.

// order is what the bench wants done.
type order struct {
	Do string // attach, detach, churn, publish, load, unload, prepare, restart, usage, ask, run, overhead, cycle, give, tell, flooded
	N  int    // how many
	G  int    // by how many goroutines (churn); outstanding (ask)

	Network string // that containers are run on
	Port    bool   // with a published port
}

// result is what came of it.
type result struct {
	Each  []time.Duration // what each call took
	Verbs [][]spent       // of a plugin, one list for each call
	Total time.Duration   // from the first call until all devices are where they should be
	Usage usage
	Error string
}

// usage is what a process has at a moment.
type usage struct{ Resident, Descriptors, Goroutines int }

// child is the bench's side.
type child struct {
	name    string
	process *exec.Cmd
	orders  *json.Encoder
	results *json.Decoder
	input   io.Closer
	patient bool // it ends by itself: its profile is written, an engine's containers and the holder of sockets are ended
}

const childVerb = "child"

// startChild starts a subject in namespaces of its own. Where profile is a directory, its CPU profile is left there.
func startChild(name string, mode Mode, profile string) (*child, error) {
	arg, err := json.Marshal(mode)
	if err != nil {
		return nil, err
	}
	c := exec.Command("/proc/self/exe", childVerb, name, string(arg), profile)
	c.Stderr = os.Stderr
	c.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s := &child{name: name, process: c, orders: json.NewEncoder(in), results: json.NewDecoder(out), input: in, patient: profile != "" || mode.Docker || mode.Names || mode.Resolver}
	if _, err := s.do(order{Do: "ready"}); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// do waits for what comes of an order.
func (c *child) do(o order) (result, error) {
	if err := c.orders.Encode(o); err != nil {
		return result{}, fmt.Errorf("%s: %s: %w", c.name, o.Do, err)
	}
	var r result
	if err := c.results.Decode(&r); err != nil {
		return r, fmt.Errorf("%s: %s: the process ended: %w", c.name, o.Do, err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("%s: %s: %s", c.name, o.Do, r.Error)
	}
	return r, nil
}

// stop ends the process; its namespaces end with it.
func (c *child) stop() {
	c.input.Close()
	if !c.patient {
		c.process.Process.Kill()
	}
	c.process.Wait()
}

// server is the subject's side.
type server struct {
	subject  Subject
	attached []Handle
	links    int // of the host, without any attachment
	loaded   []firewall.Range
}

const (
	firstPort = 20000 // those that are measured; no higher than the ports that the kernel gives out
	loadPort  = 21000 // those that are present
)

// serveChild is the whole life of a subject's process.
func serveChild(name, mode, profile string) error {
	if profile != "" {
		f, err := os.Create(filepath.Join(profile, fmt.Sprintf("%s-%d.pprof", name, os.Getpid())))
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	var m Mode
	if err := json.Unmarshal([]byte(mode), &m); err != nil {
		return err
	}
	if err := becomeHost(m.Docker); err != nil {
		return err
	}
	subject, err := open(name, m)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer subject.Close()
	l, err := watchLinks()
	if err != nil {
		return err
	}
	l.close()
	s := &server{subject: subject, links: len(l.known)}
	orders, results := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			return nil // the bench has gone
		}
		runtime.GC() // of what came before
		r, err := s.do(o)
		if err != nil {
			r.Error = err.Error()
		}
		if err := results.Encode(r); err != nil {
			return err
		}
	}
}

func (s *server) do(o order) (result, error) {
	switch o.Do {
	case "ready":
		return result{}, nil
	case "attach":
		return s.attach(o.N)
	case "detach":
		return s.detach(o.N)
	case "churn":
		return s.churn(o.N, o.G)
	case "publish":
		return s.publish(o.N)
	case "load":
		return s.load(o.N)
	case "unload":
		return s.unload()
	case "prepare":
		if p, ok := s.subject.(Preparer); ok {
			return result{}, p.Prepare(o.N)
		}
		return result{}, nil
	case "restart":
		return s.restart()
	case "ask":
		a, able := s.subject.(Asker)
		if !able {
			return result{}, fmt.Errorf("it answers no names")
		}
		each, total, err := a.Ask(o.N, max(o.G, 1))
		return result{Each: each, Total: total}, err
	case "run", "overhead", "cycle":
		return s.plugin(o)
	case "give", "tell", "flooded":
		n, able := s.subject.(*names)
		if !able {
			return result{}, fmt.Errorf("it has no resolver")
		}
		each, err := map[string]func(int) ([]time.Duration, error){"give": n.Give, "tell": n.Tell, "flooded": n.Flooded}[o.Do](o.N)
		return result{Each: each}, err
	case "usage":
		u, err := readUsage()
		return result{Usage: u}, err
	}
	return result{}, fmt.Errorf("unknown order")
}

func (s *server) plugin(o order) (r result, err error) {
	c, cycles := s.subject.(cycler)
	p, able := s.subject.(*plugin)
	switch {
	case o.Do == "cycle" && cycles:
		r.Verbs, err = c.Cycle(o.N)
	case !able:
		err = fmt.Errorf("it is no plugin")
	case o.Do == "run":
		r.Each, r.Verbs, err = p.Run(o.Network, o.Port, o.N)
	default:
		r.Each, err = p.Overhead(o.N)
	}
	return r, err
}

func (s *server) attach(n int) (r result, err error) {
	for range n {
		start := time.Now()
		h, err := s.subject.Attach()
		if err != nil {
			return r, err
		}
		r.Each = append(r.Each, time.Since(start))
		s.attached = append(s.attached, h)
	}
	return r, nil
}

// detach lets go of the last n and waits until their devices are gone.
func (s *server) detach(n int) (r result, err error) {
	l, err := watchLinks()
	if err != nil {
		return r, err
	}
	defer l.close()
	begin := time.Now()
	for range n {
		last := len(s.attached) - 1
		h := s.attached[last]
		s.attached = s.attached[:last]
		start := time.Now()
		if err := s.subject.Detach(h); err != nil {
			return r, err
		}
		r.Each = append(r.Each, time.Since(start))
	}
	err = l.waitFor(s.links + len(s.attached))
	r.Total = time.Since(begin)
	return r, err
}

// churn attaches and detaches n times in all by g goroutines without pause, and waits until everything is gone.
func (s *server) churn(n, g int) (r result, err error) {
	var left atomic.Int64
	left.Store(int64(n))
	failed := make(chan error, g)
	begin := time.Now()
	var workers sync.WaitGroup
	for range g {
		workers.Go(func() {
			for left.Add(-1) >= 0 {
				h, err := s.subject.Attach()
				if err == nil {
					err = s.subject.Detach(h)
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	workers.Wait()
	select {
	case err := <-failed:
		return r, err
	default:
	}
	l, err := watchLinks()
	if err != nil {
		return r, err
	}
	defer l.close()
	err = l.waitFor(s.links + len(s.attached))
	r.Total = time.Since(begin)
	return r, err
}

// publish adds n ports one by one to the last attachment, and takes them away again outside the time that is measured.
func (s *server) publish(n int) (r result, err error) {
	p, ok := s.subject.(Publisher)
	if !ok || len(s.attached) == 0 {
		return r, fmt.Errorf("cannot publish")
	}
	h := s.attached[len(s.attached)-1]
	for i := range uint16(n) {
		start := time.Now()
		if err := p.Publish(h, firewall.Range{First: firstPort + i, Last: firstPort + i}); err != nil {
			return r, err
		}
		r.Each = append(r.Each, time.Since(start))
	}
	for i := range uint16(n) {
		if err := p.Unpublish(h, firewall.Range{First: firstPort + i, Last: firstPort + i}); err != nil {
			return r, err
		}
	}
	return r, nil
}

// load adds n ports in one call to the first attachment, where they stay until unload.
func (s *server) load(n int) (r result, err error) {
	p, ok := s.subject.(Publisher)
	if !ok || len(s.attached) == 0 {
		return r, fmt.Errorf("cannot publish")
	}
	first := uint16(loadPort)
	if last := len(s.loaded) - 1; last >= 0 {
		first = s.loaded[last].Last + 1
	}
	ports := firewall.Range{First: first, Last: first + uint16(n) - 1}
	start := time.Now()
	err = p.Publish(s.attached[0], ports)
	r.Total = time.Since(start)
	s.loaded = append(s.loaded, ports)
	return r, err
}

func (s *server) unload() (r result, err error) {
	for _, ports := range s.loaded {
		if err := s.subject.(Publisher).Unpublish(s.attached[0], ports); err != nil {
			return r, err
		}
	}
	s.loaded = nil
	return r, nil
}

func (s *server) restart() (r result, err error) {
	p, ok := s.subject.(Restarter)
	if !ok {
		return r, fmt.Errorf("cannot restart")
	}
	r.Total, err = p.Restart()
	return r, err
}

func readUsage() (u usage, err error) {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return u, err
	}
	_, rss, _ := strings.Cut(string(status), "VmRSS:")
	if _, err := fmt.Sscan(rss, &u.Resident); err != nil {
		return u, fmt.Errorf("resident memory: %w", err)
	}
	u.Resident <<= 10
	fds, err := os.ReadDir("/proc/self/fd")
	u.Descriptors, u.Goroutines = len(fds), runtime.NumGoroutine()
	return u, err
}
