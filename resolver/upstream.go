package resolver

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox"
)

// ParseUpstreams reads servers parted by commas, each [DOMAIN=]ADDRESS or [DOMAIN=]ADDRESS:PORT, an IPv6 address with a port in brackets.
// A server named with several domains is one Upstream. InvalidArgument says what is wrong; no text is no servers.
func ParseUpstreams(text string) ([]Upstream, error) {
	var all []Upstream
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	for one := range strings.SplitSeq(text, ",") {
		one = strings.TrimSpace(one)
		domain, address, split := strings.Cut(one, "=")
		if !split {
			domain, address = "", one
		} else if err := sandbox.CheckDomain(domain); err != nil {
			return nil, fmt.Errorf("DNS server %.80q: %w", one, err)
		}
		server, err := parseServer(address)
		if err != nil {
			return nil, fmt.Errorf("DNS server %.80q: want [DOMAIN=]ADDRESS[:PORT]: %w", one, errdefs.ErrInvalidArgument)
		}
		all = addUpstream(all, server, domain)
	}
	return all, nil
}

func parseServer(s string) (netip.AddrPort, error) {
	server, err := netip.ParseAddrPort(s)
	if err != nil {
		var a netip.Addr
		a, err = netip.ParseAddr(s)
		server = netip.AddrPortFrom(a, 0)
	}
	if err != nil {
		return server, err
	}
	return server, sandbox.Names{DNS: []netip.Addr{server.Addr()}}.Check()
}

// addUpstream puts what one server is asked for into one place; general ones stay apart.
func addUpstream(all []Upstream, server netip.AddrPort, domain string) []Upstream {
	if domain == "" {
		return append(all, Upstream{Server: server})
	}
	for i, u := range all {
		if u.Server == server && len(u.Domains) > 0 {
			all[i].Domains = append(u.Domains, domain)
			return all
		}
	}
	return append(all, Upstream{Server: server, Domains: []string{domain}})
}
