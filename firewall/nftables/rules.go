package nftables

import (
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// chain is a chain with its rules; a base chain has a hook.
type chain struct {
	name, kind string // kind: filter or nat; "" no base chain
	hook       uint32
	priority   int32
	rules      [][]expr.Any
}

// The chains that the map of modes leads to. What they drop is what a mode keeps out.
const (
	chainNAT         = "to_nat"
	chainUnprotected = "to_unprotected"
	chainRouted      = "to_routed"
)

// chains is the whole rule set. It is the same however many networks and ports there are: those are elements of the sets it looks into.
// Every packet of a known flow passes at the first rule of forward.
func (t *table) chains() []chain {
	return []chain{
		{name: chainNAT, rules: rules(drop())},
		{name: chainUnprotected, rules: rules(
			// From outside, not from other networks of ours.
			rule(t.in(setNets, iif()), drop()),
			accept(),
		)},
		{name: chainRouted, rules: rules(
			rule(match(l4(), unix.IPPROTO_ICMP), accept()),
			rule(match(l4(), unix.IPPROTO_ICMPV6), accept()),
			rule(family(unix.NFPROTO_IPV4), t.in(setOpen4, dst4(), l4(), dport()), accept()),
			rule(family(unix.NFPROTO_IPV6), t.in(setOpen6, dst6(), l4(), dport()), accept()),
			drop(),
		)},
		{name: "published", rules: rules(
			rule(family(unix.NFPROTO_IPV4), t.dnat(setPub4, unix.NFPROTO_IPV4, dst4(), l4(), dport())),
			rule(family(unix.NFPROTO_IPV4), t.dnat(setPub4Any, unix.NFPROTO_IPV4, l4(), dport())),
			rule(family(unix.NFPROTO_IPV6), t.dnat(setPub6, unix.NFPROTO_IPV6, dst6(), l4(), dport())),
			rule(family(unix.NFPROTO_IPV6), t.dnat(setPub6Any, unix.NFPROTO_IPV6, l4(), dport())),
		)},
		{name: "to_ours", rules: t.sourceRules()},
		{name: "tunnelled", rules: rules(
			rule(family(unix.NFPROTO_IPV4), t.in(setPeers4, dport(), vxlanID(), src4()), to(expr.VerdictReturn, "")),
			rule(family(unix.NFPROTO_IPV6), t.in(setPeers6, dport(), vxlanID(), src6()), to(expr.VerdictReturn, "")),
			drop(),
		)},
		t.raw(), t.rawOutput(), t.prerouting(), t.output(), t.postrouting(), t.forward(), t.input(), t.outgoing(),
	}
}

// sourceRules translate the source of what enters our networks where the answer would not come back otherwise: the host spoke from its
// loopback address, or a container spoke to its own or a neighbour's published port.
func (t *table) sourceRules() [][]expr.Any {
	return rules(
		rule(family(unix.NFPROTO_IPV4), loopback(saddr4), masquerade()),
		rule(family(unix.NFPROTO_IPV6), loopback6(src6()), masquerade()),
		rule(translated(), family(unix.NFPROTO_IPV4), t.in(setSub4, oif(), src4()), masquerade()),
		rule(translated(), family(unix.NFPROTO_IPV6), t.in(setSub6, oif(), src6()), masquerade()),
	)
}

// raw guards the host's loopback addresses from containers. route_localnet on our bridges, which publishing on 127.0.0.1 needs, opens the IPv4
// ones; the kernel's own guard of ::1 comes after prerouting where bridged packets pass that, and so after a published port was translated.
//
// What peers send us through a tunnel is not tracked: each flow between containers would be one of the host's too, on either side, and pay for
// it with each packet. What a peer sends somebody else through us is no tunnel of ours. Who may come in is said in input, tracked or not.
func (t *table) raw() chain {
	return chain{name: "raw", kind: "filter", hook: unix.NF_INET_PRE_ROUTING, priority: -300, rules: rules(
		rule(family(unix.NFPROTO_IPV4), loopback(daddr4), t.in(setNets, iif()), drop()),
		rule(family(unix.NFPROTO_IPV4), loopback(saddr4), t.in(setNets, iif()), drop()),
		rule(family(unix.NFPROTO_IPV6), loopback6(dst6()), t.in(setNets, iif()), drop()),
		rule(family(unix.NFPROTO_IPV6), loopback6(src6()), t.in(setNets, iif()), drop()),
		rule(match(l4(), unix.IPPROTO_UDP), family(unix.NFPROTO_IPV4), t.in(setPeers4, dport(), vxlanID(), src4()), addressedToHost(), notrack()),
		rule(match(l4(), unix.IPPROTO_UDP), family(unix.NFPROTO_IPV6), t.in(setPeers6, dport(), vxlanID(), src6()), addressedToHost(), notrack()),
	)}
}

// rawOutput leaves what we send through a tunnel untracked as well.
func (t *table) rawOutput() chain {
	return chain{name: "raw_output", kind: "filter", hook: unix.NF_INET_LOCAL_OUT, priority: -300, rules: rules(
		rule(match(l4(), unix.IPPROTO_UDP), t.in(setTunnels, dport(), vxlanID()), notrack()),
	)}
}

func (t *table) prerouting() chain {
	return chain{name: "prerouting", kind: "nat", hook: unix.NF_INET_PRE_ROUTING, priority: -100, rules: rules(
		// From the wire nobody speaks to a loopback address.
		rule(family(unix.NFPROTO_IPV4), loopback(daddr4), to(expr.VerdictReturn, "")),
		rule(family(unix.NFPROTO_IPV6), loopback6(dst6()), to(expr.VerdictReturn, "")),
		rule(addressedToHost(), to(expr.VerdictJump, "published")),
	)}
}

func (t *table) output() chain {
	return chain{name: "output", kind: "nat", hook: unix.NF_INET_LOCAL_OUT, priority: -100, rules: rules(
		rule(addressedToHost(), to(expr.VerdictJump, "published")),
	)}
}

func (t *table) postrouting() chain {
	return chain{name: "postrouting", kind: "nat", hook: unix.NF_INET_POST_ROUTING, priority: 100, rules: rules(
		rule(t.in(setNets, oif()), to(expr.VerdictGoto, "to_ours")),
		rule(t.in(setMasq, proto(), iif()), masquerade()),
		t.snat(setSNAT4, unix.NFPROTO_IPV4, iif()),
		t.snat(setSNAT6, unix.NFPROTO_IPV6, iif()),
	)}
}

// forward keeps networks apart. Its accept ends this table only: what others drop stays dropped.
func (t *table) forward() chain {
	return chain{name: "forward", kind: "filter", hook: unix.NF_INET_FORWARD, rules: rules(
		rule(known(), accept()),
		rule(t.in(setPass, iif(), oif()), accept()),
		rule(t.in(setIsolated, proto(), iif()), drop()),
		rule(t.in(setIsolated, proto(), oif()), drop()),
		rule(t.in(setInternal, iif()), drop()),
		rule(t.in(setInternal, oif()), drop()),
		rule(translated(), accept()),
		rule(t.in(setMarked, oif(), markOf()), accept()),
		t.dispatch(setMode, proto(), oif()),
		// The family is not used on this network.
		rule(t.in(setNets, oif()), drop()),
		// Other engines' bridges: their own guard is a policy that our rules beside Docker's let us past (see neighbours.go).
		rule(t.in(setNets, iif()), t.notIn(setUplinks, oif()), bridgeOut(), drop()),
	)}
}

// input keeps isolated networks from the host, and internal ones from all its addresses but those on their own bridge. Tunnels come before
// what is known: a host that is no peer any more has flows that are.
func (t *table) input() chain {
	return chain{name: "input", kind: "filter", hook: unix.NF_INET_LOCAL_IN, rules: rules(
		rule(match(l4(), unix.IPPROTO_UDP), t.in(setTunnels, dport(), vxlanID()), to(expr.VerdictJump, "tunnelled")),
		rule(known(), accept()),
		rule(t.in(setIsolated, proto(), iif()), drop()),
		rule(t.in(setInternal, iif()), addressedToHost(), notOnInput(), drop()),
	)}
}

func (t *table) outgoing() chain {
	return chain{name: "outgoing", kind: "filter", hook: unix.NF_INET_LOCAL_OUT, rules: rules(
		rule(known(), accept()),
		rule(t.in(setIsolated, proto(), oif()), drop()),
	)}
}
