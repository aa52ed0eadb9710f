package remote

import (
	"encoding/json"
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

// Networks.

func newNetworkRequest(n netdriver.Network) networkRequest {
	r := networkRequest{NetworkID: string(n.ID), Options: map[string]any{optIPv4: n.IPv4, optIPv6: n.IPv6, optGeneric: generic(n.Options)},
		IPv4Data: []ipamData{}, IPv6Data: []ipamData{}, Sealane: &Extra{Network: n.Name, Labels: n.Labels}}
	if n.Internal {
		r.Options[optInternal] = true
	}
	for _, s := range n.Subnets {
		d := newIPAMData(n, s)
		if s.Pool.Subnet.Addr().Is6() {
			r.IPv6Data = append(r.IPv6Data, d)
		} else {
			r.IPv4Data = append(r.IPv4Data, d)
		}
	}
	return r
}

func generic(options map[string]string) map[string]string {
	if options == nil {
		return map[string]string{}
	}
	return options
}

func newIPAMData(n netdriver.Network, s netdriver.Subnet) ipamData {
	d := ipamData{AddressSpace: s.Pool.Data[AddressSpace], Pool: s.Pool.Subnet.String()}
	if d.AddressSpace == "" {
		d.AddressSpace = string(n.Scope)
	}
	if s.Gateway.IsValid() {
		d.Gateway = s.Gateway.String()
	}
	for name, a := range s.Aux {
		if d.AuxAddresses == nil {
			d.AuxAddresses = map[string]string{}
		}
		d.AuxAddresses[name] = netip.PrefixFrom(a, s.Pool.Subnet.Bits()).String()
	}
	return d
}

// network is what a request says of a network. Docker tells neither name nor labels.
func (r networkRequest) network() (netdriver.Network, error) {
	n := netdriver.Network{ID: endpoint.NetworkID(r.NetworkID), IPv4: flag(r.Options, optIPv4, true), IPv6: flag(r.Options, optIPv6, false),
		Internal: flag(r.Options, optInternal, false), Options: texts(r.Options[optGeneric])}
	if n.ID == "" {
		return n, fmt.Errorf("a network without an id: %w", errdefs.ErrInvalidArgument)
	}
	if r.Sealane != nil {
		n.Name, n.Labels = r.Sealane.Network, r.Sealane.Labels
	}
	for _, d := range slices.Concat(r.IPv4Data, r.IPv6Data) {
		s, err := d.subnet()
		if err != nil {
			return n, err
		}
		n.Subnets = append(n.Subnets, s)
	}
	return n, nil
}

func (d ipamData) subnet() (s netdriver.Subnet, err error) {
	if s.Pool.Subnet, err = netip.ParsePrefix(d.Pool); err != nil {
		return s, fmt.Errorf("pool %.80q: %w: %w", d.Pool, errdefs.ErrInvalidArgument, err)
	}
	s.Pool.Data = map[string]string{AddressSpace: d.AddressSpace}
	if d.Gateway != "" {
		if s.Gateway, err = netip.ParsePrefix(d.Gateway); err != nil {
			return s, fmt.Errorf("gateway %.80q: %w: %w", d.Gateway, errdefs.ErrInvalidArgument, err)
		}
	}
	for name, text := range d.AuxAddresses {
		a, err := netip.ParsePrefix(text)
		if err != nil {
			return s, fmt.Errorf("auxiliary address %.80q: %w: %w", text, errdefs.ErrInvalidArgument, err)
		}
		if s.Aux == nil {
			s.Aux = map[string]netip.Addr{}
		}
		s.Aux[name] = a.Addr()
	}
	return s, nil
}

// flag is an option that is true or false; what is neither is as if it were not there.
func flag(options map[string]any, key string, otherwise bool) bool {
	if v, ok := options[key].(bool); ok {
		return v
	}
	return otherwise
}

// texts are options as strings: Docker sends what a user wrote, others may send numbers.
func texts(v any) map[string]string {
	values, _ := v.(map[string]any)
	var out map[string]string
	for key, value := range values {
		if out == nil {
			out = map[string]string{}
		}
		switch x := value.(type) {
		case nil:
			out[key] = ""
		case string:
			out[key] = x
		case map[string]any, []any:
			text, _ := json.Marshal(x) // what came as JSON can be written as JSON
			out[key] = string(text)
		default:
			out[key] = fmt.Sprint(x)
		}
	}
	return out
}

// Endpoints.

func newEndpointName(n netdriver.Network, e endpoint.Info) endpointName {
	return endpointName{NetworkID: string(n.ID), EndpointID: string(e.ID), Sealane: extraOf(n, e)}
}

func (r endpointName) names() (netdriver.Network, endpoint.Info, error) {
	e := endpoint.Info{ID: endpoint.ID(r.EndpointID), Network: endpoint.NetworkID(r.NetworkID)}
	n := netdriver.Network{ID: e.Network}
	if r.Sealane != nil {
		r.Sealane.tell(&n, &e)
	}
	if n.ID == "" || e.ID == "" {
		return n, e, fmt.Errorf("an endpoint without an id, or without its network's: %w", errdefs.ErrInvalidArgument)
	}
	return n, e, nil
}

// extraOf is what an endpoint's requests tell beyond the protocol.
func extraOf(n netdriver.Network, e endpoint.Info) *Extra {
	x := &Extra{Network: n.Name, Endpoint: e.Spec.Name, Aliases: e.Spec.Aliases, Sandbox: string(e.Sandbox), Labels: e.Spec.Labels}
	if e.MAC != nil {
		x.MAC = e.MAC.String()
	}
	return x
}

// tell puts into records what a request says beyond the protocol.
func (x *Extra) tell(n *netdriver.Network, e *endpoint.Info) {
	n.Name = x.Network
	e.Spec.Name, e.Spec.Aliases, e.Spec.Labels, e.Sandbox = x.Endpoint, x.Aliases, x.Labels, sandbox.ID(x.Sandbox)
	if mac, err := net.ParseMAC(x.MAC); err == nil {
		e.MAC = mac
	}
}

func newEndpointRequest(n netdriver.Network, e endpoint.Info) endpointRequest {
	r := endpointRequest{NetworkID: string(n.ID), EndpointID: string(e.ID), Interface: &iface{}, Options: portOptions(e.Spec.Publish, e.Spec.Exposed),
		Sealane: extraOf(n, e)}
	for key, value := range e.Spec.Options {
		r.Options[key] = value
	}
	r.Interface.Address, r.Interface.AddressIPv6 = text(family(e.Addresses, false)), text(family(e.Addresses, true))
	if e.MAC != nil {
		r.Interface.MacAddress = e.MAC.String()
		r.Options[optMAC] = []byte(e.MAC) // base64, as Docker has it
	}
	return r
}

func text(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// family is the first address of one family; the zero Prefix when there is none.
func family(addresses []netip.Prefix, six bool) netip.Prefix {
	i := slices.IndexFunc(addresses, func(p netip.Prefix) bool { return p.Addr().Is6() == six })
	if i < 0 {
		return netip.Prefix{}
	}
	return addresses[i]
}

func (r endpointRequest) endpoint() (netdriver.Network, endpoint.Info, error) {
	n, e, err := endpointName{NetworkID: r.NetworkID, EndpointID: r.EndpointID, Sealane: r.Sealane}.names()
	if err != nil {
		return n, e, err
	}
	e.MAC = nil // that of the interface counts
	if r.Interface != nil {
		i, err := r.Interface.read()
		if err != nil {
			return n, e, fmt.Errorf("interface: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		e.Addresses, e.MAC = i.Addresses, i.MAC
		e.Spec.Addresses, e.Spec.MAC = i.Addresses, i.MAC
	}
	for key, value := range r.Options {
		if s, ok := value.(string); ok && key != optMAC {
			if e.Spec.Options == nil {
				e.Spec.Options = map[string]string{}
			}
			e.Spec.Options[key] = s
		}
	}
	e.Spec.Publish, e.Spec.Exposed, err = ports(r.Options)
	return n, e, err
}

func newIface(i netdriver.Interface) *iface {
	out := &iface{Address: text(family(i.Addresses, false)), AddressIPv6: text(family(i.Addresses, true))}
	if i.MAC != nil {
		out.MacAddress = i.MAC.String()
	}
	return out
}

func (i iface) read() (out netdriver.Interface, err error) {
	for _, a := range []struct {
		text string
		six  bool
	}{{i.Address, false}, {i.AddressIPv6, true}} {
		if a.text == "" {
			continue
		}
		p, err := netip.ParsePrefix(a.text)
		if err != nil {
			return out, err
		}
		if p.Addr().Is6() != a.six || p.Addr().Is4In6() {
			return out, fmt.Errorf("address %s is of the other family", p)
		}
		out.Addresses = append(out.Addresses, p)
	}
	if i.MacAddress != "" {
		if out.MAC, err = net.ParseMAC(i.MacAddress); err == nil {
			err = endpoint.CheckMAC(out.MAC)
		}
	}
	return out, err
}

// Joining.

func newJoinRequest(n netdriver.Network, e endpoint.Info) joinRequest {
	return joinRequest{NetworkID: string(n.ID), EndpointID: string(e.ID), SandboxKey: e.Key,
		Options: portOptions(e.Spec.Publish, e.Spec.Exposed), Sealane: extraOf(n, e)}
}

// endpoint is what a join says. The caller moves the link, so the namespace is not told on.
func (r joinRequest) endpoint() (netdriver.Network, endpoint.Info, error) {
	n, e, err := endpointName{NetworkID: r.NetworkID, EndpointID: r.EndpointID, Sealane: r.Sealane}.names()
	if err != nil {
		return n, e, err
	}
	if e.Sandbox == "" {
		e.Sandbox = sandbox.ID(r.SandboxKey)
	}
	e.Spec.Publish, e.Spec.Exposed, err = ports(r.Options)
	return n, e, err
}

func newJoinReply(a *sandbox.Attachment) joinReply {
	if a == nil {
		return joinReply{InterfaceName: &interfaceName{}, DisableGatewayService: true}
	}
	r := joinReply{InterfaceName: &interfaceName{SrcName: a.Link.Arrives, DstPrefix: a.Prefix}, DisableGatewayService: a.NoFallback}
	if r.InterfaceName.DstPrefix == "" {
		r.InterfaceName.DstPrefix = "eth"
	}
	if a.Gateway4.IsValid() {
		r.Gateway = a.Gateway4.String()
	}
	if a.Gateway6.IsValid() {
		r.GatewayIPv6 = a.Gateway6.String()
	}
	for _, route := range a.Routes {
		s := staticRoute{Destination: route.Dst.String(), RouteType: 1}
		if route.Via.IsValid() {
			s.RouteType, s.NextHop = 0, route.Via.String()
		}
		r.StaticRoutes = append(r.StaticRoutes, s)
	}
	return r
}

// attachment is what a plugin's reply and the endpoint's record bring into the sandbox; nil: no interface. What cannot be is refused.
func (r joinReply) attachment(n netdriver.Network, e endpoint.Info) (*sandbox.Attachment, error) {
	if r.InterfaceName == nil || r.InterfaceName.SrcName == "" {
		return nil, nil
	}
	name := *r.InterfaceName
	if err := sandbox.CheckLinkName(name.SrcName); err != nil {
		return nil, badReply("SrcName: %w", err)
	}
	if name.DstPrefix != "" {
		if err := sandbox.CheckLinkName(name.DstPrefix + "1023"); err != nil {
			return nil, badReply("DstPrefix: %w", err)
		}
	}
	a := &sandbox.Attachment{
		Link:   sandbox.Link{MAC: e.MAC, Addrs: slices.Clone(e.Addresses), Arrives: name.SrcName},
		Prefix: name.DstPrefix, Priority: e.Spec.Priority, Order: n.Name, Internal: n.Internal, NoFallback: r.DisableGatewayService,
	}
	var err error
	if a.Sysctls, err = e.Spec.InterfaceSysctls(); err != nil {
		return nil, err
	}
	for _, s := range r.StaticRoutes {
		route, err := s.route()
		if err != nil {
			return nil, badReply("route %.80q: %w", s.Destination, err)
		}
		a.Routes = append(a.Routes, route)
	}
	if a.Gateway4, err = r.gateway(r.Gateway, false, *a); err == nil {
		a.Gateway6, err = r.gateway(r.GatewayIPv6, true, *a)
	}
	return a, err
}

// gateway reads one that the endpoint can reach on its link.
func (r joinReply) gateway(text string, six bool, a sandbox.Attachment) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	gw, err := netip.ParseAddr(text)
	if err != nil || gw.Is6() != six || gw.Zone() != "" || gw.Is4In6() {
		return gw, badReply("gateway %.80q is no address of its family", text)
	}
	reach := func(p netip.Prefix) bool { return p.Contains(gw) }
	onLink := func(r sandbox.Route) bool { return !r.Via.IsValid() && r.Dst.Contains(gw) }
	if !slices.ContainsFunc(a.Link.Addrs, reach) && !slices.ContainsFunc(a.Routes, onLink) && !gw.IsLinkLocalUnicast() {
		return gw, badReply("gateway %s lies outside the endpoint's subnets", gw)
	}
	return gw, nil
}

func (s staticRoute) route() (r sandbox.Route, err error) {
	if r.Dst, err = netip.ParsePrefix(s.Destination); err != nil {
		return r, err
	}
	r.Dst = r.Dst.Masked()
	switch s.RouteType {
	case 0:
		if r.Via, err = netip.ParseAddr(s.NextHop); err == nil && (r.Via.Is6() != r.Dst.Addr().Is6() || r.Via.IsUnspecified()) {
			err = fmt.Errorf("next hop %s is none", r.Via)
		}
	case 1:
	default:
		err = fmt.Errorf("unknown type %d", s.RouteType)
	}
	if a := r.Dst.Addr(); err == nil && (a.IsLoopback() || a.IsMulticast()) {
		err = fmt.Errorf("nothing is routed there")
	}
	return r, err
}

// Ports.

func portOptions(publish, exposed []endpoint.PortBinding) map[string]any {
	published := []port{}
	for _, b := range publish {
		published = append(published, portsOf(b)...)
	}
	open := []exposedPort{}
	for _, b := range exposed {
		for p := int(b.Ports.First); p <= int(b.Ports.Last) && p > 0; p++ {
			open = append(open, exposedPort{Proto: uint8(b.Proto), Port: uint16(p)})
		}
	}
	return map[string]any{optPorts: published, optExposed: open}
}

// portsOf is a binding, container port by container port, as Docker has it.
func portsOf(b endpoint.PortBinding) []port {
	var all []port
	host := ""
	if b.Host.IsValid() {
		host = b.Host.String()
	}
	for i := range b.Ports.Len() {
		p := port{Proto: uint8(b.Proto), Port: b.Ports.First + uint16(i), HostIP: host}
		switch {
		case b.HostPorts == (firewall.Range{}):
		case b.Ports.Len() == 1:
			p.HostPort, p.HostPortEnd = b.HostPorts.First, b.HostPorts.Last
		default:
			p.HostPort = b.HostPorts.First + uint16(i)
			p.HostPortEnd = p.HostPort
		}
		all = append(all, p)
	}
	return all
}

// ports reads what is published and what is exposed.
func ports(options map[string]any) (publish, exposed []endpoint.PortBinding, err error) {
	var published []port
	var open []exposedPort
	for key, into := range map[string]any{optPorts: &published, optExposed: &open} {
		text, err := json.Marshal(options[key])
		if err == nil {
			err = json.Unmarshal(text, into)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w: %w", key, errdefs.ErrInvalidArgument, err)
		}
	}
	for _, p := range published {
		b, err := p.binding()
		if err != nil {
			return nil, nil, err
		}
		publish = append(publish, b)
	}
	for _, p := range open {
		b, err := port{Proto: p.Proto, Port: p.Port}.binding()
		if err != nil {
			return nil, nil, err
		}
		exposed = append(exposed, b)
	}
	return publish, exposed, nil
}

func (p port) binding() (b endpoint.PortBinding, err error) {
	b = endpoint.PortBinding{Proto: firewall.Proto(p.Proto), Ports: firewall.Range{First: p.Port, Last: p.Port},
		HostPorts: firewall.Range{First: p.HostPort, Last: max(p.HostPort, p.HostPortEnd)}}
	if p.HostIP != "" {
		if b.Host, err = netip.ParseAddr(p.HostIP); err != nil {
			return b, fmt.Errorf("host address %.80q of port %d: %w: %w", p.HostIP, p.Port, errdefs.ErrInvalidArgument, err)
		}
		b.Host = b.Host.Unmap()
	}
	return b, b.Check()
}

// checkChosen refuses addresses that a plugin chose outside the network's subnets.
func checkChosen(n netdriver.Network, chosen []netip.Prefix) error {
	for _, p := range chosen {
		inside := func(s netdriver.Subnet) bool { return s.Pool.Subnet.Contains(p.Addr()) }
		if len(n.Subnets) > 0 && !slices.ContainsFunc(n.Subnets, inside) {
			return badReply("address %s lies outside the network's subnets", p)
		}
		if a := p.Addr(); a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
			return badReply("address %s is none that an endpoint can have", p)
		}
	}
	return nil
}
