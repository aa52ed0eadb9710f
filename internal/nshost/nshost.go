// Package nshost makes network namespaces that act as hosts, for examples, tests and the bench.
package nshost

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/internal/nsthread"
)

// Host is a network namespace that acts as a host. It is not safe for concurrent use.
type Host struct {
	ns netns.NsHandle
	nl *netlink.Handle
}

// New makes a host with nothing but its loopback, up. It has no name: it ends when it is closed and no process is in it any more.
func New() (*Host, error) {
	var ns netns.NsHandle
	if err := nsthread.New(func() (err error) { ns, err = netns.Get(); return err }); err != nil {
		return nil, err
	}
	h, err := open(ns)
	if err != nil {
		return nil, err
	}
	if err := h.Raise("lo"); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// At is the host whose namespace has its file at path. It is not changed, and lives on when it is closed.
func At(path string) (*Host, error) {
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open namespace %s: %w", path, err)
	}
	return open(ns)
}

// open takes the descriptor over.
func open(ns netns.NsHandle) (*Host, error) {
	nl, err := netlink.NewHandleAt(ns)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink in a namespace: %w", err), ns.Close())
	}
	return &Host{ns: ns, nl: nl}, nil
}

// Path is the file of the namespace, good in every process that may look into our part of /proc, until the host is closed.
func (h *Host) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(h.ns)) }

// Netlink is a handle inside the host, closed with it.
func (h *Host) Netlink() *netlink.Handle { return h.nl }

// FD is the host's own descriptor of the namespace, -1 when the host is closed.
func (h *Host) FD() int { return int(h.ns) }

// Connect makes a veth pair with this end here and that end there, both down.
func (h *Host) Connect(this string, there *Host, that string) error {
	pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: that, PeerNamespace: netlink.NsFd(int(there.ns))}
	pair.Name = this
	if err := h.nl.LinkAdd(pair); err != nil {
		return fmt.Errorf("make veth %s and %s: %w", this, that, err)
	}
	return nil
}

// Raise brings a link up and gives it addresses, without duplicate address detection.
func (h *Host) Raise(link string, prefixes ...netip.Prefix) error {
	l, err := h.nl.LinkByName(link)
	if err == nil {
		err = h.nl.LinkSetUp(l)
	}
	for _, p := range prefixes {
		if err == nil {
			err = h.nl.AddrReplace(l, &netlink.Addr{IPNet: ipNet(p), Flags: unix.IFA_F_NODAD})
		}
	}
	if err != nil {
		return fmt.Errorf("raise %s with addresses %v: %w", link, prefixes, err)
	}
	return nil
}

// Route adds a route through a gateway; the zero prefix of a family is the default route.
func (h *Host) Route(to netip.Prefix, via netip.Addr) error {
	if err := h.nl.RouteAdd(&netlink.Route{Dst: ipNet(to), Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("route %s via %s: %w", to, via, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Close closes what the host is held by.
func (h *Host) Close() error {
	h.nl.Close()
	return h.ns.Close()
}
