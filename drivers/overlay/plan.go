package overlay

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

const (
	bridgeName, tunnelName, uplinkName = "br0", "sx0", "so0" // in the network's namespace

	defaultMTU = 1500 // of an underlay that nobody knows
	maxMTU     = 65535
	minMTU6    = 1280 // below it the kernel takes IPv6 off the link

	overhead4, overhead6 = 50, 70 // outer IP header, UDP, VXLAN, inner Ethernet (RFC 7348, section 5)
)

type planner struct{}

// Type implements netdriver.Planner.
func (planner) Type() netdriver.Capability {
	return netdriver.Capability{Type: "overlay", Scope: netdriver.Global, Connectivity: netdriver.Global, Apart: true}
}

// PlanNetwork is the namespace of the network with its bridge and tunnel, and on the host the link to it and who may send us packets of
// the tunnel. FailedPrecondition without a tunnel address or a number, or when the transit addresses are the host's already.
func (planner) PlanNetwork(in netdriver.Input) (netdriver.Plan, error) {
	n, err := read(in)
	if err == nil {
		err = n.checkTransit()
	}
	if err != nil {
		return netdriver.Plan{}, fmt.Errorf("plan network %s: %w", in.Network.Name, err)
	}
	peers := n.peers(in.Peers)
	shares := []netdriver.Share{n.outside(peers), n.inside(peers)}
	for _, s := range shares {
		if err := s.Terms.Validate(); err != nil {
			return netdriver.Plan{}, fmt.Errorf("plan network %s: %w", in.Network.Name, err)
		}
	}
	return netdriver.Plan{Shares: shares}, nil
}

// PlanEndpoint is the veth, the endpoint's published ports at both stages, and what the endpoint brings into its sandbox. Every binding
// in e.Ports is published, in the families that the endpoint has an address of. Peers play no part.
func (planner) PlanEndpoint(in netdriver.Input, e endpoint.Info) (netdriver.Plan, error) {
	p, err := planEndpoint(in, e)
	if err != nil {
		return netdriver.Plan{}, fmt.Errorf("plan endpoint %s on network %s: %w", e.Spec.Name, in.Network.Name, err)
	}
	return p, nil
}

func planEndpoint(in netdriver.Input, e endpoint.Info) (netdriver.Plan, error) {
	n, err := read(in)
	if err != nil {
		return netdriver.Plan{}, err
	}
	port, err := n.port(e)
	if err != nil {
		return netdriver.Plan{}, err
	}
	outer, inner, err := port.published(e.Ports)
	if err != nil {
		return netdriver.Plan{}, err
	}
	attachment, err := port.attachment()
	if err != nil {
		return netdriver.Plan{}, err
	}
	inside := netdriver.Share{
		Space:  n.space(),
		Config: sandbox.Config{Links: []sandbox.Link{port.veth()}},
		Terms:  firewall.Terms{Ports: inner},
	}
	plan := netdriver.Plan{Shares: []netdriver.Share{inside}, Attachment: &attachment}
	if len(outer) > 0 {
		plan.Shares = append(plan.Shares, netdriver.Share{Terms: firewall.Terms{Ports: outer}})
	}
	return plan, inside.Terms.Validate()
}

// network is a record read and found good: what every plan starts from.
type network struct {
	record   netdriver.Network
	host     netdriver.Host
	options  Options
	mtu      int
	ipv6     bool // the host knows IPv6
	v4, v6   bool // which families there are inside
	transit4 transit
	transit6 transit
}

func read(in netdriver.Input) (network, error) {
	has6, known := in.Host.Features["ipv6"]
	n := network{record: in.Network, host: in.Host, ipv6: has6 || !known}
	var err error
	if n.options, err = ParseOptions(in.Network.Options); err != nil {
		return n, err
	}
	for _, s := range in.Network.Subnets {
		n.v4 = n.v4 || s.Pool.Subnet.Addr().Is4()
		n.v6 = n.v6 || s.Pool.Subnet.Addr().Is6()
	}
	if err := n.check(); err != nil {
		return n, err
	}
	n.mtu = n.innerMTU()
	if n.record.Internal {
		return n, nil
	}
	if n.v4 {
		n.transit4, err = transitOf(cmp.Or(n.options.Transit4, netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254, 64}), 18)), n.record.Number, "transit_ipv4")
	}
	if err == nil && n.v6 {
		n.transit6, err = transitOf(cmp.Or(n.options.Transit6, netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 's', 'e', 'a', 'l', 'a'}), 64)), n.record.Number, "transit_ipv6")
	}
	return n, err
}

// check finds what is good in itself and bad together, and what is missing.
func (n network) check() error {
	kind, why := error(errdefs.ErrFailedPrecondition), ""
	switch {
	case !n.v4 && !n.v6:
		kind, why = errdefs.ErrInvalidArgument, "an overlay network needs a subnet of IPv4 or IPv6"
	case n.v6 && n.options.MTU != 0 && n.options.MTU < minMTU6:
		kind, why = errdefs.ErrInvalidArgument, fmt.Sprintf("option mtu: value %d: IPv6 wants %d or more", n.options.MTU, minMTU6)
	case n.v6 && !n.ipv6:
		why = "this host has no IPv6: leave IPv6 subnets out"
	case n.record.Number == 0:
		why = "the network has no VNI"
	case !n.host.Advertise.IsValid():
		why = "this host has no tunnel address: say which by --advertise (Options.Advertise)"
	default:
		return nil
	}
	return fmt.Errorf("%s: %w", why, kind)
}

// innerMTU is what the underlay carries less the encapsulation.
func (n network) innerMTU() int {
	overhead := overhead4
	if n.host.Advertise.Is6() {
		overhead = overhead6
	}
	mtu := min(cmp.Or(n.host.MTU, defaultMTU), maxMTU) - overhead
	if n.options.MTU != 0 {
		mtu = min(mtu, n.options.MTU)
	}
	if n.v6 {
		mtu = max(mtu, minMTU6)
	}
	return mtu
}

// space names the network's namespace, and owner what belongs to the network.
func (n network) space() string { return "net/" + string(n.record.ID) }
func (n network) owner() string { return n.space() }

// device is the host's end of the link to the namespace.
func (n network) device() string { return "so-" + string(n.record.ID[:min(12, len(n.record.ID))]) }

// gateways are the bridge's addresses, the same on every host.
func (n network) gateways() []netip.Prefix {
	var all []netip.Prefix
	for _, s := range n.record.Subnets {
		if s.Gateway.IsValid() {
			all = append(all, netip.PrefixFrom(s.Gateway.Addr(), s.Pool.Subnet.Bits()))
		}
	}
	return all
}

// mac of the bridge goes with its first address, and so is the same on every host.
func (n network) mac() net.HardwareAddr {
	for _, g := range n.gateways() {
		return endpoint.MAC(g.Addr())
	}
	return endpoint.MAC(n.record.Subnets[0].Pool.Subnet.Masked().Addr())
}

// outside is the host's share.
func (n network) outside(peers peers) netdriver.Share {
	share := netdriver.Share{Terms: firewall.Terms{Tunnels: []firewall.Tunnel{{Port: n.options.port(), VNI: n.record.Number, Peers: peers.tunnels}}}}
	if n.record.Internal {
		return share
	}
	share.Config = sandbox.Config{Links: []sandbox.Link{n.uplink()}, Routes: n.hostRoutes(), Sysctls: n.hostSysctls()}
	share.Terms.Networks = []firewall.Network{{
		Interface: n.device(), Subnets: n.transits(), Mode4: mode(n.v4), Mode6: mode(n.v6), SNAT4: n.options.SNAT4, SNAT6: n.options.SNAT6,
	}}
	return share
}

func mode(used bool) firewall.Mode {
	if used {
		return firewall.NAT
	}
	return firewall.Off
}

// inside is the share of the network's own namespace.
func (n network) inside(peers peers) netdriver.Share {
	bridge := sandbox.Link{
		Name: bridgeName, MTU: n.mtu, MAC: n.mac(), Addrs: n.gateways(), Silent: true, Entries: peers.neighbours,
		Bridge: &sandbox.Bridge{NoSnooping: true},
	}
	tunnel := sandbox.Link{
		Name: tunnelName, Master: bridgeName, MTU: n.mtu, Silent: true, Entries: peers.forwarding,
		VXLAN: &sandbox.VXLAN{VNI: n.record.Number, Port: uint32(n.options.port()), Local: n.host.Advertise},
		Port:  sandbox.Port{NoFlood: true, Broadcast: n.options.Flood, NoLearning: true, ProxyARP: true},
	}
	config := sandbox.Config{Links: []sandbox.Link{bridge, tunnel}, Sysctls: n.insideSysctls()}
	if !n.record.Internal {
		config.Links = append(config.Links, n.uplinkInside())
		config.Routes = n.waysOut()
	}
	var subnets []netip.Prefix
	for _, s := range n.record.Subnets {
		subnets = append(subnets, s.Pool.Subnet)
	}
	terms := firewall.Terms{Networks: []firewall.Network{{
		Interface: bridgeName, Subnets: subnets, Mode4: mode(n.v4), Mode6: mode(n.v6), Internal: n.record.Internal,
	}}}
	return netdriver.Share{Space: n.space(), Config: config, Terms: terms}
}

// insideSysctls make the namespace a router. Bridged packets do not pass its firewall, which costs a quarter of the request rate, and no
// endpoint is told of a shorter way.
func (n network) insideSysctls() []sandbox.Sysctl {
	var all []sandbox.Sysctl
	set := func(key, value, link string) { all = append(all, sandbox.Sysctl{Key: key, Value: value, Link: link}) }
	if n.host.Features["br_netfilter"] {
		set("bridge/bridge-nf-call-iptables", "0", "")
		set("bridge/bridge-nf-call-ip6tables", "0", "")
	}
	if n.v4 {
		set("ipv4/ip_forward", "1", "")
		set("ipv4/conf/all/send_redirects", "0", "")
		set("ipv4/conf/IFNAME/send_redirects", "0", bridgeName)
	}
	if n.v6 {
		set("ipv6/conf/all/forwarding", "1", "")
		set("ipv6/conf/IFNAME/disable_ipv6", "0", bridgeName)
	}
	return all
}

// port is an endpoint's place on the bridge.
type port struct {
	network
	e     endpoint.Info
	addrs []netip.Prefix // with the lengths of their subnets
	on    []netdriver.Subnet
}

func (n network) port(e endpoint.Info) (port, error) {
	p := port{network: n, e: e}
	if err := netdriver.CheckVeth(e); err != nil {
		return p, err
	}
	if err := checkEndpointOptions(e.Spec.Options); err != nil {
		return p, err
	}
	for _, a := range e.Addresses {
		if err := p.address(a.Addr()); err != nil {
			return p, err
		}
	}
	return p, nil
}

// address finds the subnet of an address, of which an endpoint has one in each at most.
func (p *port) address(a netip.Addr) error {
	i := slices.IndexFunc(p.record.Subnets, func(s netdriver.Subnet) bool { return s.Pool.Subnet.Contains(a) })
	why := ""
	switch {
	case i < 0:
		why = "outside the network's subnets"
	case slices.ContainsFunc(p.on, func(s netdriver.Subnet) bool { return s.Pool.Subnet == p.record.Subnets[i].Pool.Subnet }):
		why = "the endpoint has one of that subnet already"
	case a.Is6() && p.e.Spec.NoIPv6:
		why = "the endpoint is to have no IPv6"
	default:
		p.on = append(p.on, p.record.Subnets[i])
		p.addrs = append(p.addrs, netip.PrefixFrom(a, p.record.Subnets[i].Pool.Subnet.Bits()))
		return nil
	}
	return fmt.Errorf("address %s: %s: %w", a, why, errdefs.ErrInvalidArgument)
}

// first is the first address of a family, with its subnet; ok false: it has none.
func (p port) first(six bool) (a netip.Addr, on netdriver.Subnet, ok bool) {
	i := slices.IndexFunc(p.addrs, func(a netip.Prefix) bool { return a.Addr().Is6() == six })
	if i < 0 {
		return a, on, false
	}
	return p.addrs[i].Addr(), p.on[i], true
}

// veth is the end on the bridge; the other is made where the sandbox is. Where that is not ours to enter, it waits on the host.
func (p port) veth() sandbox.Link {
	l := netdriver.Veth(p.e, p.addrs)
	l.Master, l.Owner, l.MTU, l.Veth.Space = bridgeName, "ep/"+string(p.e.ID), p.mtu, cmp.Or(p.e.Key, sandbox.InHost)
	return l
}

func (p port) attachment() (sandbox.Attachment, error) {
	sysctls, err := netdriver.InterfaceSysctls(p.e, p.ipv6)
	a := sandbox.Attachment{
		Link:   sandbox.Link{MAC: p.e.MAC, MTU: p.mtu, Addrs: p.addrs, Silent: true, Arrives: netdriver.Waiting(p.e)},
		Prefix: p.options.Prefix, Priority: p.e.Spec.Priority, Order: p.record.Name, Internal: p.record.Internal, Sysctls: sysctls,
	}
	for _, six := range []bool{false, true} {
		_, on, has := p.first(six)
		if !has || !on.Gateway.IsValid() {
			continue
		}
		a.Routes = append(a.Routes, p.neighbouring(on, six)...)
		switch {
		case p.record.Internal:
		case six:
			a.Gateway6 = on.Gateway.Addr()
		default:
			a.Gateway4 = on.Gateway.Addr()
		}
	}
	return a, err
}

// neighbouring are the ways to the other subnets of the network, which do not depend on whose gateway the sandbox uses.
func (p port) neighbouring(on netdriver.Subnet, six bool) []sandbox.Route {
	var routes []sandbox.Route
	for _, s := range p.record.Subnets {
		near := slices.ContainsFunc(p.on, func(o netdriver.Subnet) bool { return o.Pool.Subnet == s.Pool.Subnet })
		if s.Pool.Subnet.Addr().Is6() == six && !near {
			routes = append(routes, sandbox.Route{Dst: s.Pool.Subnet, Via: on.Gateway.Addr()})
		}
	}
	return routes
}

// published are the terms of the ports, each binding in each family that can carry it: on the host to the namespace, at the port's own
// number, and there to the endpoint.
func (p port) published(bindings []endpoint.PortBinding) (outer, inner []firewall.Port, err error) {
	if p.record.Internal {
		return nil, nil, nil
	}
	_, _, has6 := p.first(true)
	for _, b := range bindings {
		for _, host := range netdriver.BoundTo(b.Host, p.options.Binding, has6) {
			target, _, has := p.first(host.Is6())
			if !has {
				continue
			}
			via, all := p.transit4.inside, netip.IPv4Unspecified()
			if host.Is6() {
				via, all = p.transit6.inside, netip.IPv6Unspecified()
			}
			outer = append(outer, firewall.Port{Interface: p.device(), Proto: b.Proto, Host: host, HostPorts: b.HostPorts, Target: via, Ports: b.HostPorts})
			in := firewall.Port{Interface: bridgeName, Proto: b.Proto, Host: all, HostPorts: b.HostPorts, Target: target, Ports: b.Ports}
			if slices.Contains(inner, in) {
				continue
			}
			if i := slices.IndexFunc(inner, func(o firewall.Port) bool { return overlaps(o, in) }); i >= 0 {
				return nil, nil, fmt.Errorf("ports %s and %s: on an overlay network a host port leads to one place, whatever the host address: %w",
					inner[i], in, errdefs.ErrInvalidArgument)
			}
			inner = append(inner, in)
		}
	}
	return outer, inner, nil
}

func overlaps(a, b firewall.Port) bool {
	return a.Proto == b.Proto && a.Host == b.Host && a.HostPorts.First <= b.HostPorts.Last && b.HostPorts.First <= a.HostPorts.Last
}
