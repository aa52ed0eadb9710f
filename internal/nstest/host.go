// Package nstest makes network namespaces that act as hosts, for tests, and checks that nothing is left in them.
//
// The machine's own namespace is never changed. It needs root and fails loudly without.
package nstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/nshost"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is a network namespace that acts as a host. It lives until the test ends.
type Host struct {
	Name string
	t    testing.TB

	mu   sync.Mutex // guards the end of host, which a client's dialling may outlive
	host *nshost.Host
}

// New makes a host with nothing but its loopback, up, and bridge-nf-call off. Its descriptors are closed at cleanup.
func New(t testing.TB, name string) *Host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("kernel tests make network namespaces: run them as root")
	}
	host, err := nshost.New()
	h := hostOf(t, name, host, err)
	h.BridgeNetfilter(false)
	return h
}

// At takes a namespace that exists for a host, by the path of its file. It is not changed, and lives on after the test.
func At(t testing.TB, name, path string) *Host {
	t.Helper()
	host, err := nshost.At(path)
	return hostOf(t, name, host, err)
}

// hostOf closes it at cleanup.
func hostOf(t testing.TB, name string, host *nshost.Host, err error) *Host {
	t.Helper()
	if err != nil {
		t.Fatalf("host %s: %v", name, err)
	}
	h := &Host{Name: name, t: t, host: host}
	t.Cleanup(h.close)
	return h
}

// hold is a descriptor of the namespace for who may outlive the test.
func (h *Host) hold() (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.host.FD() < 0 {
		return -1, fmt.Errorf("host %s: %w", h.Name, os.ErrClosed)
	}
	return unix.FcntlInt(uintptr(h.host.FD()), unix.F_DUPFD_CLOEXEC, 0)
}

func (h *Host) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.host.Close(); err != nil {
		h.t.Errorf("host %s: %v", h.Name, err)
	}
}

// Path is the file of the namespace, good in this process and in every process that may look into /proc, until the test ends.
func (h *Host) Path() string { return h.host.Path() }

// Netlink is a handle inside the host.
func (h *Host) Netlink() *netlink.Handle { return h.host.Netlink() }

// Do runs fn on a thread inside the host.
func (h *Host) Do(fn func() error) {
	h.t.Helper()
	if err := nsthread.DoFD(h.host.FD(), fn); err != nil {
		h.t.Fatalf("host %s: %v", h.Name, err)
	}
}

// Sysctl writes a value below /proc/sys/net, dots or slashes.
func (h *Host) Sysctl(key, value string) {
	h.t.Helper()
	h.Do(func() error {
		return os.WriteFile("/proc/sys/net/"+strings.ReplaceAll(key, ".", "/"), []byte(value), 0)
	})
}

// BridgeNetfilter says whether bridged packets pass the firewall, both families. Fresh namespaces may start with either.
func (h *Host) BridgeNetfilter(on bool) {
	h.t.Helper()
	value := "0"
	if on {
		value = "1"
	}
	h.Sysctl("bridge/bridge-nf-call-iptables", value)
	h.Sysctl("bridge/bridge-nf-call-ip6tables", value)
}

// Command prepares a program to run inside the host.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + h.Path(), name}, args...)...)
}

// Try runs a program inside the host for at most a minute and returns what it printed on both outputs.
func (h *Host) Try(name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := h.Command(ctx, name, args...).CombinedOutput()
	return string(out), err
}

// Run is Try that must succeed.
func (h *Host) Run(name string, args ...string) string {
	h.t.Helper()
	out, err := h.Try(name, args...)
	if err != nil {
		h.t.Fatalf("host %s: %s %s: %v\n%s", h.Name, name, strings.Join(args, " "), err, out)
	}
	return out
}

// Connect joins two hosts with a veth pair that bears their names (a's end is named b's name and the reverse) and gives each end its
// addresses, without duplicate address detection.
func Connect(a, b *Host, onA, onB []netip.Prefix) {
	a.t.Helper()
	if err := a.host.Connect(b.Name, b.host, a.Name); err != nil {
		a.t.Fatalf("connect %s and %s: %v", a.Name, b.Name, err)
	}
	a.address(b.Name, onA)
	b.address(a.Name, onB)
}

func (h *Host) address(link string, prefixes []netip.Prefix) {
	h.t.Helper()
	h.Sysctl("ipv6/conf/"+link+"/addr_gen_mode", "1") // a link-local address that comes late would look like a leftover
	l, err := h.Netlink().LinkByName(link)
	if err == nil {
		err = h.host.Raise(link, append(slices.Clip(prefixes), linkLocal(l.Attrs().HardwareAddr))...)
	}
	if err != nil {
		h.t.Fatalf("host %s: %v", h.Name, err)
	}
}

// linkLocal is the address that the kernel would make of a MAC (RFC 4291, appendix A). Without one it solicits no neighbours for what it
// forwards.
func linkLocal(mac net.HardwareAddr) netip.Prefix {
	a := [16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]}
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// Route adds a route through a gateway; the zero prefix of a family is the default route.
func (h *Host) Route(dst netip.Prefix, via netip.Addr) {
	h.t.Helper()
	if err := h.host.Route(dst, via); err != nil {
		h.t.Fatalf("host %s: %v", h.Name, err)
	}
}

// Listen listens inside the host.
func (h *Host) Listen(network, address string) net.Listener {
	h.t.Helper()
	var l net.Listener
	h.Do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	h.t.Cleanup(func() { l.Close() })
	return l
}

// ListenPacket is Listen for datagrams.
func (h *Host) ListenPacket(network, address string) net.PacketConn {
	h.t.Helper()
	var c net.PacketConn
	h.Do(func() (err error) {
		c, err = net.ListenPacket(network, address)
		return err
	})
	h.t.Cleanup(func() { c.Close() })
	return c
}

// Dial connects from inside the host, from any address of a family, within ten seconds.
func (h *Host) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return h.DialContext(ctx, network, address)
}

// DialContext connects from inside the host, as long as ctx lets it. Addresses are literals, so the thread that is in the host is the one
// that connects.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	ns, err := h.hold()
	if err != nil {
		return nil, err
	}
	defer unix.Close(ns)
	var c net.Conn
	err = nsthread.DoFD(ns, func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Repeated says whether a packet was lost while a TCP connection was made: one was sent again, or a question for a MAC was, a second later.
// It is the kernel that measures, so that what else runs on the machine does not count.
func Repeated(t testing.TB, c net.Conn) bool {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	var failed error
	err = raw.Control(func(fd uintptr) { info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return info.Total_retrans > 0 || info.Rtt > 700_000 // µs
}
