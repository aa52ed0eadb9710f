package nshost

import (
	"bytes"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Neighbours tells of the IPv4 neighbours that a host comes to know. It is used by one goroutine.
type Neighbours struct {
	news chan netlink.NeighUpdate
	done chan struct{}
}

// Neighbours listens until it is closed.
func (h *Host) Neighbours() (*Neighbours, error) {
	n := &Neighbours{news: make(chan netlink.NeighUpdate, 1024), done: make(chan struct{})}
	return n, netlink.NeighSubscribeAt(h.ns, n.news, n.done)
}

// Await returns when the host knows a neighbour with a MAC, if it did not before.
func (n *Neighbours) Await(mac net.HardwareAddr) error {
	for one := range n.news {
		if one.Type == unix.RTM_NEWNEIGH && one.Family == unix.AF_INET && bytes.Equal(one.HardwareAddr, mac) {
			return nil
		}
	}
	return fmt.Errorf("the kernel tells of no more neighbours, and of none with MAC %s", mac)
}

// Close ends the listening.
func (n *Neighbours) Close() error {
	close(n.done)
	for range n.news { // until the kernel's side is closed
	}
	return nil
}
