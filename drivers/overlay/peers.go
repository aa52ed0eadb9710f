package overlay

import (
	"bytes"
	"net"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// peers is what a network knows of the other hosts: a pure function of their records, whatever came before.
type peers struct {
	neighbours []sandbox.Entry // of the bridge: who has an address
	forwarding []sandbox.Entry // of the tunnel: behind which host a MAC is
	tunnels    []netip.Addr    // the hosts, sorted
}

// peers reads the records of other hosts, which are input: what is not of this network's subnets, is the gateway's or another peer's, or
// cannot be reached from here (a tunnel of the other family) is left out.
func (n network) peers(all []netdriver.Peer) peers {
	p := peers{}
	behind, at := make(map[[6]byte]bool, len(all)), make(map[netip.Addr]bool, len(all))
	own := n.mac()
	for _, g := range n.gateways() {
		at[g.Addr()] = true
	}
	for _, peer := range all {
		if peer.Tunnel.Is4() != n.host.Advertise.Is4() || peer.Tunnel == n.host.Advertise || !peer.Tunnel.IsValid() {
			continue
		}
		if i, there := slices.BinarySearchFunc(p.tunnels, peer.Tunnel, netip.Addr.Compare); !there {
			p.tunnels = slices.Insert(p.tunnels, i, peer.Tunnel)
		}
		if len(peer.MAC) == 0 || endpoint.CheckMAC(peer.MAC) != nil || bytes.Equal(peer.MAC, own) || behind[[6]byte(peer.MAC)] {
			continue
		}
		behind[[6]byte(peer.MAC)] = true
		p.forwarding = append(p.forwarding, sandbox.Entry{MAC: peer.MAC, Via: peer.Tunnel})
		for _, a := range peer.Addresses {
			if !at[a.Addr()] && n.contains(a.Addr()) {
				at[a.Addr()] = true
				p.neighbours = append(p.neighbours, sandbox.Entry{MAC: peer.MAC, Addr: a.Addr()})
			}
		}
	}
	if n.options.Flood {
		p.forwarding = append(p.flooding(), p.forwarding...)
	}
	return p
}

// flooding are the entries that have what is for many or for all sent to each of the other hosts.
func (p peers) flooding() (all []sandbox.Entry) {
	for _, tunnel := range p.tunnels {
		all = append(all, sandbox.Entry{MAC: make(net.HardwareAddr, 6), Via: tunnel})
	}
	return all
}

func (n network) contains(a netip.Addr) bool {
	return slices.ContainsFunc(n.record.Subnets, func(s netdriver.Subnet) bool { return s.Pool.Subnet.Contains(a) })
}
