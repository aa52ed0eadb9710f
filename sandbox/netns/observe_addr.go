package netns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// dump asks for all objects of a type and gives each answer's fixed part, of n bytes, and its attributes.
func (o *observer) dump(typ uint16, family byte, n int, each func(fixed []byte, attrs map[uint16][]byte)) error {
	var b nlmsg.Batch
	b.Begin(typ, unix.NLM_F_DUMP|unix.NLM_F_ACK)
	fixed := make([]byte, n)
	fixed[0] = family
	b.Raw(fixed...)
	b.End()
	err := o.s.Do(&b, func(_ uint16, p []byte) {
		if len(p) < n {
			return
		}
		each(p[:n], attrsOf(p[n:]))
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", map[uint16]string{unix.RTM_GETADDR: "addresses", unix.RTM_GETROUTE: "routes", unix.RTM_GETRULE: "rules",
			unix.RTM_GETNEIGH: "neighbours"}[typ], err)
	}
	return nil
}

// addrs are the addresses of all links by index, but for those that the kernel or a router gave.
func (o *observer) addrs() (map[uint32][]netip.Prefix, error) {
	all := make(map[uint32][]netip.Prefix)
	err := o.dump(unix.RTM_GETADDR, unix.AF_UNSPEC, unix.SizeofIfAddrmsg, func(h []byte, a map[uint16][]byte) {
		raw := a[unix.IFA_LOCAL]
		if raw == nil {
			raw = a[unix.IFA_ADDRESS]
		}
		addr, ok := netip.AddrFromSlice(raw)
		flags := number(a[unix.IFA_FLAGS])
		byKernel := flags&unix.IFA_F_PERMANENT == 0 || flags&unix.IFA_F_STABLE_PRIVACY != 0 && addr.IsLinkLocalUnicast()
		if ok && !byKernel {
			index := binary.NativeEndian.Uint32(h[4:])
			all[index] = append(all[index], netip.PrefixFrom(addr, int(h[1])))
		}
	})
	return all, err
}

// routes are those that we made: on the host by their protocol, elsewhere all but the kernel's own.
func (o *observer) routes() error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		err := o.dump(unix.RTM_GETROUTE, family, unix.SizeofRtMsg, func(h []byte, a map[uint16][]byte) {
			if o.n.made(h) {
				for _, hop := range hops(a) {
					o.route(h, a, hop)
				}
			}
		})
		if err != nil {
			return err
		}
	}
	for owner, c := range o.shares {
		slices.SortStableFunc(c.Routes, func(a, b sandbox.Route) int { return a.Dst.Addr().Compare(b.Dst.Addr()) })
		o.shares[owner] = c
	}
	return nil
}

// made says whether a struct rtmsg is of a route that counts as ours.
func (n *Namespace) made(rtmsg []byte) bool {
	if binary.NativeEndian.Uint32(rtmsg[8:])&unix.RTM_F_CLONED != 0 {
		return false
	}
	switch protocol := rtmsg[5]; {
	case n.host:
		return protocol == routeProtocol
	default:
		return protocol != unix.RTPROT_KERNEL && protocol != unix.RTPROT_REDIRECT && protocol != unix.RTPROT_RA
	}
}

// hop is one way on which a route leads.
type hop struct {
	via  netip.Addr
	link uint32
}

// hops are the ways of a route; the kernel joins IPv6 routes that were added one by one.
func hops(a map[uint16][]byte) []hop {
	via, _ := netip.AddrFromSlice(a[unix.RTA_GATEWAY])
	all := []hop{{via, number(a[unix.RTA_OIF])}}
	if a[unix.RTA_MULTIPATH] == nil {
		return all
	}
	all = nil
	for p := a[unix.RTA_MULTIPATH]; len(p) >= unix.SizeofRtNexthop; {
		n := int(binary.NativeEndian.Uint16(p))
		if n < unix.SizeofRtNexthop || n > len(p) {
			break
		}
		via, _ := netip.AddrFromSlice(nlmsg.Attr(p[unix.SizeofRtNexthop:n], unix.RTA_GATEWAY))
		all = append(all, hop{via, binary.NativeEndian.Uint32(p[4:])})
		p = p[min((n+3)&^3, len(p)):]
	}
	return all
}

// route puts a route into the share of its link's owner.
func (o *observer) route(h []byte, a map[uint16][]byte, way hop) {
	owner, ours := o.owners[way.link]
	if !ours && (o.n.host || o.gone[way.link]) {
		return
	}
	dst, ok := netip.AddrFromSlice(a[unix.RTA_DST])
	if !ok {
		dst = netip.IPv4Unspecified()
		if h[0] == unix.AF_INET6 {
			dst = netip.IPv6Unspecified()
		}
	}
	r := sandbox.Route{Dst: netip.PrefixFrom(dst, int(h[1])), Via: way.via, Link: o.names[way.link], Metric: int(number(a[unix.RTA_PRIORITY]))}
	r.Source, _ = netip.AddrFromSlice(a[unix.RTA_PREFSRC])
	r.Type = nameOf(routeTypes(), uint32(h[7]))
	if h[7] != unix.RTN_UNICAST && r.Type == "" {
		return // multicast and the like
	}
	if dst.Is6() {
		if r.Metric == metric6 {
			r.Metric = 0
		}
		if r.Type != "" && r.Type != "local" {
			r.Link = "" // the kernel says lo of what leads nowhere
		}
	}
	if table := number(a[unix.RTA_TABLE]); table != routeTable(r, h[7]) {
		r.Table = int(table)
	}
	c := o.shares[owner]
	c.Routes = append(c.Routes, r)
	o.shares[owner] = c
}

// rules are ours by their priority. On the host nothing says whose they are.
func (o *observer) rules() error {
	if o.n.host {
		return nil
	}
	return o.dump(unix.RTM_GETRULE, unix.AF_UNSPEC, unix.SizeofRtMsg, func(h []byte, a map[uint16][]byte) {
		src, ok := netip.AddrFromSlice(a[unix.FRA_SRC])
		if !ok || number(a[unix.FRA_PRIORITY]) != rulePriority {
			return
		}
		c := o.shares[""]
		c.Rules = append(c.Rules, sandbox.Rule{Source: netip.PrefixFrom(src, int(h[2])), Table: int(number(a[unix.FRA_TABLE]))})
		o.shares[""] = c
	})
}
