// Package servertest runs real Consul and etcd servers in test hosts, one or a cluster, and takes them down by force or in order.
//
// The programs are found on the PATH or where `make servers` puts them. Data lies in memory and
// goes with the test, as do the processes, even when the test is killed.
package servertest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/nstest"
)

// Kind is which program a server is.
type Kind string

// The kinds.
const (
	Consul Kind = "consul"
	Etcd   Kind = "etcd"
)

// patience is how long a server may take to answer, or a cluster to find a leader, on a machine that is busy with other things.
const patience = 90 * time.Second

// Node is where a server runs: it listens at Addr with its default ports, and reaches the others of its cluster from there.
type Node struct {
	Host *nstest.Host
	Addr netip.Addr
}

// Options of a cluster. The zero value is open to everybody who can reach it.
type Options struct {
	TLS   *TLS   // clients must show a certificate of its CA
	Token string // Consul: access control is on, nobody but the bearer of Token may do anything
}

// Cluster is servers that agree.
type Cluster struct {
	Kind    Kind
	Options Options
	Servers []*Server
}

// Server is one process and its data.
type Server struct {
	Name string
	Node
	kind    Kind
	t       testing.TB
	dir     string
	options Options
	args    []string // of this program, to start it with
	process *os.Process
	gone    chan struct{} // closed when process is
}

// Start starts a server at each node, those of a cluster, and returns when they have a leader. They end with the test. Three loopback
// addresses of one host make a cluster, as do hosts on a LAN.
func Start(t testing.TB, kind Kind, o Options, nodes ...Node) *Cluster {
	t.Helper()
	c := &Cluster{Kind: kind, Options: o}
	for i, n := range nodes {
		s := &Server{Name: fmt.Sprintf("s%d", i+1), Node: n, kind: kind, t: t, options: o}
		s.dir = memory(t)
		c.Servers = append(c.Servers, s)
	}
	for _, s := range c.Servers {
		s.args = c.arguments(s)
		s.Start()
	}
	t.Cleanup(c.close)
	for _, s := range c.Servers {
		s.WaitReady()
	}
	return c
}

// One is a server alone in a host of its own, at 127.0.0.1 there.
func One(t testing.TB, kind Kind, o Options) *Cluster {
	t.Helper()
	return Start(t, kind, o, Node{nstest.New(t, string(kind)), netip.AddrFrom4([4]byte{127, 0, 0, 1})})
}

func memory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "sealane-servertest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Endpoints are the addresses for clients, host:port.
func (c *Cluster) Endpoints() (all []string) {
	for _, s := range c.Servers {
		all = append(all, s.Endpoint())
	}
	return all
}

// URL is what `sealane serve --store` takes.
func (c *Cluster) URL() string { return string(c.Kind) + "://" + strings.Join(c.Endpoints(), ",") }

// Leader waits until a majority names one, and returns it. Who was killed or cut off is named a while longer: say whom not to wait for.
func (c *Cluster) Leader(not ...*Server) *Server {
	t := c.Servers[0].t
	t.Helper()
	var leader *Server
	eventually(t, string(c.Kind)+" has a leader", func() bool {
		votes := map[string]int{}
		for _, s := range c.Servers {
			if !s.Running() {
				continue
			}
			if id := s.leader(); id != "" {
				votes[id]++
			}
		}
		for _, s := range c.Servers {
			if s.Running() && !slices.Contains(not, s) && votes[s.id()] > len(c.Servers)/2 {
				leader = s
				return true
			}
		}
		return false
	})
	return leader
}

func (c *Cluster) close() {
	for _, s := range c.Servers {
		s.Kill()
		if s.t.Failed() {
			s.t.Logf("%s %s said:\n%s", s.kind, s.Name, s.tail())
		}
	}
}

// Endpoint is the address for clients, host:port.
func (s *Server) Endpoint() string {
	return netip.AddrPortFrom(s.Addr, s.clientPort()).String()
}

// Running says whether the process was started and has not been ended.
func (s *Server) Running() bool { return s.process != nil }

// Start starts the process on the data that is there. It does not wait: see WaitReady.
func (s *Server) Start() {
	s.t.Helper()
	if s.Running() {
		return
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd := s.Host.Command(context.Background(), program(s.t, s.kind), s.args...)
	cmd.Stdout, cmd.Stderr = log, log
	started, gone := make(chan error), make(chan struct{})
	go func() {
		defer close(gone)
		if err := startTied(cmd); err != nil {
			started <- err
			return
		}
		close(started)
		_ = cmd.Wait() // being killed is no news
	}()
	if err := <-started; err != nil {
		s.t.Fatalf("%s: %v", s.kind, err)
	}
	s.process, s.gone = cmd.Process, gone
}

// Kill ends the process at once, as a power cut would.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop asks the process to end and waits for it.
func (s *Server) Stop() { s.end(syscall.SIGTERM) }

func (s *Server) end(signal os.Signal) {
	if !s.Running() {
		return
	}
	_ = s.process.Signal(syscall.SIGCONT)
	_ = s.process.Signal(signal)
	select {
	case <-s.gone:
	case <-time.After(patience):
		s.t.Errorf("%s %s does not end on %v: killed", s.kind, s.Name, signal)
		_ = s.process.Kill()
		<-s.gone
	}
	s.process = nil
}

// Freeze stops the process where it is: its connections stay open and nobody answers. Thaw lets it go on.
func (s *Server) Freeze() {
	s.t.Helper()
	s.signal(syscall.SIGSTOP)
	eventually(s.t, s.Name+" stands still", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.process.Pid))
		for _, path := range threads {
			text, err := os.ReadFile(path)
			if _, state, _ := strings.Cut(string(text), ") "); err == nil && !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return true
	})
}

// Thaw undoes Freeze.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal os.Signal) {
	if err := s.process.Signal(signal); err != nil {
		s.t.Errorf("%s %s: %v: %v", s.kind, s.Name, signal, err)
	}
}

// Wipe throws the data of a server away that does not run.
func (s *Server) Wipe() {
	s.t.Helper()
	if s.Running() {
		s.t.Fatalf("%s %s runs", s.kind, s.Name)
	}
	if err := os.RemoveAll(s.data()); err != nil {
		s.t.Fatal(err)
	}
}

// Backup copies the data of a server that does not run; restore puts the copy in the place of what is there by then.
func (s *Server) Backup() (restore func()) {
	s.t.Helper()
	if s.Running() {
		s.t.Fatalf("%s %s runs", s.kind, s.Name)
	}
	kept := filepath.Join(memory(s.t), "data")
	if err := os.CopyFS(kept, os.DirFS(s.data())); err != nil {
		s.t.Fatal(err)
	}
	return func() {
		s.t.Helper()
		s.Wipe()
		if err := os.CopyFS(s.data(), os.DirFS(kept)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// WaitReady waits until the server has a leader and answers.
func (s *Server) WaitReady() {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%s %s at %s answers", s.kind, s.Name, s.Endpoint()), func() bool {
		select {
		case <-s.gone:
			s.t.Fatalf("%s %s ended:\n%s", s.kind, s.Name, s.tail())
		default:
		}
		return s.healthy()
	})
}

// ask sends one request to the server from within its own host.
func (s *Server) ask(method, path, body string) (string, bool) {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   s.tls(),
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return s.Host.DialContext(ctx, network, address)
		},
	}}
	scheme := "http"
	if s.options.TLS != nil {
		scheme = "https"
	}
	req, err := http.NewRequest(method, scheme+"://"+s.Endpoint()+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", false
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err == nil && resp.StatusCode == http.StatusOK
}

func (s *Server) tls() *tls.Config {
	if s.options.TLS == nil {
		return nil
	}
	return s.options.TLS.Client(s.t, true)
}

func (s *Server) data() string    { return filepath.Join(s.dir, "data") }
func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

func (s *Server) tail() string {
	text, _ := os.ReadFile(s.logFile())
	return string(text[max(0, len(text)-4000):])
}

// program finds the server.
func program(t testing.TB, kind Kind) string {
	t.Helper()
	if path, err := exec.LookPath(string(kind)); err == nil {
		return path
	}
	if cache, err := os.UserCacheDir(); err == nil {
		if path, err := exec.LookPath(filepath.Join(cache, "sealane", "bin", string(kind))); err == nil {
			return path
		}
	}
	t.Fatalf("there is no %s here: `make servers` gets it", kind)
	return ""
}

// eventually is for what servers do in their own time and tell nobody.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("still not after %s: %s", patience, what)
		}
	}
}
