package nftables

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/firewall"
	"golang.org/x/sys/unix"
)

// parse turns elements back into terms, by owner: the inverse of render, in normal form.
func parse(elements []element) map[string]firewall.Terms {
	networks := map[string]*reading{}
	terms := map[string]firewall.Terms{}
	for _, e := range sortedBySet(elements) {
		t := terms[e.owner()]
		switch e.set {
		case setUplinks:
			continue
		case setOpen4, setOpen6, setPub4, setPub6, setPub4Any, setPub6Any:
			t.Ports = append(t.Ports, e.port())
		case setTunnels, setPeers4, setPeers6:
			t.Tunnels = e.tunnel(t.Tunnels)
		default:
			id := e.owner() + " " + e.network()
			if networks[id] == nil {
				networks[id] = &reading{owner: e.owner(), Network: firewall.Network{Interface: e.network()}}
			}
			networks[id].read(e)
		}
		terms[e.owner()] = t
	}
	for _, r := range networks {
		t := terms[r.owner]
		t.Networks = append(t.Networks, r.network())
		terms[r.owner] = t
	}
	for owner, t := range terms {
		terms[owner] = t.Normal()
	}
	return terms
}

func sortedBySet(elements []element) []element {
	return slices.SortedStableFunc(slices.Values(elements), func(a, b element) int { return cmp.Compare(a.set, b.set) })
}

// network is the interface of the network that an element speaks of.
func (e *element) network() string {
	switch e.set {
	case setPass:
		return e.device()
	case setIsolated, setMode, setMasq:
		return text(e.key[4:][:unix.IFNAMSIZ])
	}
	return text(e.key[:unix.IFNAMSIZ])
}

// reading is a network as it is read, element by element.
type reading struct {
	firewall.Network
	owner        string
	named, self  bool // is in the sets that every network is in
	masq4, masq6 bool
}

func (r *reading) read(e element) {
	switch e.set {
	case setNets:
		r.named = true
	case setPass:
		r.readPass(text(e.key[:unix.IFNAMSIZ]), text(e.key[unix.IFNAMSIZ:]))
	case setInternal:
		r.Internal = true
	case setMarked:
		r.AcceptMark = nativeUint32(e.key[unix.IFNAMSIZ:])
	case setSub4:
		r.Subnets = append(r.Subnets, e.prefix(4))
	case setSub6:
		r.Subnets = append(r.Subnets, e.prefix(16))
	case setSNAT4:
		r.SNAT4, _ = netip.AddrFromSlice(e.data[:4])
	case setSNAT6:
		r.SNAT6, _ = netip.AddrFromSlice(e.data[:16])
	case setIsolated:
		*r.mode(e.key[0]) = firewall.Isolated
	case setMode:
		*r.mode(e.key[0]) = modeOf(text(e.data[:]))
	case setMasq:
		if e.key[0] == unix.NFPROTO_IPV4 {
			r.masq4 = true
		} else {
			r.masq6 = true
		}
	}
}

func (r *reading) readPass(from, to string) {
	switch {
	case from == to:
		r.self = true
	case from == r.Interface:
		r.Reach = append(r.Reach, to)
	default:
		r.Trusted = append(r.Trusted, from)
	}
}

func (r *reading) mode(nfproto byte) *firewall.Mode {
	if nfproto == unix.NFPROTO_IPV4 {
		return &r.Mode4
	}
	return &r.Mode6
}

// network is what was read. One that lacks what every network has is told as an empty one, so that it differs from what is wanted.
func (r *reading) network() firewall.Network {
	if !r.named || !r.self {
		return firewall.Network{Interface: r.Interface}
	}
	plain4 := r.Mode4.Translates() && !r.masq4 && !r.SNAT4.IsValid()
	plain6 := r.Mode6.Translates() && !r.masq6 && !r.SNAT6.IsValid()
	r.NoMasq = plain4 || plain6
	return r.Network
}
