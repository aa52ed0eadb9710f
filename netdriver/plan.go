package netdriver

import (
	"slices"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/sandbox"
)

// Plan is everything that one owner ("net/<id>" or "ep/<id>") wants of the kernel. The zero Plan is nothing. It is applied in
// the order of Shares: terms, then links; and undone backwards: links, then terms.
//
// When someone else moves the link (Info.Key is ""), it waits in the host's namespace under the name in Attachment.Link.Arrives:
// Docker's SrcName, as Attachment.Prefix is its DstPrefix.
type Plan struct {
	Shares     []Share
	Attachment *sandbox.Attachment // of Join: what the endpoint brings into its sandbox; nil: nothing, as on "none" and "host"
}

// Share is one namespace's part of a plan.
type Share struct {
	Space  string // "": the host; "net/<id>": a namespace of the network's own, made for it and removed with it
	Config sandbox.Config
	Terms  firewall.Terms
}

// Named is the plan with the interface's name in the sandbox, which the Controller gives, put where the plan left it open: the
// Attachment's link and the Peer of a Veth. What has a name keeps it. The receiver is not changed.
func (p Plan) Named(name string) Plan {
	if p.Attachment != nil && p.Attachment.Link.Name == "" {
		a := *p.Attachment
		a.Link.Name = name
		p.Attachment = &a
	}
	p.Shares = slices.Clone(p.Shares)
	for i, share := range p.Shares {
		links := slices.Clone(share.Config.Links)
		for j, l := range links {
			if l.Veth != nil && l.Veth.Peer == "" {
				veth := *l.Veth
				veth.Peer = name
				links[j].Veth = &veth
			}
		}
		p.Shares[i].Config.Links = links
	}
	return p
}
