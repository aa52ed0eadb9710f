package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/firewall"
	"golang.org/x/sys/unix"
)

// gateway is how a network treats each family.
type gateway struct{ mode4, mode6 firewall.Mode }

// check refuses what could not be rendered, before anything is done.
func check(c firewall.Change) error {
	if err := checkOwner(c); err != nil {
		return err
	}
	if err := c.Want.Validate(); err != nil {
		return err
	}
	later := func(what string, n int) error {
		if n == 0 {
			return nil
		}
		return fmt.Errorf("%s: the nftables firewall cannot do that yet: %w", what, errdefs.ErrNotImplemented)
	}
	noICC := slices.ContainsFunc(c.Want.Networks, func(n firewall.Network) bool { return n.NoICC })
	respect := slices.ContainsFunc(c.Want.Ports, func(p firewall.Port) bool { return p.RespectHost })
	for _, r := range c.Want.Redirects {
		if err := checkRedirect(r); err != nil {
			return err
		}
	}
	for _, err := range []error{
		later("pinholes", len(c.Want.Pinholes)), later("policies", len(c.Want.Policies)),
		later("a network whose containers do not reach each other", count(noICC)),
		later("ports that respect the host's input rules", count(respect)),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// checkOwner keeps comments readable: nft allows 128 bytes, and the owner ends at a space.
func checkOwner(c firewall.Change) error {
	const longest = 128 - 1 - (unix.IFNAMSIZ - 1)
	if c.Owner == "" && c.Want.IsZero() {
		return nil // sweeping what has no owner
	}
	bad := func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' }
	if c.Owner == "" || len(c.Owner) > longest || slices.ContainsFunc([]rune(c.Owner), bad) {
		return fmt.Errorf("owner %q is not 1 to %d printable characters without spaces: %w", c.Owner, longest, errdefs.ErrInvalidArgument)
	}
	return nil
}

// renderNetwork appends the elements of a network.
func renderNetwork(to []element, owner string, n firewall.Network) []element {
	device := named(n.Interface)
	to = append(to, keyed(setNets, owner, device), keyed(setPass, owner+" "+n.Interface, device, device))
	if n.Internal {
		to = append(to, keyed(setInternal, owner, device))
	}
	if n.AcceptMark != 0 {
		to = append(to, keyed(setMarked, owner, device, native32(n.AcceptMark)))
	}
	for _, other := range n.Trusted {
		to = append(to, keyed(setPass, owner+" "+n.Interface, named(other), device))
	}
	for _, other := range n.Reach {
		to = append(to, keyed(setPass, owner+" "+n.Interface, device, named(other)))
	}
	for _, p := range n.Subnets {
		set := setSub4
		if p.Addr().Is6() {
			set = setSub6
		}
		to = append(to, span(set, owner, n.Interface, p.Masked()))
	}
	to = renderFamily(to, owner, n, n.Mode4, unix.NFPROTO_IPV4, setSNAT4, n.SNAT4)
	return renderFamily(to, owner, n, n.Mode6, unix.NFPROTO_IPV6, setSNAT6, n.SNAT6)
}

func renderFamily(to []element, owner string, n firewall.Network, m firewall.Mode, nfproto byte, snat setID, source netip.Addr) []element {
	key := [][]byte{{nfproto}, named(n.Interface)}
	switch m {
	case firewall.Off:
		return to
	case firewall.Isolated:
		return append(to, keyed(setIsolated, owner, key...))
	}
	mode := keyed(setMode, owner, key...)
	copy(mode.data[:], chainOf(m))
	to = append(to, mode)
	switch {
	case !m.Translates() || n.NoMasq:
	case source.IsValid():
		e := keyed(snat, owner, named(n.Interface))
		copy(e.data[:], source.AsSlice())
		to = append(to, e)
	default:
		to = append(to, keyed(setMasq, owner, key...))
	}
	return to
}

// chainOf is the chain that a mode's verdict leads to.
func chainOf(m firewall.Mode) string {
	switch m {
	case firewall.NAT:
		return chainNAT
	case firewall.NATUnprotected:
		return chainUnprotected
	}
	return chainRouted
}

func modeOf(chain string) firewall.Mode {
	switch chain {
	case chainNAT:
		return firewall.NAT
	case chainUnprotected:
		return firewall.NATUnprotected
	case chainRouted:
		return firewall.Routed
	}
	return firewall.Off
}

// renderPort appends one element for each port: nft cannot shift a range.
func renderPort(to []element, owner string, p firewall.Port, g gateway) []element {
	note := strings.TrimSuffix(owner+" "+p.Interface, " ")
	mode, open, at, everywhere := g.mode4, setOpen4, setPub4, setPub4Any
	if p.Host.Is6() {
		mode, open, at, everywhere = g.mode6, setOpen6, setPub6, setPub6Any
	}
	host, target := p.Host.AsSlice(), p.Target.AsSlice()
	for i := range p.HostPorts.Len() {
		outer, inner := port16(p.HostPorts.First+uint16(i)), port16(p.Ports.First+uint16(i))
		if mode == firewall.Routed {
			to = append(to, keyed(open, note, target, []byte{byte(p.Proto)}, inner))
			continue
		}
		var e element
		if p.Host.IsUnspecified() {
			e = keyed(everywhere, note, []byte{byte(p.Proto)}, outer)
		} else {
			e = keyed(at, note, host, []byte{byte(p.Proto)}, outer)
		}
		copy(e.data[copy(e.data[:], target):], inner)
		to = append(to, e)
	}
	return to
}

// render is all elements of one owner's terms, each once.
func render(owner string, t firewall.Terms, gateways map[string]gateway) []element {
	var all []element
	for _, n := range t.Networks {
		all = renderNetwork(all, owner, n)
	}
	for _, p := range t.Ports {
		all = renderPort(all, owner, p, gateways[p.Interface])
	}
	for _, tunnel := range t.Tunnels {
		all = renderTunnel(all, owner, tunnel)
	}
	return unique(all)
}

// unique leaves out repetitions: in routed mode two host ports may open one container port.
func unique(all []element) []element {
	if len(all) < 2 {
		return all
	}
	seen := make(map[element]struct{}, len(all))
	return slices.DeleteFunc(all, func(e element) bool {
		_, again := seen[e]
		seen[e] = struct{}{}
		return again
	})
}

// difference is what is in have and not in want, and the reverse.
func difference(have, want []element) (gone, added []element) {
	return except(have, want), except(want, have)
}

func except(all, without []element) []element {
	if len(all) == 0 || len(without) == 0 {
		return all
	}
	not := make(map[element]struct{}, len(without))
	for _, e := range without {
		not[e] = struct{}{}
	}
	return slices.DeleteFunc(slices.Clone(all), func(e element) bool { _, is := not[e]; return is })
}
