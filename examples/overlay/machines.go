package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/sealane/sealane/internal/vm"
)

// machines is an underlay of machines in QEMU, with a kernel each. This program is the wire between them, and the first process inside.
type machines struct {
	o     options
	dir   string
	wire  *vm.Wire
	hosts map[string]*vm.Machine // by name
}

func newMachines(o options) (*machines, error) {
	dir, err := os.MkdirTemp("", "overlay-demo-")
	return &machines{o: o, dir: dir, hosts: make(map[string]*vm.Machine)}, err
}

func (m *machines) String() string {
	return "machines in QEMU with a kernel each: nothing in yours changes"
}

// modules are what sealane asks of a kernel, and the network card.
func modules() []string {
	return []string{
		"virtio_pci", "virtio_net",
		"veth", "bridge", "vxlan",
		"nf_tables", "nft_chain_nat", "nft_ct", "nft_nat", "nft_masq", "nft_fib_inet", "nf_conntrack_netlink",
	}
}

// image is what both machines start with.
func (m *machines) image(kernel *vm.Kernel) (file string, err error) {
	var i vm.Image
	errs := []error{i.Modules(kernel, modules()...)}
	i.Link("/init", m.program(self))
	for _, name := range []string{self, "sealane", m.o.store, "ping", "busybox"} {
		source, err := exec.LookPath(programPath(m.o.programs, name))
		errs = append(errs, err)
		if err == nil {
			errs = append(errs, i.Program(m.program(name), source))
		}
	}
	for _, applet := range []string{"sh", "ip", "hostname", "mkdir", "kill"} {
		i.Link(m.program(applet), m.program("busybox"))
	}
	for _, empty := range []string{"/etc/hosts", "/etc/resolv.conf", "/etc/passwd"} {
		i.File(empty, nil)
	}
	file = filepath.Join(m.dir, "image")
	return file, errors.Join(append(errs, i.Save(file))...)
}

// open boots the machines side by side.
func (m *machines) open(ctx context.Context, hosts []*host) error {
	kernel, err := vm.OpenKernel(m.o.kernel)
	if err != nil {
		return err
	}
	image, err := m.image(kernel)
	if err != nil {
		return err
	}
	if m.wire, err = vm.NewWire(); err != nil {
		return err
	}
	booted, errs := make([]*vm.Machine, len(hosts)), make([]error, len(hosts))
	var both sync.WaitGroup
	for i, h := range hosts {
		both.Go(func() {
			booted[i], errs[i] = vm.Boot(ctx, vm.Options{Kernel: kernel.Image, Initrd: image, Wire: m.wire, End: i,
				Console: filepath.Join(m.dir, h.name+".console")})
		})
	}
	both.Wait()
	for i, h := range hosts {
		if booted[i] != nil {
			m.hosts[h.name] = booted[i]
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, h := range hosts {
		if err := m.setUp(ctx, h); err != nil {
			return err
		}
	}
	return nil
}

// setUp gives a host its name and address.
func (m *machines) setUp(ctx context.Context, h *host) error {
	h.dir = "/run/demo"
	_, err := m.run(ctx, h, "sh", "-ec", fmt.Sprintf(
		"hostname %s; mkdir %s; ip link set lo up; ip addr add %s/24 dev eth0; ip link set eth0 up", h.name, h.dir, h.address))
	return err
}

func (m *machines) program(name string) string { return "/bin/" + name }

func (m *machines) run(ctx context.Context, h *host, program string, args ...string) (string, error) {
	return m.hosts[h.name].Run(ctx, append([]string{program}, args...)...)
}

// start has a shell start it in the background.
func (m *machines) start(ctx context.Context, h *host, name, program string, args ...string) (kill func() error, err error) {
	const line = `"$@" >"$0" 2>&1 & echo $!`
	pid, err := m.run(ctx, h, "sh", append([]string{"-c", line, filepath.Join(h.dir, name+".log"), program}, args...)...)
	return func() error {
		_, err := m.run(context.WithoutCancel(ctx), h, "kill", "-KILL", pid)
		return err
	}, err
}

// watch listens on the wire.
func (m *machines) watch(ctx context.Context) (<-chan packet, error) {
	seen := make(chan packet, 1)
	m.wire.Listen(func(frame []byte) {
		p := packet{frame: frame}
		if !p.isTunnel() {
			return
		}
		select {
		case seen <- packet{frame: bytes.Clone(frame)}:
		default: // it is not the first
		}
	})
	return seen, nil
}

// close switches the machines off, with all that is in them.
func (m *machines) close(context.Context) error {
	var errs []error
	for _, h := range m.hosts {
		errs = append(errs, h.Close())
	}
	if m.wire != nil {
		errs = append(errs, m.wire.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(m.dir))...)
}
