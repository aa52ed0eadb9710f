package nstest

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// LAN joins hosts by a switch, which is a bridge in a host of its own. Each host has an interface "lan" on it.
type LAN struct {
	Switch *Host
	t      testing.TB
	hosts  []*Host
	addrs  map[*Host]netip.Addr
}

const (
	lanPort  = "lan"  // in each host
	together = "lan0" // the bridge
	apart    = "lan1" // the bridge of those who were cut off
)

// NewLAN joins the hosts and gives them the addresses of the subnet in turn, from its first.
func NewLAN(t testing.TB, subnet netip.Prefix, hosts ...*Host) *LAN {
	t.Helper()
	l := &LAN{Switch: New(t, "switch"), t: t, hosts: hosts, addrs: map[*Host]netip.Addr{}}
	for _, name := range []string{together, apart} {
		bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		bridge.Name = name
		snooping := false
		bridge.MulticastSnooping = &snooping
		if err := l.Switch.Netlink().LinkAdd(bridge); err != nil {
			t.Fatalf("bridge %s: %v", name, err)
		}
		if err := l.Switch.Netlink().LinkSetUp(bridge); err != nil {
			t.Fatalf("bridge %s: %v", name, err)
		}
	}
	next := subnet.Masked().Addr()
	for i, h := range hosts {
		next = next.Next()
		l.addrs[h] = next
		if err := l.Switch.host.Connect(port(i), h.host, lanPort); err != nil {
			t.Fatalf("join %s: %v", h.Name, err)
		}
		l.plug(i, together)
		if err := l.Switch.host.Raise(port(i)); err != nil {
			t.Fatalf("join %s: %v", h.Name, err)
		}
		h.address(lanPort, []netip.Prefix{netip.PrefixFrom(next, subnet.Bits())})
	}
	return l
}

func port(i int) string { return fmt.Sprintf("port%d", i) }

// Addr is the address of a host.
func (l *LAN) Addr(h *Host) netip.Addr { return l.addrs[h] }

// Cut parts the given hosts from all others; among themselves they go on talking. Their links stay up, as with a switch that fails
// further away. Each call decides anew for all hosts; without any host it heals the LAN.
func (l *LAN) Cut(hosts ...*Host) {
	l.t.Helper()
	for i, h := range l.hosts {
		bridge := together
		for _, c := range hosts {
			if c == h {
				bridge = apart
			}
		}
		l.plug(i, bridge)
	}
}

// Heal joins all hosts again.
func (l *LAN) Heal() {
	l.t.Helper()
	l.Cut()
}

func (l *LAN) plug(i int, bridge string) {
	l.t.Helper()
	link, err := l.Switch.Netlink().LinkByName(port(i))
	if err != nil {
		l.t.Fatalf("switch: %v", err)
	}
	master, err := l.Switch.Netlink().LinkByName(bridge)
	if err == nil && link.Attrs().MasterIndex != master.Attrs().Index {
		err = l.Switch.Netlink().LinkSetMaster(link, master)
	}
	if err != nil {
		l.t.Fatalf("switch: plug %s into %s: %v", port(i), bridge, err)
	}
}
