package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

// advertised is the address at which other hosts' tunnels end: as --advertise says, an address of this host or an interface; else the one
// from which the store is reached, unless that is on this host. Zero: there is none, and no network reaches other hosts.
func advertised(flag, store string) (netip.Addr, error) {
	if flag == "" {
		return towards(store), nil
	}
	if a, err := netip.ParseAddr(flag); err == nil {
		if !a.IsGlobalUnicast() || a.Zone() != "" {
			return a, fmt.Errorf("--advertise %s: %w: want an address that other hosts can reach", flag, errdefs.ErrInvalidArgument)
		}
		return a.Unmap(), nil
	}
	link, err := net.InterfaceByName(flag)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("--advertise %.80s: %w: it is no address and no interface of this host", flag, errdefs.ErrInvalidArgument)
	}
	addresses, err := link.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("--advertise %s: %w", flag, err)
	}
	var six netip.Addr
	for _, a := range addresses {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().IsGlobalUnicast() {
			continue
		}
		if p.Addr().Is4() {
			return p.Addr(), nil
		}
		if !six.IsValid() {
			six = p.Addr()
		}
	}
	if !six.IsValid() {
		return six, fmt.Errorf("--advertise %s: %w: the interface has no address that other hosts can reach", flag, errdefs.ErrFailedPrecondition)
	}
	return six, nil
}

// towards is the address that packets to the first server of a store have. Nothing is sent.
func towards(store string) netip.Addr {
	_, rest, _ := strings.Cut(store, "://")
	server, _, _ := strings.Cut(rest, "/")
	server, _, _ = strings.Cut(server, ",")
	c, err := net.Dial("udp", server)
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	local, is := c.LocalAddr().(*net.UDPAddr)
	if !is || !local.AddrPort().Addr().Unmap().IsGlobalUnicast() {
		return netip.Addr{}
	}
	return local.AddrPort().Addr().Unmap()
}
