// Runtime is a container runtime in one file: namespaces, a root directory, a network, published ports. The network is the library's
// work: see run. It is no jail: there is no user namespace, and no capability is dropped.
//
//	go build ./examples/runtime && sudo ./runtime -p 8080:80 httpd -f
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/drivers"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
	"golang.org/x/sys/unix"
)

const instance = "sealane-runtime" // marks what is ours: other instances of sealane go on beside it

func main() {
	if os.Args[0] == instance { // start has brought us here: we are in the container
		fmt.Fprintln(os.Stderr, "runtime:", become(os.Args[1], os.Args[2], os.Args[3:]))
		os.Exit(127)
	}
	host := flag.String("host", "", "`path` of a network namespace that acts as the host; none: this machine's own")
	root := flag.String("root", "", "root `directory` with proc and dev in it; none: one with busybox is made")
	var publish []endpoint.PortBinding
	flag.Func("p", "publish a `port`: [IP:][HOST:]CONTAINER[/udp]", func(s string) error {
		b, err := endpoint.ParsePort(s)
		publish = append(publish, b)
		return err
	})
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	command := append(flag.Args(), "sh")[:max(1, flag.NArg())] // sh when none is given
	err := run(ctx, *host, *root, publish, command)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		os.Exit(exit.ExitCode())
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "runtime:", err)
		os.Exit(125)
	}
}

// run gives a command a network and a root directory, and takes everything away when it has ended, or ctx has.
func run(ctx context.Context, host, root string, publish []endpoint.PortBinding, command []string) (err error) {
	finally := func(do func(context.Context) error) { err = errors.Join(err, do(context.WithoutCancel(ctx))) }
	dir, err := os.MkdirTemp("", instance+"-")
	if err != nil {
		return err
	}
	defer finally(func(context.Context) error { return os.RemoveAll(dir) })
	spaces, err1 := netns.New(netns.Options{Host: host, Run: dir, Instance: instance})
	walls, err2 := nftables.New(nftables.Options{Host: host, Instance: instance})
	addresses, err3 := pool.New(pool.Options{HostID: instance})
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	defer finally(func(context.Context) error { return spaces.Close() })
	ctl, err := sealane.New(ctx, sealane.Options{Instance: instance, Run: datastore.NewMemory(), Spaces: spaces, Firewalls: walls,
		Drivers: drivers.All(), IPAM: map[string]ipam.Driver{"default": addresses}})
	if err != nil {
		return err
	}
	defer finally(func(context.Context) error { return ctl.Close() })
	network, err := ctl.CreateNetwork(ctx, sealane.NetworkSpec{Name: "runtime", IPv6: true})
	if err != nil {
		return err
	}
	defer finally(network.Delete)
	sb, err := ctl.CreateSandbox(ctx, sandbox.Spec{})
	if err != nil {
		return err
	}
	defer finally(sb.Delete)
	ep, err := network.CreateEndpoint(ctx, endpoint.Spec{For: sb.ID(), Publish: publish})
	if err == nil {
		err = ep.Join(ctx, sb)
	}
	if err == nil && root == "" {
		root, err = busybox(dir + "/root")
	}
	if err != nil {
		return err
	}
	at, err1 := ep.Info(ctx)
	in, err2 := sb.Info(ctx)
	fmt.Fprintf(os.Stderr, "runtime: addresses %v, ports %v\n", at.Addresses, at.Ports)
	return errors.Join(err1, err2, start(ctx, in.Key, root, command))
}

// busybox makes a root directory with the machine's busybox, which must be static, and its commands.
func busybox(root string) (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("install Debian's busybox-static, or give -root: %w", err)
	}
	program, err := os.ReadFile(path)
	err = errors.Join(err, os.MkdirAll(root+"/bin", 0o755), os.Mkdir(root+"/dev", 0o755), os.Mkdir(root+"/proc", 0o755),
		os.WriteFile(root+"/bin/busybox", program, 0o755))
	install := exec.Command("/bin/busybox", "--install", "-s", "/bin")
	install.SysProcAttr = &unix.SysProcAttr{Chroot: root}
	return root, errors.Join(err, install.Run())
}

// start runs a command in the network namespace at path, in others of its own, and at root, and waits for its end.
func start(ctx context.Context, path, root string, command []string) error {
	runtime.LockOSThread() // Pdeathsig is sent when the thread that started the process ends
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{instance, path, root}, command...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL, Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Unshareflags: unix.CLONE_NEWNS} // and not of Cloneflags: what is mounted there stays there
	return cmd.Run()
}

// become turns this process into the command. A network namespace is a thread's: the one that enters it is the one that calls exec, and is
// the only one of the new program.
func become(path, root string, command []string) error {
	runtime.LockOSThread()
	ns, err := os.Open(path)
	if err != nil {
		return err
	}
	err = errors.Join(
		unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET),
		unix.Sethostname([]byte("box")),
		unix.Mount(root, root, "", unix.MS_REC|unix.MS_BIND, ""), // a root must be a mount
		unix.Mount("/dev", root+"/dev", "", unix.MS_REC|unix.MS_BIND, ""),
		unix.Mount("proc", root+"/proc", "proc", 0, ""),
		unix.Chdir(root), unix.PivotRoot(".", "."), unix.Unmount(".", unix.MNT_DETACH), unix.Chdir("/"),
		os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))
	program, missing := exec.LookPath(command[0])
	if err := errors.Join(err, missing); err != nil {
		return err
	}
	return unix.Exec(program, command, os.Environ())
}
