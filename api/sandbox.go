package api

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// Sandbox is a sandbox as inspect shows it.
type Sandbox struct {
	ID                   string
	Name                 string
	NetNS                string // path of the namespace; "": the host's, or not there yet (State)
	Created              time.Time
	State                string // StateReady, StatePending, StateUnknown
	Problem              string // why it is not as wanted; "" it is
	Join                 string `json:",omitempty"` // id of the sandbox whose namespace, files and names it shares
	Hostname, Domainname string // as it is called inside; "": as the host
	Labels               map[string]string
	Env                  []string              // NAME=value, what links give to its processes
	Networks             map[string]Attachment // by name
	Ports                map[string][]HostPort // by container port: "80/tcp"
}

// Attachment is a sandbox's place on one network.
type Attachment struct {
	NetworkID           string
	EndpointID          string
	Gateway             netip.Addr
	IPAddress           netip.Addr
	IPPrefixLen         int
	IPv6Gateway         netip.Addr
	GlobalIPv6Address   netip.Addr
	GlobalIPv6PrefixLen int
	MacAddress          string
	Aliases             []string
	Links               []string // NAME:ALIAS
	DNSNames            []string // what others on the network find it by
	IfName              string
}

// HostPort is where a container port is published.
type HostPort struct {
	HostIP   string `json:"HostIp"` // 0.0.0.0 and :: are all addresses of the family
	HostPort string
}

// SandboxSpec asks for a sandbox with its networks. At most one of NetNS, PID, Host and Join says whose namespace it is; none: its own.
type SandboxSpec struct {
	ID    string `json:",omitempty"` // 64 hex digits chosen by the caller; "": by the daemon
	Name  string `json:",omitempty"` // "": the first 12 digits of the id
	NetNS string `json:",omitempty"` // path
	PID   int    `json:",omitempty"`
	Host  bool   `json:",omitempty"`
	Join  string `json:",omitempty"` // another sandbox, whose networks and ports it shares

	Networks   []NetworkJoin     `json:",omitempty"` // joined in this order; none: bridge, or host with Host
	Publish    []string          `json:",omitempty"` // [IP:][HOST[-HOST]:]CTR[-CTR][/tcp|udp|sctp]
	PublishAll bool              `json:",omitempty"` // each of Expose at a free host port
	Expose     []string          `json:",omitempty"` // CTR[-CTR][/proto]
	Hostname   string            `json:",omitempty"` // "": the first 12 digits of the id
	Domainname string            `json:",omitempty"`
	DNS        []netip.Addr      `json:",omitempty"` // servers asked from within it; none: the host's
	DNSSearch  []string          `json:",omitempty"` // in the place of the host's; "." alone: none
	DNSOptions []string          `json:",omitempty"` // of resolv.conf, in the place of the host's
	ExtraHosts []string          `json:",omitempty"` // NAME:ADDRESS or NAME:host-gateway
	Links      []string          `json:",omitempty"` // SANDBOX[:ALIAS], on each of its networks
	Sysctls    map[string]string `json:",omitempty"` // of the whole namespace
	Labels     map[string]string `json:",omitempty"`
}

// NetworkJoin names a network to be joined, and how.
type NetworkJoin struct {
	Network string // id, name or unique beginning of the id
	EndpointConfig
}

// PortChange publishes a container port of a sandbox, or ends that.
type PortChange struct {
	Port string // [IP:][HOST[-HOST]:]CTR[-CTR][/tcp|udp|sctp]; to unpublish, what is left out matches anything
}

// Published answers a PortChange: all ports of the sandbox as they are now.
type Published struct {
	Ports map[string][]HostPort
}

// member is an endpoint of a sandbox with its network.
type member struct {
	network  netdriver.Network
	endpoint endpoint.Info
	binding  netip.Addr // host address of ports published without one; zero: all
}

// sandboxOf shows a record with its endpoints.
func sandboxOf(r sandbox.Info, members []member) Sandbox {
	s := Sandbox{
		ID: string(r.ID), Name: r.Spec.Name, NetNS: r.Key, Created: r.Created, State: StateReady, Problem: r.Problem, Hostname: r.Hostname(), Domainname: r.Spec.Names.Domainname, Labels: notNil(r.Spec.Labels), Env: []string{},
		Networks: map[string]Attachment{}, Ports: portsOf(members),
	}
	if r.Deleting || r.Problem != "" || r.Spec.Namespace.Late && r.Key == "" {
		s.State = StatePending
	}
	for _, m := range members {
		s.Networks[m.network.Name] = attachmentOf(r, m)
		if m.endpoint.Sandbox == "" || m.endpoint.Problem != "" {
			s.State = StatePending
			s.Problem = cmp.Or(s.Problem, m.endpoint.Problem)
		}
	}
	if r.Unknown {
		s.State = StateUnknown
	}
	return s
}

func attachmentOf(r sandbox.Info, m member) Attachment {
	e := m.endpoint
	four, six := families(e.Addresses)
	names := []string{}
	if !m.network.NoNames {
		names = e.DNSNames(r)
	}
	return Attachment{
		NetworkID: string(e.Network), EndpointID: string(e.ID), MacAddress: e.MAC.String(), IfName: cmp.Or(e.Interface, e.Spec.Interface),
		Gateway: gatewayOf(m.network, four), IPAddress: four.Addr(), IPPrefixLen: max(0, four.Bits()),
		IPv6Gateway: gatewayOf(m.network, six), GlobalIPv6Address: six.Addr(), GlobalIPv6PrefixLen: max(0, six.Bits()),
		Aliases: listed(e.Spec.Aliases), Links: linksOf(e.Spec), DNSNames: names,
	}
}

// linksOf are links as they are asked for.
func linksOf(s endpoint.Spec) []string {
	links := []string{}
	for _, alias := range slices.Sorted(maps.Keys(s.Links)) {
		links = append(links, s.Links[alias]+":"+alias)
	}
	return links
}

// gatewayOf is the router of the subnet that an address is in; none on an internal network, which has no way out.
func gatewayOf(n netdriver.Network, a netip.Prefix) netip.Addr {
	for _, sub := range n.Subnets {
		if a.IsValid() && !n.Internal && sub.Pool.Subnet.Contains(a.Addr()) {
			return sub.Gateway.Addr()
		}
	}
	return netip.Addr{}
}

// listed is a list that is [] in JSON when it is empty.
func listed[T any](all []T) []T { return append([]T{}, all...) }

// portsOf lists what endpoints of one sandbox publish, port by port.
func portsOf(members []member) map[string][]HostPort {
	ports := map[string][]HostPort{}
	for _, m := range members {
		four, six := families(m.endpoint.Addresses)
		for _, b := range m.endpoint.Ports {
			b.Host = cmp.Or(b.Host, m.binding)
			for _, host := range hostsOf(b, four.IsValid(), six.IsValid()) {
				for i := range b.Ports.Len() {
					key := fmt.Sprintf("%d/%s", int(b.Ports.First)+i, b.Proto)
					at := HostPort{HostIP: host.String(), HostPort: strconv.Itoa(int(b.HostPorts.First) + i)}
					if !slices.Contains(ports[key], at) {
						ports[key] = append(ports[key], at)
					}
				}
			}
		}
	}
	for _, at := range ports {
		slices.SortFunc(at, compareHostPorts)
	}
	return ports
}

func compareHostPorts(a, b HostPort) int {
	x, _ := netip.ParseAddr(a.HostIP) // written by us
	y, _ := netip.ParseAddr(b.HostIP)
	return cmp.Or(x.Compare(y), cmp.Compare(len(a.HostPort), len(b.HostPort)), cmp.Compare(a.HostPort, b.HostPort))
}

// hostsOf are the host addresses of a binding on an endpoint that has these families.
func hostsOf(b endpoint.PortBinding, four, six bool) []netip.Addr {
	if b.Host.IsValid() {
		return []netip.Addr{b.Host}
	}
	var hosts []netip.Addr
	if four || !six { // of one that was found running the addresses may not be known
		hosts = append(hosts, netip.IPv4Unspecified())
	}
	if six {
		hosts = append(hosts, netip.IPv6Unspecified())
	}
	return hosts
}

// names are what the files and the resolver of a sandbox say.
func (s SandboxSpec) names() (sandbox.Names, error) {
	n := sandbox.Names{Hostname: s.Hostname, Domainname: s.Domainname, DNS: s.DNS, Search: s.DNSSearch, Options: s.DNSOptions}
	for _, text := range s.ExtraHosts {
		h, err := sandbox.ParseHostEntry(text)
		if err != nil {
			return n, err
		}
		n.Hosts = append(n.Hosts, h)
	}
	return n, nil
}

// ports is what a sandbox wants published.
type ports endpoint.Ports

func (s SandboxSpec) ports() (p ports, err error) {
	p.PublishAll = s.PublishAll
	if p.Publish, err = parsePorts(s.Publish); err != nil {
		return p, err
	}
	if p.Exposed, err = parsePorts(s.Expose); err != nil {
		return p, err
	}
	for _, b := range p.Exposed {
		if b.Host.IsValid() || b.HostPorts != (firewall.Range{}) {
			return p, fmt.Errorf("expose %s: %w: want a container port alone", b, errdefs.ErrInvalidArgument)
		}
	}
	return p, nil
}

func parsePorts(specs []string) ([]endpoint.PortBinding, error) {
	var all []endpoint.PortBinding
	for _, s := range specs {
		b, err := endpoint.ParsePort(s)
		if err != nil {
			return nil, err
		}
		all = append(all, single(b)...)
	}
	return all, nil
}

// single cuts a range without host ports into single ports, each of which is given a host port of its own.
func single(b endpoint.PortBinding) []endpoint.PortBinding {
	if b.HostPorts != (firewall.Range{}) {
		return []endpoint.PortBinding{b}
	}
	var all []endpoint.PortBinding
	for i := range b.Ports.Len() {
		p := b.Ports.First + uint16(i)
		all = append(all, endpoint.PortBinding{Proto: b.Proto, Host: b.Host, Ports: firewall.Range{First: p, Last: p}})
	}
	return all
}

// with is p and one more.
func (p ports) with(b endpoint.PortBinding) ports {
	p.Publish = slices.Concat(p.Publish, single(b))
	return p
}

// without is p less what matches a pattern, the whole of it or, where it is a range without host ports, each port of it. given is what the
// wishes were given. False: something of the pattern is not published.
func (p ports) without(pattern endpoint.PortBinding, given []endpoint.PortBinding) (ports, bool) {
	if left, found := p.withoutOne(pattern, given); found {
		return left, true
	}
	parts := single(pattern)
	for _, part := range parts {
		left, found := p.withoutOne(part, given)
		if !found {
			return p, false
		}
		p = left
	}
	return p, len(parts) > 1
}

// withoutOne also ends the exposure of a port that is published because all exposed ones are.
func (p ports) withoutOne(pattern endpoint.PortBinding, given []endpoint.PortBinding) (ports, bool) {
	left := ports{PublishAll: p.PublishAll}
	left.Publish, given = unmatched(p.Publish, pattern, given)
	if left.Exposed = p.Exposed; p.PublishAll {
		left.Exposed, _ = unmatched(p.Exposed, pattern, given)
		for i := range left.Exposed {
			left.Exposed[i].HostPorts = firewall.Range{}
		}
	}
	return left, len(left.Publish) < len(p.Publish) || len(left.Exposed) < len(p.Exposed)
}

// unmatched is wishes less those that match a pattern themselves or in what they were given, and the given ones that belong to none of
// them. The Controller gives in the order of wishes; those that stay are wished for as they were given, so that they stay there.
func unmatched(wishes []endpoint.PortBinding, pattern endpoint.PortBinding, given []endpoint.PortBinding) (left, others []endpoint.PortBinding) {
	others = slices.Clone(given)
	for _, wish := range wishes {
		got := wish
		if i := slices.IndexFunc(others, func(g endpoint.PortBinding) bool { return serves(g, wish) }); i >= 0 {
			got = others[i]
			others = slices.Delete(others, i, i+1)
		}
		if !matches(wish, pattern) && !matches(got, pattern) {
			left = append(left, got)
		}
	}
	return left, others
}

// matches says that a binding is what a pattern asks for, in which a zero host or host port is any.
func matches(b, pattern endpoint.PortBinding) bool {
	return b.Proto == pattern.Proto && b.Ports == pattern.Ports && (!pattern.Host.IsValid() || b.Host == pattern.Host) &&
		(pattern.HostPorts == firewall.Range{} || b.HostPorts == pattern.HostPorts)
}

// serves says that a binding may have been given for a wish.
func serves(given, wish endpoint.PortBinding) bool {
	return given.Proto == wish.Proto && given.Host == wish.Host && given.Ports == wish.Ports &&
		(wish.HostPorts == firewall.Range{} || wish.HostPorts.First <= given.HostPorts.First && given.HostPorts.Last <= wish.HostPorts.Last)
}
