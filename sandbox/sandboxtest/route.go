package sandboxtest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox"
)

// kept is a route as Observe tells of it: what the kernel fills in by itself is zero.
func kept(r sandbox.Route) sandbox.Route {
	if r.Dst.Addr().Is6() && r.Metric == 1024 {
		r.Metric = 0
	}
	if r.Table == 254 && r.Type != "local" || r.Table == 255 && r.Type == "local" {
		r.Table = 0
	}
	return r
}

func (s *space) addRoute(r sandbox.Route) error {
	r = kept(r)
	if slices.Contains(s.routes, r) {
		return nil
	}
	switch r.Type {
	case "blackhole", "unreachable", "prohibit":
	case "", "unicast", "local":
		l := s.links[r.Link]
		if r.Link != "lo" && (r.Link != "" || !r.Via.IsValid()) {
			if l == nil {
				return missing(r.Link)
			}
			if l.Down {
				return fmt.Errorf("route to %s: %s is down: %w", r.Dst, r.Link, errdefs.ErrFailedPrecondition)
			}
		}
		if r.Via.IsValid() && !s.reaches(r.Link, r.Via) {
			return fmt.Errorf("route to %s: gateway %s is on no link: %w", r.Dst, r.Via, errdefs.ErrFailedPrecondition)
		}
	default:
		return fmt.Errorf("route type %q: %w", r.Type, errdefs.ErrInvalidArgument)
	}
	s.routes = append(s.routes, r)
	return nil
}

// reaches says whether a is a neighbour on a link that is up; "" any link.
func (s *space) reaches(name string, a netip.Addr) bool {
	for _, l := range s.links {
		if l.Down || name != "" && l.Name != name {
			continue
		}
		if slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return true
		}
	}
	return slices.ContainsFunc(s.routes, func(r sandbox.Route) bool {
		return !r.Via.IsValid() && r.Dst.Bits() > 0 && r.Dst.Contains(a) && (name == "" || r.Link == name)
	})
}

// set writes a sysctl. The paths of links come and go with them.
func (s *space) set(v sandbox.Sysctl) error {
	path := v.Path()
	head, _, _ := strings.Cut(path, "/")
	if !slices.Contains([]string{"ipv4", "ipv6", "mpls", "core", "bridge", "netfilter", "unix"}, head) {
		return fmt.Errorf("there is no sysctl net/%s: %w", path, errdefs.ErrNotFound)
	}
	if name := linkOf(path); name != "" && name != "lo" && s.links[name] == nil {
		return missing(name)
	}
	s.sysctls[path] = v.Value
	if v.Value == "1" && strings.HasPrefix(path, "ipv6/") && strings.HasSuffix(path, "/disable_ipv6") {
		for _, l := range s.links {
			if name := linkOf(path); name == "" || name == l.Name {
				l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(a netip.Prefix) bool { return a.Addr().Is6() })
			}
		}
	}
	return nil
}

// linkOf is the link that the path of a sysctl names; "" none.
func linkOf(path string) string {
	parts := strings.Split(path, "/")
	if len(parts) < 4 || parts[1] != "conf" && parts[1] != "neigh" || parts[2] == "all" || parts[2] == "default" {
		return ""
	}
	return parts[2]
}
