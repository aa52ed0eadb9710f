package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// A new IPv6 host reports its multicast groups, asks for routers and asks whether others have its address. A bridge of ours floods that to
// all its ports, where it serves nobody: the thousandth attach would cost thirteen times the first. So a silent interface gets its
// link-local address from us, without asking, heeds no router, and reports are dropped by one rule.

const (
	silentTable = "sealane-silent"
	silentChain = "output"
	mldReport   = 143 // ICMPv6 version 2 multicast listener report
)

// silence prepares the namespace for a silent interface.
func (a *apply) silence() error {
	if a.ns.host || a.inside.silent {
		return nil
	}
	if a.inside.filter == nil {
		var err error
		if a.inside.filter, err = a.ns.enter(unix.NETLINK_NETFILTER); err != nil {
			return err
		}
	}
	return a.inside.dropReports()
}

// heedNoRouter has a silent interface take no address or route from whoever advertises. What we make has that for all interfaces.
func (a *apply) heedNoRouter(ctx context.Context, l sandbox.Link) error {
	if a.ns.host || a.ns.ours || !a.ns.p.has6(l) {
		return nil
	}
	if _, err := a.index(ctx, l.Name); err != nil { // it must be there
		return err
	}
	_, err := a.ns.sysctl(sandbox.Sysctl{Key: "ipv6/conf/IFNAME/accept_ra", Value: "0", Link: l.Name})
	return err
}

// dropReports adds the table, unless it is there.
func (s *sockets) dropReports() error {
	var b nlmsg.Batch
	writeSilentTable(&b)
	if err := s.filter.Do(&b, nil); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("drop multicast reports: %w", err)
	}
	s.silent = true
	return nil
}

// unsilence removes the table from a namespace that others made when nothing in it is silent any more.
func (n *Namespace) unsilence() error {
	s, err := n.enter(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer s.Close()
	var b nlmsg.Batch
	b.BeginTransaction()
	b.NFT(unix.NFT_MSG_DELTABLE, unix.NLM_F_ACK, unix.NFPROTO_IPV6)
	b.String(unix.NFTA_TABLE_NAME, silentTable)
	b.End()
	b.EndTransaction()
	if err := s.Do(&b, nil); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove table %s: %w", silentTable, err)
	}
	return nil
}

// isSilent says whether a share needs the table.
func isSilent(c sandbox.Config) bool {
	for _, l := range c.Links {
		if l.Silent && has6(l) && isFar(l) {
			return true
		}
	}
	return false
}

// linkLocal is the address that the kernel would have made of a MAC (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Prefix {
	if len(mac) != 6 {
		return netip.Prefix{}
	}
	a := [16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// writeSilentTable is `nft add table ip6 sealane-silent; nft add chain … { type filter hook output priority filter; }; nft add rule …
// icmpv6 type mld2-listener-report drop`.
func writeSilentTable(b *nlmsg.Batch) {
	b.BeginTransaction()
	b.NFT(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.NFPROTO_IPV6)
	b.String(unix.NFTA_TABLE_NAME, silentTable)
	b.End()
	b.NFT(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, unix.NFPROTO_IPV6)
	b.String(unix.NFTA_CHAIN_TABLE, silentTable)
	b.String(unix.NFTA_CHAIN_NAME, silentChain)
	b.Nest(unix.NFTA_CHAIN_HOOK | unix.NLA_F_NESTED)
	b.Uint32BE(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT)
	b.Uint32BE(unix.NFTA_HOOK_PRIORITY, 0)
	b.EndNest()
	b.String(unix.NFTA_CHAIN_TYPE, "filter")
	b.End()
	b.NFT(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND|unix.NLM_F_ACK, unix.NFPROTO_IPV6)
	b.String(unix.NFTA_RULE_TABLE, silentTable)
	b.String(unix.NFTA_RULE_CHAIN, silentChain)
	b.Nest(unix.NFTA_RULE_EXPRESSIONS | unix.NLA_F_NESTED)
	b.MatchMeta(unix.NFT_META_L4PROTO, unix.IPPROTO_ICMPV6)
	b.MatchPayload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, mldReport)
	b.Expression("immediate", func() {
		b.Uint32BE(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		b.Nest(unix.NFTA_IMMEDIATE_DATA | unix.NLA_F_NESTED)
		b.Nest(unix.NFTA_DATA_VERDICT | unix.NLA_F_NESTED)
		b.Uint32BE(unix.NFTA_VERDICT_CODE, 0) // NF_DROP
		b.EndNest()
		b.EndNest()
	})
	b.EndNest()
	b.End()
	b.EndTransaction()
}
