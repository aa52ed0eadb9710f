package api

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
)

// Network is a network as inspect shows it, in Docker's words. Lists leave Containers out.
type Network struct {
	Name                   string
	ID                     string `json:"Id"`
	Created                time.Time
	Scope                  string
	Driver                 string
	EnableIPv4, EnableIPv6 bool
	IPAM                   IPAM
	Internal               bool
	State                  string               // StateReady, StatePending, StateDeleting, StateUnknown
	Problem                string               // why it is not as wanted; "" it is
	Containers             map[string]Container // by sandbox id; ep-<id> for an endpoint that is in none
	Options, Labels        map[string]string
	Peers                  []Peer
	Status                 Status
}

// Status is what a network is like at this moment.
type Status struct {
	IPAM struct{ Subnets map[netip.Prefix]Usage }
}

// Usage counts the addresses of a subnet.
type Usage struct {
	IPsInUse            uint64 // those that no host may have included
	DynamicIPsAvailable uint64 // to endpoints that name none
}

// What a network, sandbox or host is.
const (
	StateReady    = "ready"
	StatePending  = "pending"  // not yet, or not any more, as it is wanted
	StateDeleting = "deleting" // waits for what still holds it
	StateUnknown  = "unknown"  // found running without a record after a store was lost; goes on as it is until it is removed by force
)

// IPAM says where a network's addresses come from.
type IPAM struct {
	Driver  string
	Options map[string]string
	Config  []Subnet
}

// Subnet is one subnet of a network. In a request all but Subnet may be left out.
type Subnet struct {
	Subnet             netip.Prefix          `json:",omitzero"`
	IPRange            netip.Prefix          `json:",omitzero"`
	Gateway            netip.Addr            `json:",omitzero"`
	AuxiliaryAddresses map[string]netip.Addr `json:",omitempty"`
}

// Container is an endpoint of a network.
type Container struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address netip.Prefix
	IPv6Address netip.Prefix
	Host        string `json:",omitempty"` // id, of an endpoint on another host
}

// Peer is another host with endpoints on the network.
type Peer struct{ Name, IP string }

// NetworkSpec asks for a network. The zero value of a field is the default: driver bridge, IPv4 on, IPv6 off, subnets chosen by the daemon.
type NetworkSpec struct {
	Name            string
	Driver          string            `json:",omitempty"`
	Scope           string            `json:",omitempty"`
	EnableIPv4      *bool             `json:",omitempty"` // nil: true
	EnableIPv6      bool              `json:",omitempty"`
	IPAM            IPAM              `json:",omitzero"`
	Internal        bool              `json:",omitempty"`
	Options, Labels map[string]string `json:",omitempty"`
}

// NetworkChange changes a network while it runs: what is named is set, other options and labels stay.
type NetworkChange struct {
	Options, Labels map[string]string `json:",omitempty"`
}

// Created answers what makes something.
type Created struct {
	ID      string `json:"Id"`
	Warning string
}

// Pruned answers a prune: names of what was removed, and what could not be.
type Pruned struct {
	NetworksDeleted []string
	Warnings        []string
}

// Connection asks for a sandbox to be put on a network.
type Connection struct {
	Container      string         // sandbox: id, name or unique beginning of the id
	EndpointConfig EndpointConfig `json:",omitzero"`
}

// Disconnection asks for a sandbox to be taken off. Force gives up on what a driver or host that is away still holds.
type Disconnection struct {
	Container string
	Force     bool `json:",omitempty"`
}

// EndpointConfig says how a sandbox is on a network. The zero value of a field leaves the choice to the daemon.
type EndpointConfig struct {
	IPAMConfig EndpointIPAM      `json:",omitzero"`
	Aliases    []string          `json:",omitempty"` // NAME, *.NAME for all below it, NAME=TARGET for a name that is another's
	Links      []string          `json:",omitempty"` // SANDBOX[:ALIAS]: an alias that this sandbox alone knows another one by
	MacAddress string            `json:",omitempty"`
	IfName     string            `json:",omitempty"` // name of the interface in the sandbox
	GwPriority int               `json:",omitempty"` // the highest of a sandbox's networks is its way out
	DriverOpts map[string]string `json:",omitempty"`
}

// EndpointIPAM names addresses.
type EndpointIPAM struct {
	IPv4Address  netip.Addr   `json:",omitzero"`
	IPv6Address  netip.Addr   `json:",omitzero"`
	LinkLocalIPs []netip.Addr `json:",omitempty"`
}

// spec is what the Controller is asked for.
func (n NetworkSpec) spec() sealane.NetworkSpec {
	s := sealane.NetworkSpec{
		Name: n.Name, Driver: n.Driver, Scope: netdriver.Scope(n.Scope), NoIPv4: n.EnableIPv4 != nil && !*n.EnableIPv4, IPv6: n.EnableIPv6,
		Internal: n.Internal, Options: n.Options, Labels: n.Labels,
		IPAM: sealane.IPAM{Driver: n.IPAM.Driver, Options: n.IPAM.Options},
	}
	for _, sub := range n.IPAM.Config {
		s.IPAM.Subnets = append(s.IPAM.Subnets, sealane.SubnetSpec{
			Subnet: sub.Subnet, Range: sub.IPRange, Gateway: sub.Gateway, Aux: sub.AuxiliaryAddresses,
		})
	}
	return s
}

// networkOf shows a record, without its endpoints.
func networkOf(r netdriver.Network) Network {
	n := Network{
		Name: r.Name, ID: string(r.ID), Created: r.Created, Scope: string(r.Scope), Driver: r.Driver, EnableIPv4: r.IPv4, EnableIPv6: r.IPv6,
		IPAM: IPAM{Driver: r.IPAM, Options: notNil(r.IPAMOptions), Config: []Subnet{}}, Internal: r.Internal, State: StateReady,
		Containers: map[string]Container{}, Options: notNil(r.Options), Labels: notNil(r.Labels), Peers: []Peer{}, Problem: r.Problem,
	}
	n.Status.IPAM.Subnets = map[netip.Prefix]Usage{}
	switch {
	case r.Unknown:
		n.State = StateUnknown
	case r.Deleting:
		n.State = StateDeleting
	case r.Problem != "":
		n.State = StatePending
	}
	if n.IPAM.Driver == "" {
		n.IPAM.Driver = "default"
	}
	for _, sub := range r.Subnets {
		if sub.Pool.Subnet.Bits() == 0 { // what the IPAM driver null has
			continue
		}
		shown := Subnet{Subnet: sub.Pool.Subnet, Gateway: sub.Gateway.Addr(), AuxiliaryAddresses: sub.Aux}
		if sub.Pool.Range != sub.Pool.Subnet {
			shown.IPRange = sub.Pool.Range
		}
		n.IPAM.Config = append(n.IPAM.Config, shown)
	}
	return n
}

func notNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// containerOf shows an endpoint of a network under the name of its sandbox.
func containerOf(e endpoint.Info, name string) Container {
	c := Container{Name: name, EndpointID: string(e.ID), MacAddress: e.MAC.String()}
	c.IPv4Address, c.IPv6Address = families(e.Addresses)
	return c
}

// families is the first address of each family.
func families(addresses []netip.Prefix) (four, six netip.Prefix) {
	for _, p := range addresses {
		switch {
		case p.Addr().Is4() && !four.IsValid():
			four = p
		case p.Addr().Is6() && !six.IsValid():
			six = p
		}
	}
	return four, six
}

// spec is the endpoint that the Controller is asked for. Everything wrong with it is InvalidArgument.
func (c EndpointConfig) spec() (endpoint.Spec, error) {
	s := endpoint.Spec{Aliases: c.Aliases, Interface: c.IfName, Priority: c.GwPriority, Options: maps.Clone(c.DriverOpts)}
	for _, a := range []netip.Addr{c.IPAMConfig.IPv4Address, c.IPAMConfig.IPv6Address} {
		if a.IsValid() {
			s.Addresses = append(s.Addresses, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	if a := c.IPAMConfig.IPv4Address; a.IsValid() && !a.Is4() {
		return s, fmt.Errorf("address %s: %w: it is not IPv4", a, errdefs.ErrInvalidArgument)
	}
	if a := c.IPAMConfig.IPv6Address; a.IsValid() && (!a.Is6() || a.Is4In6()) {
		return s, fmt.Errorf("address %s: %w: it is not IPv6", a, errdefs.ErrInvalidArgument)
	}
	for _, a := range c.IPAMConfig.LinkLocalIPs {
		bits := 64
		if a.Is4() {
			bits = 16
		}
		s.LinkLocal = append(s.LinkLocal, netip.PrefixFrom(a, bits))
	}
	if c.MacAddress != "" {
		mac, err := net.ParseMAC(c.MacAddress)
		if err != nil {
			return s, fmt.Errorf("MAC address %.40q: %w: want six bytes as in 02:42:ac:11:00:02", c.MacAddress, errdefs.ErrInvalidArgument)
		}
		s.MAC = mac
	}
	return s.Decoded()
}
