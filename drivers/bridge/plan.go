package bridge

import (
	"crypto/sha256"
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
	maxMTU  = 65535 // of a veth and a bridge
	minMTU6 = 1280  // below it the kernel takes IPv6 off the link
)

type planner struct{}

// Type implements netdriver.Planner.
func (planner) Type() netdriver.Capability {
	return netdriver.Capability{Type: "bridge", Scope: netdriver.Local, Connectivity: netdriver.Local}
}

// PlanNetwork is the bridge, what the host needs to route for it, and the network's terms.
func (planner) PlanNetwork(in netdriver.Input) (netdriver.Plan, error) {
	n, err := read(in)
	if err != nil {
		return netdriver.Plan{}, fmt.Errorf("plan network %s: %w", in.Network.Name, err)
	}
	share := netdriver.Share{
		Config: sandbox.Config{Links: []sandbox.Link{n.bridge()}, Routes: n.routes(), Sysctls: n.sysctls()},
		Terms:  firewall.Terms{Networks: []firewall.Network{n.terms()}},
	}
	if err := share.Terms.Validate(); err != nil {
		return netdriver.Plan{}, fmt.Errorf("plan network %s: %w", in.Network.Name, err)
	}
	return netdriver.Plan{Shares: []netdriver.Share{share}}, nil
}

// PlanEndpoint is the veth, the endpoint's published ports, and what the endpoint brings into its sandbox. Every binding in e.Ports is
// published, in the families that the endpoint has an address of: which endpoint of a sandbox carries its ports is not known here.
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
	published, err := port.published(e.Ports)
	if err != nil {
		return netdriver.Plan{}, err
	}
	attachment, err := port.attachment()
	if err != nil {
		return netdriver.Plan{}, err
	}
	share := netdriver.Share{
		Config: sandbox.Config{Links: []sandbox.Link{port.veth()}},
		Terms:  firewall.Terms{Ports: published},
	}
	return netdriver.Plan{Shares: []netdriver.Share{share}, Attachment: &attachment}, share.Terms.Validate()
}

// network is a record read and found good: what every plan starts from.
type network struct {
	record  netdriver.Network
	options Options
	device  string
	mtu     int
	hairpin bool // bridged packets pass the firewall: only then must a port return what came from it
	ipv6    bool // the host knows IPv6
	v4, v6  family
}

// family is one address family of a network; without one the zero value.
type family struct {
	subnet netip.Prefix
	bridge netip.Prefix // address of the bridge; zero: none
	router netip.Addr   // default gateway of the endpoints; zero: none
	mode   firewall.Mode
}

func (f family) used() bool { return f.subnet.IsValid() }

// open says whether traffic may leave and come in.
func (n network) open(f family) bool {
	return f.used() && f.mode != firewall.Isolated && !n.record.Internal
}

func read(in netdriver.Input) (network, error) {
	has6, known := in.Host.Features["ipv6"]
	n := network{record: in.Network, hairpin: in.Host.Features["bridge-nf-call"], ipv6: has6 || !known}
	var err error
	if n.options, err = ParseOptions(in.Network.Options); err != nil {
		return n, err
	}
	for _, s := range in.Network.Subnets {
		if err := n.add(s); err != nil {
			return n, err
		}
	}
	if n.v6.used() && !n.ipv6 {
		return n, fmt.Errorf("this host has no IPv6: leave %s out: %w", n.v6.subnet, errdefs.ErrFailedPrecondition)
	}
	n.device = n.options.Name
	if n.device == "" {
		n.device = "sl-" + string(in.Network.ID[:min(12, len(in.Network.ID))])
	}
	n.mtu = n.options.MTU
	if n.mtu == 0 && in.Host.MTU != 0 {
		n.mtu = min(in.Host.MTU, maxMTU)
		if n.v6.used() {
			n.mtu = max(n.mtu, minMTU6)
		}
	}
	return n, n.check()
}

// add takes a subnet into its family.
func (n *network) add(s netdriver.Subnet) error {
	f, mode, bare := &n.v4, n.options.Mode4, n.options.NoAddress4
	if s.Pool.Subnet.Addr().Is6() {
		f, mode, bare = &n.v6, n.options.Mode6, false
	}
	if f.used() {
		return fmt.Errorf("subnets %s and %s: a bridge network takes one a family: %w", f.subnet, s.Pool.Subnet, errdefs.ErrInvalidArgument)
	}
	if mode == "" {
		mode = firewall.NAT
	}
	*f = family{subnet: s.Pool.Subnet, mode: mode}
	if mode == firewall.Isolated {
		return nil
	}
	f.router = s.Gateway.Addr()
	if aux := s.Aux[routerAux(s.Pool.Subnet)]; aux.IsValid() {
		f.router = aux
	}
	if !bare && s.Gateway.IsValid() {
		f.bridge = netip.PrefixFrom(s.Gateway.Addr(), s.Pool.Subnet.Bits())
	}
	return nil
}

// check finds what is good in itself and bad together.
func (n network) check() error {
	why := ""
	switch {
	case !n.v4.used() && !n.v6.used():
		why = "a bridge network needs a subnet of IPv4 or IPv6"
	case n.v6.used() && n.mtu != 0 && n.mtu < minMTU6:
		why = fmt.Sprintf("option mtu: value %d: IPv6 wants %d or more", n.mtu, minMTU6)
	case (n.v4.mode == firewall.Isolated || n.v6.mode == firewall.Isolated) && !n.record.Internal:
		why = "gateway mode isolated is for internal networks"
	default:
		return nil
	}
	return fmt.Errorf("%s: %w", why, errdefs.ErrInvalidArgument)
}

// bridge is the device. Its MAC is given so that it does not change with its ports.
func (n network) bridge() sandbox.Link {
	l := sandbox.Link{Name: n.device, Owner: "net/" + string(n.record.ID), MTU: n.mtu, MAC: n.mac(), Silent: true, Bridge: &sandbox.Bridge{NoSnooping: true}}
	for _, f := range []family{n.v4, n.v6} {
		if f.bridge.IsValid() {
			l.Addrs = append(l.Addrs, f.bridge)
		}
	}
	return l
}

// mac goes with the gateway address, so that endpoints that come back find the router they knew.
func (n network) mac() net.HardwareAddr {
	for _, f := range []family{n.v4, n.v6} {
		if f.bridge.IsValid() {
			return endpoint.MAC(f.bridge.Addr())
		}
	}
	hash := sha256.Sum256([]byte(n.record.ID))
	return net.HardwareAddr{0x02, 0x53, hash[0], hash[1], hash[2], hash[3]}
}

// routes lets the answers to ::1 find their way: packets to it that come by the bridge are otherwise dropped.
func (n network) routes() []sandbox.Route {
	if !n.open(n.v6) {
		return nil
	}
	loopback := netip.PrefixFrom(netip.IPv6Loopback(), 128)
	return []sandbox.Route{{Dst: loopback, Link: n.device, Type: "local"}}
}

// sysctls are settings of our own bridge, and forwarding of the host, which is turned on and not turned back.
func (n network) sysctls() []sandbox.Sysctl {
	var all []sandbox.Sysctl
	own := func(key, value string) { all = append(all, sandbox.Sysctl{Key: key, Value: value, Link: n.device}) }
	if n.open(n.v4) {
		own("ipv4/conf/IFNAME/route_localnet", "1") // for ports reached at 127.0.0.1
		all = append(all, sandbox.Sysctl{Key: "ipv4/ip_forward", Value: "1"})
	}
	switch { // an endpoint must not become the host's router
	case n.v6.bridge.IsValid():
		own("ipv6/conf/IFNAME/disable_ipv6", "0") // whatever the host's default for new links is
		own("ipv6/conf/IFNAME/accept_ra", "0")
	case n.ipv6:
		own("ipv6/conf/IFNAME/disable_ipv6", "1")
	}
	if n.open(n.v6) {
		all = append(all, sandbox.Sysctl{Key: "ipv6/conf/all/forwarding", Value: "1"})
	}
	return all
}

func (n network) terms() firewall.Network {
	t := firewall.Network{
		Interface: n.device, Mode4: n.v4.mode, Mode6: n.v6.mode, Internal: n.record.Internal, NoICC: n.options.NoICC,
		NoMasq: n.options.NoMasquerade, SNAT4: n.options.SNAT4, SNAT6: n.options.SNAT6, Trusted: n.options.Trusted,
	}
	for _, f := range []family{n.v4, n.v6} {
		if f.used() {
			t.Subnets = append(t.Subnets, f.subnet)
		}
	}
	return t
}

// port is an endpoint's place on the bridge.
type port struct {
	network
	e            endpoint.Info
	addr4, addr6 netip.Prefix // zero: it has none
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

// address takes an address into its family, with the prefix length of the subnet.
func (p *port) address(a netip.Addr) error {
	f, mine := p.v4, &p.addr4
	if a.Is6() {
		f, mine = p.v6, &p.addr6
	}
	why := ""
	switch {
	case !f.used() || !f.subnet.Contains(a):
		why = "outside the network's subnets"
	case mine.IsValid():
		why = fmt.Sprintf("beside %s: an endpoint of a bridge has one address a family", mine.Addr())
	case a.Is6() && p.e.Spec.NoIPv6:
		why = "the endpoint is to have no IPv6"
	default:
		*mine = netip.PrefixFrom(a, f.subnet.Bits())
		return nil
	}
	return fmt.Errorf("address %s: %s: %w", a, why, errdefs.ErrInvalidArgument)
}

// addrs are the addresses that it has.
func (p port) addrs() []netip.Prefix {
	return slices.DeleteFunc([]netip.Prefix{p.addr4, p.addr6}, func(a netip.Prefix) bool { return !a.IsValid() })
}

// veth is the host's end; the other is made where the sandbox is. Where that is not ours to enter, it waits beside it.
func (p port) veth() sandbox.Link {
	l := netdriver.Veth(p.e, p.addrs())
	l.Master, l.Owner, l.MTU, l.Port.Hairpin = p.device, "ep/"+string(p.e.ID), p.mtu, p.hairpin
	return l
}

func (p port) attachment() (sandbox.Attachment, error) {
	sysctls, err := netdriver.InterfaceSysctls(p.e, p.ipv6)
	a := sandbox.Attachment{
		Link:   sandbox.Link{MAC: p.e.MAC, MTU: p.mtu, Addrs: p.addrs(), Silent: true, Arrives: netdriver.Waiting(p.e)},
		Prefix: p.options.Prefix, Priority: p.e.Spec.Priority, Order: p.record.Name, Internal: p.record.Internal, Sysctls: sysctls,
	}
	if p.addr4.IsValid() && p.open(p.v4) {
		a.Gateway4 = p.v4.router
	}
	if p.addr6.IsValid() && p.open(p.v6) {
		a.Gateway6 = p.v6.router
	}
	return a, err
}

// published are the terms of the ports, each binding in each family that can carry it.
func (p port) published(bindings []endpoint.PortBinding) ([]firewall.Port, error) {
	var all []firewall.Port
	for _, b := range bindings {
		for _, host := range netdriver.BoundTo(b.Host, p.options.Binding, p.addr6.IsValid()) {
			f, target := p.v4, p.addr4
			if host.Is6() {
				f, target = p.v6, p.addr6
			}
			if !target.IsValid() || !p.open(f) {
				continue
			}
			all = append(all, firewall.Port{Interface: p.device, Proto: b.Proto, Host: host, HostPorts: b.HostPorts, Target: target.Addr(), Ports: b.Ports})
		}
	}
	return all, nil
}
