package netns

import (
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// word is a number of the kernel's and what ip-link(8) calls it.
type word struct {
	name   string
	number uint32
}

func macvlanModes() []word {
	return []word{{"private", 1}, {"vepa", 2}, {"bridge", 4}, {"passthru", 8}, {"source", 16}}
}
func macvlanFlags() []word { return []word{{"", 0}, {"nopromisc", 1}} }
func ipvlanModes() []word  { return []word{{"l2", 0}, {"l3", 1}, {"l3s", 2}} }
func ipvlanFlags() []word  { return []word{{"bridge", 0}, {"private", 1}, {"vepa", 2}} }

func numberOf(words []word, name string) (uint32, error) {
	for _, w := range words {
		if w.name == name {
			return w.number, nil
		}
	}
	return 0, fmt.Errorf("%w: %q is none of %v", errdefs.ErrInvalidArgument, name, words)
}

func nameOf(words []word, number uint32) string {
	for _, w := range words {
		if w.number == number {
			return w.name
		}
	}
	return ""
}

// writeChild writes what a kind of child device has. Mode and Flag "" are left to the kernel.
func writeChild(b *nlmsg.Batch, c sandbox.Child) error {
	switch c.Kind {
	case "macvlan", "macvtap":
		return writeModes(c, macvlanModes(), macvlanFlags(), func(n uint32) { b.Uint32(unix.IFLA_MACVLAN_MODE, n) },
			func(n uint32) { b.Uint16(unix.IFLA_MACVLAN_FLAGS, uint16(n)) })
	case "ipvlan":
		return writeModes(c, ipvlanModes(), ipvlanFlags(), func(n uint32) { b.Uint16(unix.IFLA_IPVLAN_MODE, uint16(n)) },
			func(n uint32) { b.Uint16(unix.IFLA_IPVLAN_FLAGS, uint16(n)) })
	case "vlan":
		id, err := strconv.ParseUint(c.ID, 10, 16)
		if err != nil || id < 1 || id > 4094 {
			return fmt.Errorf("%w: a VLAN id is 1 to 4094, not %q", errdefs.ErrInvalidArgument, c.ID)
		}
		b.Uint16(unix.IFLA_VLAN_ID, uint16(id))
		return nil
	}
	return fmt.Errorf("%w: a child device is macvlan, macvtap, ipvlan or vlan, not %q", errdefs.ErrInvalidArgument, c.Kind)
}

func writeModes(c sandbox.Child, modes, flags []word, mode, flag func(uint32)) error {
	if c.Mode != "" {
		n, err := numberOf(modes, c.Mode)
		if err != nil {
			return fmt.Errorf("mode of a %s: %w", c.Kind, err)
		}
		mode(n)
	}
	if c.Flag != "" {
		n, err := numberOf(flags, c.Flag)
		if err != nil {
			return fmt.Errorf("flag of a %s: %w", c.Kind, err)
		}
		flag(n)
	}
	return nil
}

// parseChild reads what writeChild writes.
func parseChild(kind string, a map[uint16][]byte) *sandbox.Child {
	c := &sandbox.Child{Kind: kind}
	switch kind {
	case "macvlan", "macvtap":
		c.Mode, c.Flag = nameOf(macvlanModes(), number(a[unix.IFLA_MACVLAN_MODE])), nameOf(macvlanFlags(), number(a[unix.IFLA_MACVLAN_FLAGS]))
	case "ipvlan":
		c.Mode, c.Flag = nameOf(ipvlanModes(), number(a[unix.IFLA_IPVLAN_MODE])), nameOf(ipvlanFlags(), number(a[unix.IFLA_IPVLAN_FLAGS]))
	case "vlan":
		c.ID = strconv.FormatUint(uint64(number(a[unix.IFLA_VLAN_ID])), 10)
	}
	return c
}
