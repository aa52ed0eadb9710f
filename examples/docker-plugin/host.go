package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/nshost"
)

// programs are where the programs of the demo are.
type programs struct{ sealane, consul, busybox string }

func (p *programs) find() error {
	p.busybox = "busybox"
	for _, program := range []*string{&p.sealane, &p.consul, &p.busybox} {
		path, err := exec.LookPath(*program)
		if err != nil {
			return fmt.Errorf("%w: make docker-demo has them all", err)
		}
		if *program, err = filepath.Abs(path); err != nil {
			return err
		}
	}
	for _, program := range []string{"dockerd", "docker", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("%w: make docker-demo has them all", err)
		}
	}
	return nil
}

// holding is the argument with which this program keeps a host's namespaces, and held what it then says.
const holding, held = "hold", "held"

// hold is a host's first process: it gives it a /run/docker of its own and waits until nobody wants the host any more.
func hold() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/docker", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run/docker", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	fmt.Print(held)
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// host is a network and a mount namespace that act as one.
type host struct {
	name, address, dir string
	tools              programs
	network            *nshost.Host
	holder             *exec.Cmd
	wanted             io.Closer // the holder's input
	running            []*exec.Cmd
	plugin, engine     *exec.Cmd
}

func newHost(dir, name, address string, tools programs) (*host, error) {
	h := &host{name: name, address: address, dir: dir, tools: tools, holder: exec.Command("/proc/self/exe", holding)}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	h.holder.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	input, err := h.holder.StdinPipe()
	if err != nil {
		return nil, err
	}
	h.wanted = input
	output, err := h.holder.StdoutPipe()
	if err != nil {
		return nil, err
	}
	h.holder.Stderr = os.Stderr
	if err := h.holder.Start(); err != nil {
		return nil, err
	}
	if err := h.open(output); err != nil {
		return nil, errors.Join(fmt.Errorf("make host %s: %w", name, err), h.end())
	}
	return h, nil
}

// open waits until the holder says that it is there, and raises the loopback.
func (h *host) open(holder io.Reader) error {
	if _, err := io.ReadFull(holder, make([]byte, len(held))); err != nil {
		return err
	}
	var err error
	if h.network, err = nshost.At(fmt.Sprintf("/proc/%d/ns/net", h.holder.Process.Pid)); err != nil {
		return err
	}
	return h.network.Raise("lo")
}

// in prepares a program to run on the host.
func (h *host) in(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(h.holder.Process.Pid), "-m", "-n"}, args...)...)
	c.Env = append(os.Environ(), "DOCKER_HOST=unix://"+filepath.Join(h.dir, "docker.sock"))
	return c
}

func (h *host) quietly(ctx context.Context, args ...string) error {
	if says, err := h.in(ctx, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("host %s: %s: %w: %s", h.name, strings.Join(args, " "), err, says)
	}
	return nil
}

// wire is what a host calls its end of it.
const wire = "up0"

// connect puts both hosts on one wire.
func connect(a, b *host) error {
	if err := a.network.Connect(wire, b.network, wire); err != nil {
		return err
	}
	return errors.Join(a.plug(), b.plug())
}

// plug gives the host's end of the wire its address.
func (h *host) plug() error { return h.network.Raise(wire, netip.MustParsePrefix(h.address+"/24")) }

// start runs a program on the host for as long as the host is there.
func (h *host) start(name string, args ...string) (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(h.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := h.in(context.Background(), args...)
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		return nil, err
	}
	h.running = append(h.running, c)
	return c, nil
}

// until tries again until it works, for some minutes at most: machines may be busy.
func (h *host) until(ctx context.Context, log string, try func() error) error {
	const patience = 3 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s\nhost %s, which waits for %s: %w", h.logged(log), h.name, log, err)
		}
	}
}

// logged is the end of a program's log.
func (h *host) logged(name string) string {
	const most = 40
	text, _ := os.ReadFile(filepath.Join(h.dir, name+".log"))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

func (h *host) startConsul(ctx context.Context) error {
	h.prompt("consul agent -dev")
	if _, err := h.start("consul", h.tools.consul, "agent", "-dev", "-bind", h.address, "-client", h.address); err != nil {
		return err
	}
	return h.until(ctx, "consul", func() error {
		says, err := h.in(ctx, h.tools.busybox, "wget", "-q", "-O", "-", "http://"+h.address+":8500/v1/status/leader").Output()
		if err == nil && !bytes.Contains(says, []byte(h.address)) {
			err = errors.New("it has no leader")
		}
		return err
	})
}

// startEngine starts the engine, with more flags if there are any, and waits until it answers.
func (h *host) startEngine(ctx context.Context, flags ...string) error {
	if err := h.beginEngine(flags...); err != nil {
		return err
	}
	return h.engineAnswers(ctx)
}

func (h *host) beginEngine(flags ...string) (err error) {
	h.prompt(strings.Join(append([]string{"dockerd"}, flags...), " "))
	for _, stale := range []string{"dockerd.pid", "exec/containerd/containerd.pid"} { // of one that was killed, whose numbers others may have now
		if err := os.Remove(filepath.Join(h.dir, stale)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	h.engine, err = h.start("dockerd", append([]string{"dockerd", "--data-root", h.dir + "/data", "--exec-root", h.dir + "/exec",
		"--pidfile", h.dir + "/dockerd.pid", "-H", "unix://" + h.dir + "/docker.sock"}, flags...)...)
	return err
}

// engineAnswers waits until the engine does, and gives it an image.
func (h *host) engineAnswers(ctx context.Context) error {
	if err := h.until(ctx, "dockerd", func() error { return h.in(ctx, "docker", "version").Run() }); err != nil {
		return err
	}
	if h.in(ctx, "docker", "image", "inspect", "box").Run() == nil {
		return nil
	}
	image, err := h.image()
	if err != nil {
		return err
	}
	load := h.in(ctx, "docker", "import", "-", "box")
	load.Stdin = image
	if says, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("host %s: docker import: %w: %s", h.name, err, says)
	}
	return nil
}

func (h *host) startPlugin(ctx context.Context, store string) (err error) {
	if err := os.Remove(h.dir + "/run/api.sock"); err != nil && !errors.Is(err, os.ErrNotExist) { // of one that was killed
		return err
	}
	h.prompt("sealane serve --docker --docker-names --store " + store + " --advertise " + h.address)
	h.plugin, err = h.start("sealane", h.tools.sealane, "--run", h.dir+"/run", "serve", "--root", h.dir+"/root", "--docker", "--docker-names",
		"--store", store, "--advertise", h.address)
	if err != nil {
		return err
	}
	return h.until(ctx, "sealane", func() error {
		c, err := net.Dial("unix", h.dir+"/run/api.sock")
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

// stop ends a program that runs on the host, as it ends with that signal.
func (h *host) stop(c *exec.Cmd, signal os.Signal) error {
	err := c.Process.Signal(signal)
	_ = c.Wait() // it says that it was told to end
	h.running = slices.DeleteFunc(h.running, func(r *exec.Cmd) bool { return r == c })
	return err
}

// page is what the host's web servers say.
func (h *host) page() string { return "hello from host " + h.name }

// image is a root of busybox and a page.
func (h *host) image() (io.Reader, error) {
	program, err := os.ReadFile(h.tools.busybox)
	if err != nil {
		return nil, err
	}
	var root bytes.Buffer
	w := tar.NewWriter(&root)
	add := func(header tar.Header, content []byte) {
		header.Size = int64(len(content))
		if err == nil {
			err = w.WriteHeader(&header)
		}
		if err == nil {
			_, err = w.Write(content)
		}
	}
	add(tar.Header{Name: "bin/busybox", Mode: 0o755}, program)
	for _, applet := range []string{"sh", "ping", "wget", "httpd", "ip"} {
		add(tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	add(tar.Header{Name: "www/index.html", Mode: 0o644}, []byte(h.page()+"\n"))
	return &root, errors.Join(err, w.Close())
}

func (h *host) prompt(command string) { fmt.Printf("%s$ %s\n", h.name, command) }

// says runs a command on the host as a user would type it, and prints what it says.
func (h *host) says(ctx context.Context, command string) (string, error) {
	h.prompt(command)
	typed := command
	if rest, ours := strings.CutPrefix(command, "sealane "); ours {
		typed = h.tools.sealane + " --run " + h.dir + "/run " + rest
	}
	out, err := h.in(ctx, "sh", "-c", typed).CombinedOutput()
	fmt.Printf("%s", out)
	if err != nil {
		return "", fmt.Errorf("host %s: %s: %w: %s", h.name, command, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (h *host) expects(ctx context.Context, command, want string) error {
	got, err := h.says(ctx, command)
	if err == nil && !strings.Contains(got, want) {
		err = fmt.Errorf("host %s: %s: want %q", h.name, command, want)
	}
	return err
}

// finds waits until a container finds another by name: names come from the engine, and to the other host, a moment after the container.
func (h *host) finds(ctx context.Context, container, name string) error {
	return h.until(ctx, "sealane", func() error { return h.quietly(ctx, "docker", "exec", container, "ping", "-c", "1", "-W", "2", name) })
}

// end stops what runs on the host, the engine's containers first, and the host with it.
func (h *host) end() error {
	const grace = 30 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if ids, err := h.in(ctx, "docker", "ps", "-aq").Output(); err == nil && len(ids) > 0 {
		_ = h.in(ctx, append([]string{"docker", "rm", "-f"}, strings.Fields(string(ids))...)...).Run()
	}
	for _, c := range slices.Backward(h.running) {
		stop := time.AfterFunc(grace, func() { c.Process.Kill() })
		_ = c.Process.Signal(unix.SIGTERM)
		_ = c.Wait() // it says that it was told to end
		stop.Stop()
	}
	errs := []error{h.wanted.Close(), h.holder.Wait()}
	if h.network != nil {
		errs = append(errs, h.network.Close())
	}
	return errors.Join(errs...)
}
