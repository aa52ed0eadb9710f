package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/docker"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/remote"
	"github.com/sealane/sealane/sandbox"
)

// plugin is sealane as a Docker engine's plugin. Attach and Detach are the verbs that an engine sends for docker run and docker rm, over HTTP,
// without an engine and so without moving the link; Run has a real engine do it.
type plugin struct {
	*ours
	server *remote.Server
	clock  *clock
	client http.Client
	pool   string
	made   int
	engine *exec.Cmd // nil: none yet
	log    strings.Builder
}

const (
	pluginSocket = "/run/docker/plugins/sealane.sock"
	engineSocket = "/run/docker.sock"
	pluginNet    = "n1" // of the engine-less client
)

func newPlugin(mode Mode) (*plugin, error) {
	p := &plugin{ours: &ours{mode: mode}, clock: &clock{}}
	if err := p.start(); err != nil {
		return nil, err
	}
	driver := docker.New(docker.Options{Name: "sealane", Controller: p.control, Run: p.run, Root: p.root})
	p.server = remote.NewServer(driver.Network(), driver.Addresses(), nil)
	l, err := remote.Listen(pluginSocket, 0)
	if err != nil {
		return nil, err
	}
	go p.server.Serve(clocked{l, p.clock})
	p.client.Transport = over(pluginSocket)
	return p, p.network()
}

// over talks to a unix socket and keeps its connections, as engines do.
func over(path string) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
}

// call is one verb; it returns a field of the answer.
func (p *plugin) call(verb, field, body string, args ...any) (string, error) {
	reply, err := p.client.Post("http://plugin/"+verb, "", strings.NewReader(fmt.Sprintf(body, args...)))
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	var said map[string]any
	if err := json.NewDecoder(reply.Body).Decode(&said); err != nil {
		return "", fmt.Errorf("%s: %w", verb, err)
	}
	if reply.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %v", verb, reply.Status, said)
	}
	text, _ := said[field].(string)
	return text, nil
}

func (p *plugin) network() (err error) {
	const subnet, gateway = "10.213.0.0/16", "10.213.0.1/16"
	if p.pool, err = p.call("IpamDriver.RequestPool", "PoolID", `{"AddressSpace": "local", "Pool": %q}`, subnet); err != nil {
		return err
	}
	if _, err = p.call("IpamDriver.RequestAddress", "", `{"PoolID": %q, "Options": {"RequestAddressType": "com.docker.network.gateway"}}`, p.pool); err != nil {
		return err
	}
	_, err = p.call("NetworkDriver.CreateNetwork", "", `{"NetworkID": %q, "IPv4Data": [{"AddressSpace": "local", "Pool": %q, "Gateway": %q}]}`, pluginNet, subnet, gateway)
	return err
}

// pluginEnd is an endpoint of the client's.
type pluginEnd struct{ id, address string }

func (p *plugin) Attach() (Handle, error) {
	p.made++
	e := pluginEnd{id: fmt.Sprintf("e%d", p.made)}
	var err error
	if e.address, err = p.call("IpamDriver.RequestAddress", "Address", `{"PoolID": %q}`, p.pool); err != nil {
		return nil, err
	}
	const named = `"NetworkID": %q, "EndpointID": %q`
	for _, v := range []struct{ verb, more string }{
		{"CreateEndpoint", `, "Interface": {"Address": ` + fmt.Sprintf("%q", e.address) + `}, "Options": {"com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}]}`},
		{"Join", `, "SandboxKey": "/var/run/docker/netns/` + e.id + `"`},
		{"ProgramExternalConnectivity", `, "Options": {"com.docker.network.portmap": [{"Proto": 6, "Port": 80}]}`},
		{"EndpointOperInfo", ""}, {"EndpointOperInfo", ""},
	} {
		if _, err := p.call("NetworkDriver."+v.verb, "", "{"+named+v.more+"}", pluginNet, e.id); err != nil {
			return nil, err
		}
	}
	return e, nil
}

func (p *plugin) Detach(h Handle) error {
	e := h.(pluginEnd)
	for _, verb := range []string{"RevokeExternalConnectivity", "Leave", "DeleteEndpoint"} {
		if _, err := p.call("NetworkDriver."+verb, "", `{"NetworkID": %q, "EndpointID": %q}`, pluginNet, e.id); err != nil {
			return err
		}
	}
	address, _, _ := strings.Cut(e.address, "/")
	_, err := p.call("IpamDriver.ReleaseAddress", "", `{"PoolID": %q, "Address": %q}`, p.pool, address)
	return err
}

// Prepare has nothing to make ready.
func (p *plugin) Prepare(int) error { return nil }

// Close ends the engine first, with what it runs.
func (p *plugin) Close() error {
	var errs []error
	if p.engine != nil {
		errs = append(errs, p.engine.Process.Signal(unix.SIGTERM))
		_ = p.engine.Wait() // it says that it was told to end
	}
	return errors.Join(append(errs, p.server.Close(context.Background()), p.ours.Close())...)
}

// clock notes what requests take on our side of the connections: from the moment at which one has been read until its answer is written.
type clock struct {
	mu    sync.Mutex
	spent []spent
}

// spent is one request.
type spent struct {
	Verb string
	Took time.Duration
}

func (c *clock) note(verb string, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spent = append(c.spent, spent{verb, took})
}

func (c *clock) reset() (was []spent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, c.spent = c.spent, nil
	return was
}

type clocked struct {
	net.Listener
	clock *clock
}

func (l clocked) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &clockedConn{Conn: c, clock: l.clock}, err
}

const longestVerb = 64 // with what stands before it

// clockedConn is one connection. The server reads a request before it answers, and reads on meanwhile.
type clockedConn struct {
	net.Conn
	clock *clock
	mu    sync.Mutex
	since time.Time
	head  []byte // what has been read of the request, until that says the verb
}

func (c *clockedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 && c.since.IsZero() {
		c.since, c.head = time.Now(), nil
	}
	if len(c.head) < longestVerb {
		c.head = append(c.head, p[:n]...)
	}
	return n, err
}

func (c *clockedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.clock.note(verbIn(c.head), time.Since(c.since))
	c.since = time.Time{}
	c.mu.Unlock()
	return c.Conn.Write(p)
}

// verbIn reads the beginning of POST /NetworkDriver.Join HTTP/1.1.
func verbIn(request []byte) string {
	_, after, _ := strings.Cut(string(request), ".")
	verb, _, _ := strings.Cut(after, " ")
	return verb
}

// idle is a driver whose Join costs nothing, so that what a call takes is the way to it and back.
type idle struct{ netdriver.Driver }

func (idle) Join(context.Context, netdriver.Input, endpoint.Info) (netdriver.Plan, error) {
	return netdriver.Plan{Attachment: &sandbox.Attachment{Link: sandbox.Link{Name: "sp0123456789ab"}}}, nil
}

// Cycle has n endpoints begin and end, one after another. Between them what is dead is deleted, which is not measured, as with the floor: an
// engine leaves more time than that takes.
func (p *plugin) Cycle(n int) (verbs [][]spent, err error) {
	for range n {
		p.clock.reset()
		h, err := p.Attach()
		if err == nil {
			err = p.Detach(h)
		}
		if err != nil {
			return nil, err
		}
		verbs = append(verbs, p.clock.reset())
		if err := p.spaces.Drain(context.Background()); err != nil {
			return nil, err
		}
	}
	return verbs, nil
}

// Overhead is what single calls take that do nothing.
func (p *plugin) Overhead(n int) (each []time.Duration, err error) {
	const path = "/run/sealane/idle.sock"
	server := remote.NewServer(idle{}, nil, nil)
	l, err := remote.Listen(path, 0)
	if err != nil {
		return nil, err
	}
	served := make(chan struct{})
	go func() { defer close(served); server.Serve(l) }()
	defer func() {
		err = errors.Join(err, l.Close())
		<-served
	}()
	to := plugin{client: http.Client{Transport: over(path)}}
	defer to.client.CloseIdleConnections()
	for range n {
		start := time.Now()
		if _, err := to.call("NetworkDriver.Join", "", `{"NetworkID": "n", "EndpointID": "e", "SandboxKey": "/var/run/docker/netns/x", "Options": {}}`); err != nil {
			return nil, err
		}
		each = append(each, time.Since(start))
	}
	return each, nil
}

// startEngine starts dockerd with an image of busybox and a network of ours beside one of its own.
func (p *plugin) startEngine() error {
	const dir = "/run/engine"
	p.engine = exec.Command("dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid", "-H", "unix://"+engineSocket)
	p.engine.Stdout, p.engine.Stderr = &p.log, &p.log
	if err := errors.Join(os.MkdirAll(dir, 0o711), p.engine.Start()); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); command("docker", "version") != nil; {
		if time.Now().After(deadline) {
			return fmt.Errorf("the engine does not answer: %s", p.log.String())
		}
	}
	box, err := image()
	if err != nil {
		return err
	}
	load := exec.Command("docker", "import", "-", "box")
	load.Stdin = box
	if says, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("docker import: %w: %s", err, says)
	}
	if err := command("docker", "network", "create", "-d", "bridge", "moby"); err != nil {
		return err
	}
	return command("docker", "network", "create", "-d", "sealane", "--ipam-driver", "sealane", "sealane")
}

// image is a root of busybox alone.
func image() (io.Reader, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var root strings.Builder
	w := tar.NewWriter(&root)
	for _, f := range []struct {
		tar.Header
		text []byte
	}{{tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))}, program}, {tar.Header{Name: "bin/true", Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil}} {
		if err := w.WriteHeader(&f.Header); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.text); err != nil {
			return nil, err
		}
	}
	err = w.Close()
	return strings.NewReader(root.String()), err
}

// Run has the engine run n containers, one after another, on a network by name: each, and what our verbs took of each.
func (p *plugin) Run(network string, port bool, n int) (each []time.Duration, verbs [][]spent, err error) {
	if p.engine == nil {
		if err := p.startEngine(); err != nil {
			return nil, nil, err
		}
	}
	args := []string{"run", "--rm", "--network", network, "box", "true"}
	if port {
		args = slices.Insert(args, 2, "-p", "8080:80")
	}
	for range n {
		p.clock.reset()
		start := time.Now()
		if err := command("docker", args...); err != nil {
			return nil, nil, err
		}
		each, verbs = append(each, time.Since(start)), append(verbs, p.clock.reset())
	}
	return each, verbs, nil
}

// dockerRows has an engine run containers on our network and on its own.
func dockerRows(b *bench) (measure, error) {
	children, err := b.start(Mode{Docker: true}, "sealane")
	if err != nil || len(children) == 0 {
		return func() ([]row, error) { return nil, nil }, err
	}
	return func() (rows []row, err error) {
		for _, port := range []bool{false, true} {
			some, err := b.dockerRuns(children[0], port)
			if err != nil {
				return nil, err
			}
			rows = append(rows, some...)
		}
		return rows, nil
	}, nil
}

// verbRows has a client that is no engine ask as one does.
func verbRows(b *bench) (measure, error) {
	alone, err := b.start(Mode{Docker: true}, "sealane")
	if err != nil || len(alone) == 0 {
		return func() ([]row, error) { return nil, nil }, err
	}
	pairs, err := b.crowds()
	if err != nil {
		return nil, err
	}
	return func() ([]row, error) {
		empty, err := alone[0].do(order{Do: "overhead", N: 500})
		if err != nil {
			return nil, err
		}
		flat, err := b.crowdOfVerbs(pairs)
		return append([]row{{work: "plugin: a verb that does nothing, over HTTP", runs: []values{{"sealane": median(seconds(empty.Each))}},
			goals: []goal{under(150e-6, "≤ 150 µs")}}}, flat...), err
	}, nil
}

// dockerRuns has the engine run containers on its own network and on ours in turn.
func (b *bench) dockerRuns(c *child, port bool) ([]row, error) {
	const perTurn = 2
	what := "docker run --rm"
	if port {
		what += " -p"
	}
	took, verbs := make(map[string][]float64), [][]spent(nil)
	for range b.rounds {
		for network, subject := range map[string]string{"moby": "moby", "sealane": "sealane"} {
			r, err := c.do(order{Do: "run", N: perTurn, Network: network, Port: port})
			if err != nil {
				return nil, err
			}
			took[subject] = append(took[subject], seconds(r.Each)...)
			if subject == "sealane" {
				verbs = append(verbs, r.Verbs...)
			}
		}
	}
	b.tellVerbs(what, verbs)
	start, stop, all := sums(verbs)
	limit := []goal{under(5e-3, "≤ 5 ms")}
	return []row{
		{work: what, runs: []values{medians(took)}, goals: []goal{atMost(1, "moby", "≤ the engine's own")}},
		{work: what + ": our verbs until it runs", runs: []values{{"sealane": median(start)}}, goals: limit},
		{work: what + ": our verbs when it ends", runs: []values{{"sealane": median(stop)}}},
		{work: what + ": our verbs, start and end", runs: []values{{"sealane": median(all)}}, goals: limit},
	}, nil
}

// sums are what each run's verbs took: of its start, as issue and engines have it (RequestAddress, CreateEndpoint, Join,
// ProgramExternalConnectivity, EndpointOperInfo, which some engines send twice), of its end, and together.
func sums(runs [][]spent) (start, stop, all []float64) {
	ends := []string{"RevokeExternalConnectivity", "Leave", "DeleteEndpoint", "ReleaseAddress"}
	for _, run := range runs {
		var begun, ended time.Duration
		for _, v := range run {
			if slices.Contains(ends, v.Verb) {
				ended += v.Took
			} else {
				begun += v.Took
			}
		}
		start, stop, all = append(start, begun.Seconds()), append(stop, ended.Seconds()), append(all, (begun+ended).Seconds())
	}
	return start, stop, all
}

// tellVerbs says what each verb took.
func (b *bench) tellVerbs(what string, runs [][]spent) {
	took, order := make(map[string][]float64), []string(nil)
	for _, run := range runs {
		for _, v := range run {
			if took[v.Verb] == nil {
				order = append(order, v.Verb)
			}
			took[v.Verb] = append(took[v.Verb], v.Took.Seconds())
		}
	}
	for _, verb := range order {
		fmt.Fprintf(b.progress, "%s: %s %s (%d)\n", what, verb, duration.format(median(took[verb])), len(took[verb]))
	}
}

// cycler is a subject of which endpoints begin and end, one after another, and that says what each verb took.
type cycler interface {
	Cycle(n int) (verbs [][]spent, err error)
}

// crowd is a subject twice, once beside nothing and once beside a thousand endpoints, so that the two can take turns.
type crowd struct {
	name  string
	sides [2]*child
	verbs [2][][]spent
}

var sideNames = [...]string{"first endpoint", "1,000th endpoint"}

// crowds fills the second of each pair.
func (b *bench) crowds() (all []*crowd, err error) {
	const many = 999
	first, err := b.start(Mode{Docker: true}, "floor", "sealane")
	if err != nil {
		return nil, err
	}
	second, err := b.start(Mode{Docker: true}, "floor", "sealane")
	if err != nil {
		return nil, err
	}
	for i, c := range first {
		for _, in := range []struct {
			*child
			beside int
		}{{c, 0}, {second[i], many}} {
			if _, err := in.do(order{Do: "cycle", N: 1}); err != nil { // what is made once
				return nil, err
			}
			if _, err := in.do(order{Do: "attach", N: in.beside}); err != nil {
				return nil, err
			}
		}
		all = append(all, &crowd{name: c.name, sides: [2]*child{c, second[i]}})
	}
	return all, nil
}

// typical is a run of which each verb takes the median of what it takes. On a machine that others use, who runs longer is interrupted more often:
// the median of the runs would tell of them.
func typical(runs [][]spent) (one []spent) {
	for i, v := range runs[0] {
		var took []float64
		for _, run := range runs {
			took = append(took, run[i].Took.Seconds())
		}
		one = append(one, spent{v.Verb, time.Duration(median(took) * float64(time.Second))})
	}
	return one
}

// crowdOfVerbs is the verbs of an endpoint when there is none and when there are a thousand, all of one client, beside what the kernel alone
// takes longer: that is the floor, and what is ours is flat when it does not grow.
func (b *bench) crowdOfVerbs(all []*crowd) (rows []row, err error) {
	for _, c := range all {
		c.verbs = [2][][]spent{}
	}
	for range b.rounds {
		for _, c := range all {
			for i, side := range c.sides {
				r, err := side.do(order{Do: "cycle", N: perRound})
				if err != nil {
					return nil, err
				}
				c.verbs[i] = append(c.verbs[i], r.Verbs...)
			}
		}
	}
	figures := [2][3]values{{{}, {}, {}}, {{}, {}, {}}} // by side; start, end and both
	for _, c := range all {
		for i, verbs := range c.verbs {
			b.tellVerbs(c.name+", "+sideNames[i], verbs)
			start, end, sum := sums([][]spent{typical(verbs)})
			for j, list := range [][]float64{start, end, sum} {
				figures[i][j][c.name] = list[0]
			}
		}
	}
	first, last := figures[0], figures[1]
	for i, what := range []string{"start", "end", "both"} {
		last[i]["first"], last[i]["ours"], last[i]["ours first"] = first[i]["sealane"], last[i]["sealane"]-last[i]["floor"], first[i]["sealane"]-first[i]["floor"]
		rows = append(rows,
			row{work: "plugin: verbs of the " + sideNames[0] + ", " + what, runs: []values{first[i]}},
			row{work: "plugin: verbs of the " + sideNames[1] + ", " + what, runs: []values{last[i]}, goals: []goal{
				atMost(1.25, "first", "≤ 1.25 × the first"),
				{text: "without the floor ≤ 1.25 × the first without", figure: func(r row) float64 { return r.ratio("ours", "ours first") }, most: true, limit: 1.25},
			}})
	}
	return rows, nil
}
