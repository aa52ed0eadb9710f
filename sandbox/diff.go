package sandbox

import (
	"bytes"
	"net/netip"
	"slices"
)

// Diff is what turns have into want: adds before deletes, a link before what is on it. A zero field of a wanted link (MTU, MAC) leaves
// what is there alone. Links that differ in what cannot change while they live (kind, peer, VNI) are deleted and made again, with what
// was on them. Two values that cannot stand side by side, such as one IPv6 address with two prefix lengths, are the exception to adds
// before deletes. A Veth in have without Peer was observed from one end: it equals any veth.
func Diff(have, want Config) []Step {
	d := differ{have: have, want: want, was: make(map[string]Link, len(have.Links)), lost: map[string]bool{}}
	for _, l := range have.Links {
		d.was[l.Name] = l
	}
	d.sysctls("")
	for _, l := range ordered(want.Links) {
		d.link(l)
	}
	d.otherSysctls()
	d.addRules()
	d.addRoutes()
	d.deletes()
	return d.steps
}

type differ struct {
	have, want Config
	steps      []Step
	was        map[string]Link // by name, what is there as far as the steps so far leave it
	lost       map[string]bool // links whose routes the kernel has dropped: made again or raised
}

func (d *differ) add(s Step) { d.steps = append(d.steps, s) }

// link makes one wanted link what it should be, with what is on it.
func (d *differ) link(want Link) {
	have, there := d.was[want.Name]
	if there && unlike(have, want) {
		d.dropLink(have)
		there = false
	}
	switch {
	case !there:
		d.lost[want.Name] = true
		have = Link{Name: want.Name}
		d.add(Step{Op: AddLink, Link: want})
	case d.lost[have.Master] && want.Master == have.Master:
		have.Master = "" // its bridge was made again
		fallthrough
	case differs(have, want):
		if have.Down && !want.Down { // the kernel dropped IPv6 addresses and routes when it went down
			d.lost[want.Name] = true
			have.Addrs = slices.DeleteFunc(slices.Clone(have.Addrs), func(p netip.Prefix) bool { return p.Addr().Is6() })
		}
		d.add(Step{Op: SetLink, Link: want, Have: have})
	}
	d.was[want.Name] = have
	d.sysctls(want.Name)
	d.addAddrs(have, want)
	d.addEntries(have, want)
}

// dropLink deletes a link now, because one of its name is to be made.
func (d *differ) dropLink(have Link) {
	if have.Adopt { // the kernel takes nothing away with it
		for _, r := range d.have.Routes {
			if r.Link == have.Name {
				d.add(Step{Op: DelRoute, Route: r})
			}
		}
		for _, p := range have.Addrs {
			d.add(Step{Op: DelAddr, Link: have, Addr: p})
		}
		for _, e := range have.Entries {
			d.add(Step{Op: DelEntry, Link: have, Entry: e})
		}
	}
	d.add(Step{Op: DelLink, Link: have})
	d.lost[have.Name] = true
	if twin := have.twin(); twin != "" {
		d.lost[twin] = true
		delete(d.was, twin)
	}
}

func (d *differ) addAddrs(have, want Link) {
	for _, p := range want.Addrs {
		if slices.Contains(have.Addrs, p) {
			continue
		}
		for _, old := range have.Addrs {
			if old.Addr() == p.Addr() && p.Addr().Is6() {
				d.add(Step{Op: DelAddr, Link: want, Addr: old})
			}
		}
		d.add(Step{Op: AddAddr, Link: want, Addr: p})
	}
}

func (d *differ) addEntries(have, want Link) {
	there := make(map[entryKey]bool, len(have.Entries))
	for _, e := range have.Entries {
		there[e.key()] = true
	}
	d.steps = slices.Grow(d.steps, max(0, len(want.Entries)-len(have.Entries)))
	for _, e := range want.Entries {
		if !there[e.key()] {
			d.add(Step{Op: SetEntry, Link: want, Entry: e})
		}
	}
}

// sysctls sets those of one link, or with "" those of none.
func (d *differ) sysctls(link string) {
	for _, s := range d.want.Sysctls {
		if s.Link == link && (!slices.Contains(d.have.Sysctls, s) || d.lost[link]) {
			d.add(Step{Op: SetSysctl, Sysctl: s})
		}
	}
}

// otherSysctls sets those of links that are in another share.
func (d *differ) otherSysctls() {
	for _, s := range d.want.Sysctls {
		mine := s.Link == "" || slices.ContainsFunc(d.want.Links, func(l Link) bool { return l.Name == s.Link })
		if !mine && !slices.Contains(d.have.Sysctls, s) {
			d.add(Step{Op: SetSysctl, Sysctl: s})
		}
	}
}

func (d *differ) addRules() {
	for _, r := range d.want.Rules {
		if !slices.Contains(d.have.Rules, r) {
			d.add(Step{Op: AddRule, Rule: r})
		}
	}
}

// addRoutes adds those on a link before those through a gateway, which must be reachable by then.
func (d *differ) addRoutes() {
	for _, direct := range []bool{true, false} {
		for _, r := range d.want.Routes {
			if r.Via.IsValid() == direct || slices.Contains(d.have.Routes, r) && !d.lost[r.Link] {
				continue
			}
			for _, old := range d.have.Routes {
				if r.clashes(old) && !d.lost[old.Link] && !slices.Contains(d.want.Routes, old) {
					d.add(Step{Op: DelRoute, Route: old})
				}
			}
			d.add(Step{Op: AddRoute, Route: r})
		}
	}
}

// deletes removes what is not wanted, what is on a link before the link. What the kernel takes away with a link is not named.
func (d *differ) deletes() {
	wanted := make(map[string]Link, len(d.want.Links))
	for _, l := range d.want.Links {
		wanted[l.Name] = l
	}
	for _, r := range d.have.Routes {
		_, stays := wanted[r.Link]
		goes := !stays && d.was[r.Link].Name != "" && !d.was[r.Link].Adopt
		if !goes && !d.lost[r.Link] && !slices.Contains(d.want.Routes, r) && !d.dropped(DelRoute, func(s Step) bool { return s.Route == r }) {
			d.add(Step{Op: DelRoute, Route: r})
		}
	}
	for _, r := range d.have.Rules {
		if !slices.Contains(d.want.Rules, r) {
			d.add(Step{Op: DelRule, Rule: r})
		}
	}
	links := ordered(d.have.Links)
	for _, l := range slices.Backward(links) {
		have, there := d.was[l.Name]
		if !there {
			continue // it went with its near end
		}
		want, stays := wanted[l.Name]
		if stays || have.Adopt {
			d.delEntries(have, want)
			d.delAddrs(have, want)
		}
		if !stays {
			d.add(Step{Op: DelLink, Link: have})
		}
	}
}

func (d *differ) delAddrs(have, want Link) {
	for _, p := range slices.Backward(have.Addrs) {
		gone := d.dropped(DelAddr, func(s Step) bool { return s.Link.Name == have.Name && s.Addr == p })
		if !gone && !slices.Contains(want.Addrs, p) {
			d.add(Step{Op: DelAddr, Link: have, Addr: p})
		}
	}
}

// delEntries removes what no wanted entry has taken the place of: a neighbour goes by its address, a forwarding entry by its MAC.
func (d *differ) delEntries(have, want Link) {
	addrs, macs, floods := map[netip.Addr]bool{}, map[string]bool{}, map[netip.Addr]bool{}
	for _, e := range want.Entries {
		addrs[e.Addr] = true
		switch {
		case e.Floods():
			floods[e.Via] = true
		case e.Via.IsValid():
			macs[string(e.MAC)] = true
		}
	}
	for _, e := range have.Entries {
		if addrs[e.Addr] {
			e.Addr = netip.Addr{}
		}
		if macs[string(e.MAC)] || e.Floods() && floods[e.Via] {
			e.Via = netip.Addr{}
		}
		if e.Addr.IsValid() || e.Via.IsValid() {
			d.add(Step{Op: DelEntry, Link: have, Entry: e})
		}
	}
}

func (d *differ) dropped(op Op, is func(Step) bool) bool {
	return slices.ContainsFunc(d.steps, func(s Step) bool { return s.Op == op && is(s) })
}

// ordered is links with each after its master and its parent, otherwise as given.
func ordered(links []Link) []Link {
	out := make([]Link, 0, len(links))
	placed := make(map[string]bool, len(links))
	var place func(name string)
	place = func(name string) {
		i := slices.IndexFunc(links, func(l Link) bool { return l.Name == name })
		if i < 0 || placed[name] {
			return
		}
		placed[name] = true
		l := links[i]
		place(l.Master)
		if l.Child != nil {
			place(l.Child.Parent)
		}
		out = append(out, l)
	}
	for _, l := range links {
		place(l.Name)
	}
	return out
}

// twin is the name of a veth's far end when that is in the same namespace, and goes when l goes; "" otherwise, or it is not known.
func (l Link) twin() string {
	if l.Veth == nil || l.Veth.Space != "" {
		return ""
	}
	return l.Veth.Peer
}

// far says whether l is the far end of a veth, made and deleted from the other side.
func (l Link) far() bool { return l.kind() == "" }

func (l Link) kind() string {
	switch {
	case l.Adopt:
		return "adopt"
	case l.Arrives != "":
		return "arrives"
	case l.Veth != nil:
		return "veth"
	case l.Bridge != nil:
		return "bridge"
	case l.VXLAN != nil:
		return "vxlan"
	case l.Child != nil:
		return l.Child.Kind
	case l.Tap != nil:
		return "tap"
	}
	return ""
}

// unlike says whether have cannot become want while it lives.
func unlike(have, want Link) bool {
	if have.Veth != nil && have.Veth.Peer == "" && (want.Veth != nil || want.far()) {
		return false // observed from one end
	}
	if want.Arrives != "" && !have.Adopt && have.Arrives == "" {
		return false // observed: what it was made as is its driver's affair
	}
	if have.kind() != want.kind() || have.Arrives != want.Arrives {
		return true
	}
	switch {
	case want.Veth != nil:
		h, w := have.Veth, want.Veth
		// The far end's MAC as observed is not here: a container may have changed it, and the sandbox's own share sets it right.
		return h.Peer != w.Peer || h.Space != w.Space || len(h.MAC) != 0 && len(w.MAC) != 0 && !bytes.Equal(h.MAC, w.MAC)
	case want.VXLAN != nil:
		return *have.VXLAN != *want.VXLAN
	case want.Child != nil:
		h, w := have.Child, want.Child
		return h.Parent != w.Parent || h.ID != w.ID || w.Mode != "" && h.Mode != w.Mode || w.Flag != "" && h.Flag != w.Flag
	case want.Tap != nil:
		return *have.Tap != *want.Tap
	}
	return false
}

// differs says whether a link that can stay must be changed.
func differs(have, want Link) bool {
	switch {
	case want.Adopt:
		return false
	case want.MTU != 0 && have.MTU != want.MTU, len(want.MAC) != 0 && !bytes.Equal(have.MAC, want.MAC):
		return true
	case have.Master != want.Master, have.Owner != want.Owner, have.Down != want.Down, have.Silent != want.Silent:
		return true
	case want.Master != "" && have.Port != want.Port:
		return true
	}
	return want.Bridge != nil && have.Bridge != nil && *have.Bridge != *want.Bridge
}

// clashes says whether the kernel refuses r while old is there: it knows IPv6 routes by destination, metric, table and next hop only.
func (r Route) clashes(old Route) bool {
	if !r.Dst.Addr().Is6() || r == old {
		return false
	}
	return r.Dst == old.Dst && r.Via == old.Via && r.Link == old.Link && r.Metric == old.Metric && r.Table == old.Table
}

// entryKey is an Entry that compares.
type entryKey struct {
	addr, via netip.Addr
	mac       string
}

func (e Entry) key() entryKey { return entryKey{e.Addr, e.Via, string(e.MAC)} }
