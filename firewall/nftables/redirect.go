package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nlmsg"
	"golang.org/x/sys/unix"
)

// Redirects are rules of a table of their own in a sandbox, <instance>-resolver. They rewrite ports before connection tracking sees a packet
// and keep it from being tracked: one rule on the way there and one on the way back, in the output hook, which the loopback passes both
// ways. So a container may have a server of its own at the same port of all addresses.
//
// A sandbox's resolver comes with each attach, so its table is made by one message batch, nothing being read.

const (
	redirectChain  = "output"
	rulesARedirect = 2
	// attributes that x/sys/unix has no names for, from linux/netfilter/nf_tables.h
	attrRuleUserdata = 7 // NFTA_RULE_USERDATA
	priorityRaw      = -300
)

func (t *table) redirectTable() string { return t.name + "-resolver" }

// redirects says whether changes are about redirects alone; NotImplemented when they are mixed with other terms.
func redirects(changes []firewall.Change) (bool, error) {
	only, none := true, true
	for _, c := range changes {
		for _, terms := range []firewall.Terms{c.Have, c.Want} {
			has := len(terms.Redirects) > 0
			none = none && !has
			terms.Redirects = nil
			only = only && terms.IsZero()
		}
	}
	if !none && !only {
		return false, fmt.Errorf("redirects and other terms in one change: %w", errdefs.ErrNotImplemented)
	}
	return !none, nil
}

func checkRedirect(r firewall.Redirect) error {
	if !r.To.Addr().Is4() {
		return fmt.Errorf("redirect of %s: the nftables firewall redirects ports of IPv4 addresses: %w", r.To, errdefs.ErrNotImplemented)
	}
	return nil
}

// applyRedirects makes the table anew with what all owners want. Where nobody had any it trusts that there is no table.
func (t *table) applyRedirects(changes []firewall.Change) error {
	want := map[string][]firewall.Redirect{}
	fresh := true
	for _, c := range changes {
		fresh = fresh && len(c.Have.Redirects) == 0
		want[c.Owner] = append(want[c.Owner], c.Want.Redirects...)
	}
	if fresh {
		err := t.writeRedirects(want, false)
		if !stale(err) {
			return err
		}
	}
	there, err := t.dumpRedirects()
	if err != nil {
		return err
	}
	for owner, r := range there {
		if _, changed := want[owner]; !changed {
			want[owner] = r
		}
	}
	if err := ambiguous(want); err != nil {
		return err
	}
	maps.DeleteFunc(want, func(_ string, r []firewall.Redirect) bool { return len(r) == 0 })
	return t.writeRedirects(want, true)
}

// ambiguous says who has what another wants.
func ambiguous(want map[string][]firewall.Redirect) error {
	taken := map[netip.AddrPort]string{}
	for owner, all := range want {
		for _, r := range all {
			if other, is := taken[r.To]; is && other != owner {
				return fmt.Errorf("redirect of %s belongs to %s: %w", r.To, other, errdefs.ErrAlreadyExists)
			}
			taken[r.To] = owner
		}
	}
	return nil
}

// writeRedirects sends one transaction. With replace what was there goes, whether there was anything or not.
func (t *table) writeRedirects(want map[string][]firewall.Redirect, replace bool) error {
	b := &nlmsg.Batch{}
	b.BeginTransaction()
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_EXCL)
	if replace {
		t.redirectMessage(b, unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE)
		b.End()
		t.redirectMessage(b, unix.NFT_MSG_DELTABLE, flagAck(len(want) == 0))
		b.End()
	}
	if len(want) > 0 {
		t.redirectMessage(b, unix.NFT_MSG_NEWTABLE, flags)
		b.End()
		t.redirectMessage(b, unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE)
		b.String(unix.NFTA_CHAIN_NAME, redirectChain)
		b.Nest(unix.NFTA_CHAIN_HOOK | unix.NLA_F_NESTED)
		b.Uint32BE(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT)
		priority := int32(priorityRaw)
		b.Uint32BE(unix.NFTA_HOOK_PRIORITY, uint32(priority))
		b.EndNest()
		b.String(unix.NFTA_CHAIN_TYPE, "filter")
		b.End()
	}
	for _, owner := range slices.Sorted(maps.Keys(want)) {
		for _, r := range want[owner] {
			t.redirectRules(b, owner, r)
		}
	}
	b.Acknowledge()
	b.EndTransaction()
	return t.socket.Do(b, nil)
}

func flagAck(last bool) uint16 {
	if last {
		return unix.NLM_F_ACK
	}
	return 0
}

// redirectMessage opens a message about the table of redirects.
func (t *table) redirectMessage(b *nlmsg.Batch, typ, flags uint16) {
	b.NFT(typ, flags, unix.NFPROTO_INET)
	b.String(unix.NFTA_TABLE_NAME, t.redirectTable())
}

// Offsets in the headers of UDP and TCP.
const sourcePort, destinationPort = 0, 2

// redirectRules is `ip daddr TO meta l4proto 6-17 th dport 53 notrack th dport set PORT` and the way back.
func (t *table) redirectRules(b *nlmsg.Batch, owner string, r firewall.Redirect) {
	note := comment(fmt.Sprintf("%s %s %d", owner, r.To, r.Port))
	t.portRule(b, note, r.To.Addr(), daddr4, destinationPort, r.To.Port(), r.Port)
	t.portRule(b, note, r.To.Addr(), saddr4, sourcePort, r.Port, r.To.Port())
}

// portRule turns one port into another where address and port fit. One rule serves TCP and UDP, because the kernel looks each expression up
// by name and rules for both cost an attach twice as much; the protocols between the two have no ports and are long dead. The checksum is
// that of the protocol, if the packet has one.
func (t *table) portRule(b *nlmsg.Batch, note []byte, addr netip.Addr, address, port uint32, from, to uint16) {
	t.redirectMessage(b, unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND)
	b.String(unix.NFTA_RULE_CHAIN, redirectChain)
	b.Nest(unix.NFTA_RULE_EXPRESSIONS | unix.NLA_F_NESTED)
	b.MatchMeta(unix.NFT_META_NFPROTO, unix.NFPROTO_IPV4)
	b.MatchPayload(unix.NFT_PAYLOAD_NETWORK_HEADER, address, addr.AsSlice()...)
	b.LoadMeta(unix.NFT_META_L4PROTO)
	b.Expression("range", func() {
		b.Uint32BE(unix.NFTA_RANGE_SREG, unix.NFT_REG_1)
		b.Uint32BE(unix.NFTA_RANGE_OP, unix.NFT_RANGE_EQ)
		b.Value(unix.NFTA_RANGE_FROM_DATA, unix.IPPROTO_TCP)
		b.Value(unix.NFTA_RANGE_TO_DATA, unix.IPPROTO_UDP)
	})
	b.MatchPayload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, port, binary.BigEndian.AppendUint16(nil, from)...)
	b.Expression("notrack", func() {})
	b.Expression("immediate", func() {
		b.Uint32BE(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1)
		b.Value(unix.NFTA_IMMEDIATE_DATA, binary.BigEndian.AppendUint16(nil, to)...)
	})
	b.Expression("payload", func() {
		b.Uint32BE(unix.NFTA_PAYLOAD_SREG, unix.NFT_REG_1)
		b.Uint32BE(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_TRANSPORT_HEADER)
		b.Uint32BE(unix.NFTA_PAYLOAD_OFFSET, port)
		b.Uint32BE(unix.NFTA_PAYLOAD_LEN, 2)
		b.Uint32BE(unix.NFTA_PAYLOAD_CSUM_TYPE, unix.NFT_PAYLOAD_CSUM_NONE)
		b.Uint32BE(unix.NFTA_PAYLOAD_CSUM_OFFSET, 0)
		b.Uint32BE(unix.NFTA_PAYLOAD_CSUM_FLAGS, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR)
	})
	b.EndNest()
	b.Attr(attrRuleUserdata, note)
	b.End()
}

// dumpRedirects reads who has which redirects; one that lacks rules is none. A rule cannot be changed in place, so its comment is its word.
func (t *table) dumpRedirects() (map[string][]firewall.Redirect, error) {
	counts := map[string]int{}
	err := t.request(unix.NFPROTO_INET, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, func(b *nlmsg.Batch) {
		b.String(unix.NFTA_RULE_TABLE, t.redirectTable())
	}, func(_ uint16, attrs []byte) {
		if text(nlmsg.Attr(attrs, unix.NFTA_RULE_TABLE)) == t.redirectTable() {
			counts[uncomment(nlmsg.Attr(attrs, attrRuleUserdata))]++
		}
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("read table inet %s: %w", t.redirectTable(), kinded(err))
	}
	all := map[string][]firewall.Redirect{}
	for note, n := range counts {
		if owner, r, ok := parseRedirect(note); ok && n == rulesARedirect {
			all[owner] = append(all[owner], r)
		}
	}
	return all, nil
}

func parseRedirect(note string) (owner string, r firewall.Redirect, ok bool) {
	fields := strings.Fields(note)
	if len(fields) != 3 {
		return "", r, false
	}
	to, err := netip.ParseAddrPort(fields[1])
	if err != nil {
		return "", r, false
	}
	_, err = fmt.Sscanf(fields[2], "%d", &r.Port)
	r.To = to
	return fields[0], r, err == nil
}

// changeRedirects is Apply for redirects.
func (t *table) changeRedirects(ctx context.Context, changes []firewall.Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.applyRedirects(changes); err != nil {
		return fmt.Errorf("change table inet %s: %w", t.redirectTable(), kinded(err))
	}
	return nil
}
