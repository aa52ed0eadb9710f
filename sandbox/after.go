package sandbox

import (
	"net/netip"
	"slices"
)

// After is what is there once steps are done where have was.
func After(have Config, steps []Step) Config {
	for _, s := range steps {
		have = s.after(have)
	}
	return have
}

// after is what is there once s is done where c was. c is not changed.
func (s Step) after(c Config) Config {
	switch s.Op {
	case AddLink:
		l := s.Link
		l.Addrs, l.Entries = nil, nil
		c.Links = append(without(c.Links, func(o Link) bool { return o.Name == l.Name }), l)
	case DelLink:
		goes := func(name string) bool { return name != "" && (name == s.Link.Name || name == s.Link.twin()) }
		c.Links = without(c.Links, func(o Link) bool { return goes(o.Name) })
		if !s.Link.Adopt {
			c.Routes = without(c.Routes, func(r Route) bool { return goes(r.Link) })
			c.Sysctls = without(c.Sysctls, func(v Sysctl) bool { return goes(v.Link) })
		}
	case AddRoute:
		c.Routes = append(without(c.Routes, func(r Route) bool { return r == s.Route }), s.Route)
	case DelRoute:
		c.Routes = without(c.Routes, func(r Route) bool { return r == s.Route })
	case AddRule:
		c.Rules = append(without(c.Rules, func(r Rule) bool { return r == s.Rule }), s.Rule)
	case DelRule:
		c.Rules = without(c.Rules, func(r Rule) bool { return r == s.Rule })
	case SetSysctl:
		same := func(v Sysctl) bool { return v.Key == s.Sysctl.Key && v.Link == s.Sysctl.Link }
		c.Sysctls = append(without(c.Sysctls, same), s.Sysctl)
	default:
		c.Links = slices.Clone(c.Links)
		for i := range c.Links {
			if c.Links[i].Name == s.Link.Name {
				c.Links[i] = s.onLink(c.Links[i])
			}
		}
		if s.Op == SetLink && s.Have.Down && !s.Link.Down {
			c.Routes = without(c.Routes, func(r Route) bool { return r.Link == s.Link.Name })
		}
	}
	return c
}

// onLink is what l becomes.
func (s Step) onLink(l Link) Link {
	switch s.Op {
	case SetLink:
		return s.changed(l)
	case AddAddr:
		l.Addrs = append(slices.Clip(l.Addrs), s.Addr)
	case DelAddr:
		i := slices.Index(l.Addrs, s.Addr)
		if i >= 0 {
			l.Addrs = slices.Delete(slices.Clone(l.Addrs), i, i+1)
		}
	case SetEntry:
		l.Entries = append(s.unset(l.Entries), s.Entry)
	case DelEntry:
		l.Entries = s.unset(l.Entries)
	}
	return l
}

// changed is l with what SetLink sets: what is on it stays, but for IPv6 addresses of a link that was down.
func (s Step) changed(l Link) Link {
	want := s.Link
	if want.MTU == 0 {
		want.MTU = l.MTU
	}
	if len(want.MAC) == 0 {
		want.MAC = l.MAC
	}
	want.Addrs, want.Entries = l.Addrs, l.Entries
	if s.Have.Down && !want.Down {
		want.Addrs = s.Have.Addrs
	}
	return want
}

// unset is entries without what s replaces or deletes: a neighbour goes by its address, a forwarding entry by its MAC.
func (s Step) unset(entries []Entry) []Entry {
	var kept []Entry
	for _, e := range entries {
		if s.Entry.Addr.IsValid() && e.Addr == s.Entry.Addr {
			e.Addr = netip.Addr{}
		}
		if s.Entry.replaces(e) {
			e.Via = netip.Addr{}
		}
		if e.Addr.IsValid() || e.Via.IsValid() {
			kept = append(kept, e)
		}
	}
	return kept
}

func without[T any](list []T, drop func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(list), drop)
}
