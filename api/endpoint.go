package api

import "net/netip"

// Endpoint is an endpoint as inspect shows it.
type Endpoint struct {
	ID         string
	Name       string
	NetworkID  string
	SandboxID  string // "": it is in none
	Addresses  []netip.Prefix
	MacAddress string
	Aliases    []string
	Labels     map[string]string
	Ports      map[string][]HostPort // by container port
	Problem    string                // why it is not as wanted; "" it is
	Driver     map[string]any        // what its driver tells
}

func endpointOf(m member) Endpoint {
	e := m.endpoint
	return Endpoint{
		ID: string(e.ID), Name: e.Spec.Name, NetworkID: string(e.Network), SandboxID: string(e.Sandbox), MacAddress: e.MAC.String(),
		Addresses: listed(e.Addresses), Aliases: listed(e.Spec.Aliases), Labels: notNil(e.Spec.Labels),
		Ports: portsOf([]member{m}), Problem: e.Problem, Driver: map[string]any{},
	}
}
