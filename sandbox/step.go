package sandbox

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Op is what a Step does.
type Op string

// The steps that executors know, in the words of ip(8).
const (
	AddLink   Op = "link add"
	SetLink   Op = "link set"
	DelLink   Op = "link del"
	AddAddr   Op = "addr add"
	DelAddr   Op = "addr del"
	AddRoute  Op = "route add"
	DelRoute  Op = "route del"
	AddRule   Op = "rule add"
	DelRule   Op = "rule del"
	SetEntry  Op = "neigh replace"
	DelEntry  Op = "neigh del"
	SetSysctl Op = "sysctl"
)

// Step is one change of a Config. Only the fields that Op speaks of are set.
type Step struct {
	Op     Op
	Link   Link // of link, address and entry steps as it should look (of those that delete: as it looked)
	Have   Link // of SetLink: as it looked
	Addr   netip.Prefix
	Route  Route
	Rule   Rule
	Entry  Entry
	Sysctl Sysctl
}

// String is the command that a person would type, without the namespace.
func (s Step) String() string {
	switch s.Op {
	case AddLink:
		return s.Link.addCommand()
	case SetLink:
		return s.Link.setCommand(s.Have)
	case DelLink:
		return s.Link.delCommand()
	case AddAddr, DelAddr:
		return words("ip", string(s.Op), s.Addr.String(), "dev", s.Link.Name, when(s.Op == AddAddr && s.Addr.Addr().Is6(), "nodad"))
	case AddRoute:
		return words("ip", family(s.Route.Dst.Addr()), "route append", s.Route.String())
	case DelRoute:
		return words("ip", family(s.Route.Dst.Addr()), "route del", s.Route.String())
	case AddRule, DelRule:
		return words("ip", family(s.Rule.Source.Addr()), string(s.Op), "from", s.Rule.Source.String(), "table", strconv.Itoa(s.Rule.Table))
	case SetEntry, DelEntry:
		return s.entryCommand()
	case SetSysctl:
		return words("sysctl -w", "net/"+s.Sysctl.Path()+"="+s.Sysctl.Value)
	}
	return string(s.Op)
}

// String is the route in the words of ip-route(8).
func (r Route) String() string {
	dst := r.Dst.String()
	if r.Dst.Bits() == 0 {
		dst = "default"
	}
	return words(r.Type, dst, pair("via", r.Via), pair("dev", r.Link), pair("src", r.Source), pair("metric", r.Metric), pair("table", r.Table))
}

// Path is the key with the link's name in it.
func (s Sysctl) Path() string {
	if s.Link == "" {
		return s.Key
	}
	return strings.ReplaceAll(s.Key, "IFNAME", s.Link)
}

func (s Step) entryCommand() string {
	verb := "replace"
	if s.Op == DelEntry {
		verb = "del"
	}
	var commands []string
	if s.Entry.Addr.IsValid() {
		commands = append(commands, words("ip neigh", verb, s.Entry.Addr.String(), "lladdr", s.Entry.MAC.String(), "dev", s.Link.Name, when(s.Op == SetEntry, "nud permanent")))
	}
	if s.Entry.Via.IsValid() {
		if s.Entry.Floods() && s.Op == SetEntry {
			verb = "append"
		}
		commands = append(commands, words("bridge fdb", verb, s.Entry.MAC.String(), "dev", s.Link.Name, "dst", s.Entry.Via.String(), "self",
			when(s.Link.Master != "" && !s.Entry.Floods(), "master"),
			when(s.Op == SetEntry, "static")))
	}
	return strings.Join(commands, " && ")
}

func (l Link) addCommand() string {
	switch {
	case l.Adopt:
		return words("ip link show dev", l.Name)
	case l.Arrives != "":
		return words("ip link set dev", l.Arrives, "netns . name", l.Name) + l.andSet(Link{Down: true})
	case l.Veth != nil:
		peer := words("peer name", l.Veth.Peer, pair("address", l.Veth.MAC), pair("netns", l.Veth.Space))
		return words("ip link add", l.Name, pair("mtu", l.MTU), pair("address", l.MAC), pair("master", l.Master), "type veth", peer) +
			l.andSet(Link{Down: true, MTU: l.MTU, MAC: l.MAC, Master: l.Master})
	case l.Bridge != nil:
		return words("ip link add", l.Name, pair("mtu", l.MTU), pair("address", l.MAC), "type bridge forward_delay 0 stp_state 0",
			when(l.Bridge.NoSnooping, "mcast_snooping 0")) + l.andSet(Link{Down: true, MTU: l.MTU, MAC: l.MAC, Bridge: l.Bridge})
	case l.VXLAN != nil:
		return words("ip link add", l.Name, pair("mtu", l.MTU), pair("address", l.MAC), "netns . type vxlan id", fmt.Sprint(l.VXLAN.VNI),
			pair("dstport", int(l.VXLAN.Port)), pair("local", l.VXLAN.Local), "nolearning") + l.andSet(Link{Down: true, MTU: l.MTU, MAC: l.MAC})
	case l.Child != nil:
		return words("ip link add", pair("link", l.Child.Parent), l.Name, pair("mtu", l.MTU), pair("address", l.MAC), "netns . type", l.Child.Kind, pair("id", l.Child.ID),
			pair("mode", l.Child.Mode), l.Child.Flag) + l.andSet(Link{Down: true, MTU: l.MTU, MAC: l.MAC})
	case l.Tap != nil:
		return words("ip tuntap add", l.Name, "mode tap user", fmt.Sprint(l.Tap.UID), "group", fmt.Sprint(l.Tap.GID)) + l.andSet(Link{Down: true})
	}
	return l.setCommand(Link{Down: true})
}

func (l Link) delCommand() string {
	switch {
	case l.Adopt:
		return words("# leave", l.Name)
	case l.Arrives != "":
		return words("ip link set dev", l.Name, "netns 1 name", l.Arrives)
	case l.far():
		return words("ip link set dev", l.Name, "down")
	}
	return words("ip link del", l.Name)
}

func (l Link) andSet(have Link) string {
	if c := l.setCommand(have); c != "" {
		return " && " + c
	}
	return ""
}

// setCommand changes a link that looks like have.
func (l Link) setCommand(have Link) string {
	var w []string
	if l.MTU != 0 && l.MTU != have.MTU {
		w = append(w, pair("mtu", l.MTU))
	}
	if len(l.MAC) != 0 && l.MAC.String() != have.MAC.String() {
		w = append(w, pair("address", l.MAC))
	}
	switch {
	case l.Master == have.Master:
	case l.Master == "":
		w = append(w, "nomaster")
	default:
		w = append(w, pair("master", l.Master))
	}
	if l.Owner != have.Owner {
		w = append(w, `alias "`+l.Owner+`"`)
	}
	if l.Silent != have.Silent {
		w = append(w, "addrgenmode "+either(l.Silent, "none", "eui64"))
	}
	if l.Down != have.Down {
		w = append(w, either(l.Down, "down", "up"))
	}
	was := have.Port
	if l.Master != have.Master {
		was = Port{} // a new port has the kernel's settings
	}
	if l.Master != "" && l.Port != was {
		w = append(w, "type bridge_slave "+l.Port.String())
	} else if l.Bridge != nil && (have.Bridge == nil || have.Bridge.NoSnooping != l.Bridge.NoSnooping) {
		w = append(w, "type bridge mcast_snooping "+either(l.Bridge.NoSnooping, "0", "1"))
	}
	if len(w) == 0 {
		return ""
	}
	return words("ip link set dev", l.Name, strings.Join(w, " "))
}

// String is the settings in the words of ip-link(8).
func (p Port) String() string {
	flood, many := either(p.NoFlood, "off", "on"), either(p.NoFlood && !p.Broadcast, "off", "on")
	return words("isolated", either(p.Isolated, "on", "off"), "hairpin", either(p.Hairpin, "on", "off"), "flood", flood, "mcast_flood", many, "bcast_flood", many,
		"learning", either(p.NoLearning, "off", "on"), "neigh_suppress", either(p.ProxyARP, "on", "off"))
}

func words(w ...string) string {
	kept := w[:0]
	for _, s := range w {
		if s != "" {
			kept = append(kept, s)
		}
	}
	return strings.Join(kept, " ")
}

// pair is a keyword with its value, or nothing for a zero value.
func pair(key string, value any) string {
	switch text := fmt.Sprint(value); text {
	case "", "0", "invalid IP":
		return ""
	default:
		return key + " " + text
	}
}

func when(yes bool, word string) string { return either(yes, word, "") }

func either(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

func family(a netip.Addr) string { return when(a.Is6(), "-6") }
