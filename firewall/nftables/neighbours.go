package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"github.com/sealane/sealane/internal/nlmsg"
	"golang.org/x/sys/unix"
)

// Docker sets the policy of iptables' FORWARD chain to drop, which is our packets' end too: one table's accept does not bind another. So where
// that policy is found our bridges are let through by plain rules, one for each direction and name, in FORWARD and in the chain that Docker
// leaves to its user: the first way is cut off by what Docker puts before it, the second for milliseconds whenever an engine starts, which
// takes its jump to that chain away and makes it again. They never look into a set: iptables would show such a rule, and save it, as one that
// accepts everything. Our own table still keeps out what must be.

const (
	iptablesTable = "filter"
	forwardChain  = "FORWARD"
	dockerChain   = "DOCKER-USER"
)

// ourPrefixes are of the links that we name, bridges and ways to networks' own namespaces: one rule is for all that begin so.
func ourPrefixes() []string { return []string{"sl-", "so-"} }

// opening is a rule that lets packets of a network past somebody else's policy.
type opening struct {
	family        byte
	chain, device string // device: a name, or a prefix that ends in *
	out           bool   // to the device; else from it
}

// opened is an opening that is there.
type opened struct {
	opening
	handle []byte
}

// names are the interfaces of networks as openings name them.
func names(gateways map[string]gateway) []string {
	var all []string
	for device := range maps.Keys(gateways) {
		for _, prefix := range ourPrefixes() {
			if strings.HasPrefix(device, prefix) {
				device = prefix + "*"
			}
		}
		all = append(all, device)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// openings compares what networks need beside Docker with what is there.
func (t *table) openings(gateways map[string]gateway) (missing []opening, surplus []opened, err error) {
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		chains, err := t.guards(family)
		if err != nil {
			return nil, nil, fmt.Errorf("look for a policy that drops forwarded packets: %w", err)
		}
		var want []opening
		for _, device := range names(gateways) {
			for _, chain := range chains {
				want = append(want, opening{family, chain, device, false}, opening{family, chain, device, true})
			}
		}
		have, err := t.opened(family)
		if err != nil {
			return nil, nil, fmt.Errorf("look for our rules beside Docker's: %w", err)
		}
		for _, o := range have {
			if i := slices.Index(want, o.opening); i >= 0 {
				want = slices.Delete(want, i, i+1)
			} else {
				surplus = append(surplus, o)
			}
		}
		missing = append(missing, want...)
	}
	return missing, surplus, nil
}

// guards are the chains where openings belong; none when nothing drops our packets.
func (t *table) guards(family byte) (chains []string, err error) {
	policy, err := t.chainPolicy(family, forwardChain)
	if err != nil || policy != policyDrop {
		return nil, err
	}
	policy, err = t.chainPolicy(family, dockerChain)
	if err != nil || policy == policyAbsent {
		return []string{forwardChain}, err
	}
	return []string{forwardChain, dockerChain}, nil
}

// Policies of a chain.
const (
	policyAbsent = iota // there is no chain
	policyNone          // not a base chain, or one that accepts
	policyDrop
)

func (t *table) chainPolicy(family byte, chain string) (policy int, err error) {
	const nfDrop = 0
	err = t.request(family, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETCHAIN, 0, func(b *nlmsg.Batch) {
		b.String(unix.NFTA_CHAIN_TABLE, iptablesTable)
		b.String(unix.NFTA_CHAIN_NAME, chain)
	}, func(_ uint16, attrs []byte) {
		policy = policyNone
		if p := nlmsg.Attr(attrs, unix.NFTA_CHAIN_POLICY); len(p) == 4 && binary.BigEndian.Uint32(p) == nfDrop {
			policy = policyDrop
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return policyAbsent, nil
	}
	return policy, err
}

// opened reads our rules in iptables' chains.
func (t *table) opened(family byte) (all []opened, err error) {
	for _, chain := range []string{dockerChain, forwardChain} {
		err := t.request(family, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, func(b *nlmsg.Batch) {
			b.String(unix.NFTA_RULE_TABLE, iptablesTable)
			b.String(unix.NFTA_RULE_CHAIN, chain)
		}, func(_ uint16, attrs []byte) {
			if o, ours := t.parseOpening(attrs); ours {
				o.family, o.chain = family, chain
				all = append(all, o)
			}
		})
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, err
		}
	}
	return all, nil
}

// parseOpening reads a rule; ours says whether it bears our comment, as we wrote it or as iptables-restore writes it again.
func (t *table) parseOpening(attrs []byte) (o opened, ours bool) {
	ours = uncomment(nlmsg.Attr(attrs, unix.NFTA_RULE_USERDATA)) == t.name
	o.handle = slices.Clone(nlmsg.Attr(attrs, unix.NFTA_RULE_HANDLE))
	for _, e := range nlmsg.Attrs(nlmsg.Attr(attrs, unix.NFTA_RULE_EXPRESSIONS)) {
		data := nlmsg.Attr(e, unix.NFTA_EXPR_DATA)
		switch text(nlmsg.Attr(e, unix.NFTA_EXPR_NAME)) {
		case "meta":
			if key := nlmsg.Attr(data, unix.NFTA_META_KEY); len(key) == 4 {
				o.out = binary.BigEndian.Uint32(key) == unix.NFT_META_OIFNAME
			}
		case "cmp":
			name := nlmsg.Attr(nlmsg.Attr(data, unix.NFTA_CMP_DATA), unix.NFTA_DATA_VALUE)
			if o.device = text(name); len(o.device) == len(name) {
				o.device += "*"
			}
		case "match":
			if text(nlmsg.Attr(data, unix.NFTA_MATCH_NAME)) == "comment" {
				ours = ours || text(nlmsg.Attr(data, unix.NFTA_MATCH_INFO)) == t.name
			}
		}
	}
	return o, ours
}

// open writes the messages that make openings, before whatever else is in their chain.
func (tx *transaction) open(missing []opening) error {
	for _, o := range missing {
		tx.batch.NFT(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE, o.family)
		tx.batch.String(unix.NFTA_RULE_TABLE, iptablesTable)
		tx.batch.String(unix.NFTA_RULE_CHAIN, o.chain)
		device := iif()
		if o.out {
			device = oif()
		}
		name := named(o.device)
		if prefix, is := strings.CutSuffix(o.device, "*"); is {
			name = []byte(prefix)
		}
		if err := tx.expressions(o.family, rule(match(device, name...), []expr.Any{&expr.Counter{}}, accept())); err != nil {
			return err
		}
		tx.batch.Attr(unix.NFTA_RULE_USERDATA, comment(tx.t.name))
		tx.batch.End()
	}
	return nil
}

// shut writes the messages that remove openings.
func (tx *transaction) shut(surplus []opened) {
	for _, o := range surplus {
		tx.batch.NFT(unix.NFT_MSG_DELRULE, 0, o.family)
		tx.batch.String(unix.NFTA_RULE_TABLE, iptablesTable)
		tx.batch.String(unix.NFTA_RULE_CHAIN, o.chain)
		tx.batch.Attr(unix.NFTA_RULE_HANDLE, o.handle)
		tx.batch.End()
	}
}
