package sandbox

import "net/netip"

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
	Link   Link // of link steps as it should look (DelLink: as it looked); of address and entry steps its Name
	Have   Link // of SetLink: as it looked
	Addr   netip.Prefix
	Route  Route
	Rule   Rule
	Entry  Entry
	Sysctl Sysctl
}

// String is the command that a person would type, without the namespace.
func (s Step) String() string { panic("contract") }

// Diff is what turns have into want: adds before deletes, a link before what is on it. A zero field of a wanted link (MTU, MAC) leaves
// what is there alone. Links that differ in what cannot change while they live (kind, peer, VNI) are deleted and made again.
func Diff(have, want Config) []Step { panic("contract") }
