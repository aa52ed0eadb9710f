package sandboxtest

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/sealane/sealane/sandbox"
)

// shares is what is in the namespace by owner: on the host by mark, elsewhere all of it as owner "".
func (s *space) shares(instance string) map[string]sandbox.Config {
	shares := make(map[string]sandbox.Config)
	change := func(owner string, f func(*sandbox.Config)) {
		c := shares[owner]
		f(&c)
		shares[owner] = c
	}
	owners := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(s.links)) {
		l := s.links[name]
		if s.key == "" && (l.Owner == "" || l.instance != instance) {
			continue
		}
		owner := ""
		if s.key == "" {
			owner = l.Owner
		}
		owners[name] = owner
		change(owner, func(c *sandbox.Config) { c.Links = append(c.Links, l.seen()) })
	}
	for _, r := range s.routes {
		owner, ours := owners[r.Link]
		if ours || s.key != "" {
			change(owner, func(c *sandbox.Config) { c.Routes = append(c.Routes, r) })
		}
	}
	if s.key != "" && len(s.rules) > 0 {
		change("", func(c *sandbox.Config) { c.Rules = slices.Clone(s.rules) })
	}
	return shares
}

// seen is a link as Observe tells of it.
func (l *link) seen() sandbox.Link {
	seen := l.Link
	seen.Arrives, seen.Entries, seen.Announce = "", slices.Clone(l.Entries), nil
	if l.in.key == "" {
		seen.Entries = nil
	}
	seen.Addrs = slices.Clone(l.Addrs)
	if l.peer != nil {
		seen.Veth = l.farEnd()
	}
	return seen
}

// farEnd is what Observe tells of a veth's other end: nothing inside a sandbox, but for ports of a bridge there.
func (l *link) farEnd() *sandbox.Veth {
	switch {
	case l.in.key != "" && (l.Master == "" || !strings.HasPrefix(l.in.key, made)):
		return &sandbox.Veth{}
	case strings.HasPrefix(l.peer.in.key, made):
		return &sandbox.Veth{Space: l.peer.in.key, Peer: l.peer.Name}
	}
	return &sandbox.Veth{Addrs: slices.DeleteFunc(slices.Clone(l.peer.Addrs), func(p netip.Prefix) bool { return p.Addr().IsLinkLocalUnicast() })}
}

func (l *link) kind() string {
	switch {
	case l.peer != nil:
		return "veth"
	case l.Bridge != nil:
		return "bridge"
	case l.VXLAN != nil:
		return "vxlan"
	case l.Child != nil:
		return l.Child.Kind
	case l.Tap != nil:
		return "tun"
	}
	return "dummy"
}

func (s *space) dump(b *strings.Builder, title string) {
	fmt.Fprintf(b, "%s:\n", title)
	for _, name := range slices.Sorted(maps.Keys(s.links)) {
		s.links[name].dump(b)
	}
	for _, line := range sorted(s.routes, sandbox.Route.String) {
		fmt.Fprintf(b, "  route %s\n", line)
	}
	for _, line := range sorted(s.rules, func(r sandbox.Rule) string { return fmt.Sprintf("from %s table %d", r.Source, r.Table) }) {
		fmt.Fprintf(b, "  rule %s\n", line)
	}
}

func (l *link) dump(b *strings.Builder) {
	fmt.Fprintf(b, "  %s %s mtu %d %s", l.kind(), l.Name, l.MTU, l.MAC)
	if l.peer != nil {
		fmt.Fprintf(b, " peer %s in %s", l.peer.Name, cmp.Or(l.peer.in.key, "host"))
	}
	if l.Master != "" {
		fmt.Fprintf(b, " port of %s %s", l.Master, l.Port)
	}
	if l.Owner != "" {
		fmt.Fprintf(b, " of %s:%s", l.instance, l.Owner)
	}
	if l.Down {
		b.WriteString(" down")
	}
	b.WriteByte('\n')
	for _, a := range l.Addrs {
		fmt.Fprintf(b, "    %s\n", a)
	}
	for _, e := range l.Entries {
		fmt.Fprintf(b, "    entry %s %s %s\n", e.Addr, e.MAC, e.Via)
	}
	for _, key := range slices.Sorted(maps.Keys(l.in.sysctls)) {
		if linkOf(key) == l.Name {
			fmt.Fprintf(b, "    %s=%s\n", key, l.in.sysctls[key])
		}
	}
}

func sorted[T any](list []T, text func(T) string) []string {
	var lines []string
	for _, v := range list {
		lines = append(lines, text(v))
	}
	slices.Sort(lines)
	return lines
}
