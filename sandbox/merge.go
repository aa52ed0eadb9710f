package sandbox

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
)

// Merged is a sandbox's whole content and which endpoint is its gateway, by family.
type Merged struct {
	Config             Config            // links by name, routes by destination, sysctls by key
	Gateway4, Gateway6 string            // keys of Merge's argument; "" none
	Names              map[string]string // interface name of each endpoint, by key of Merge's argument
}

// Merge computes a sandbox's content from what its endpoints bring, by endpoint id. Names already given (the Link.Name of an
// Attachment) are kept, others are Prefix and the lowest free number, in order of key. The gateway of a family is the endpoint
// of the highest Priority that offers one and is not Internal, ties going by Order, then by key; only it brings a default route.
//
// AlreadyExists when two want one name, FailedPrecondition when two give one route or one sysctl different values. The result is
// the same whatever the order of the map; the argument is not changed.
func Merge(brought map[string]Attachment) (Merged, error) {
	names, err := nameAll(brought)
	if err != nil {
		return Merged{}, err
	}
	m := Merged{Names: names, Gateway4: gateway(brought, exit4), Gateway6: gateway(brought, exit6)}
	for _, key := range slices.Sorted(maps.Keys(brought)) {
		link := brought[key].Link
		link.Name = names[key]
		m.Config.Links = append(m.Config.Links, link)
	}
	slices.SortFunc(m.Config.Links, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) })
	if m.Config.Routes, err = m.routes(brought); err != nil {
		return Merged{}, err
	}
	if m.Config.Sysctls, err = m.sysctls(brought); err != nil {
		return Merged{}, err
	}
	return m, nil
}

// nameAll gives every key its interface name. Given names are settled first, so that a counted name never takes one of them.
func nameAll(brought map[string]Attachment) (map[string]string, error) {
	keys := slices.Sorted(maps.Keys(brought))
	names, taken := make(map[string]string, len(keys)), map[string]string{"lo": "every namespace"}
	for _, key := range keys {
		name := brought[key].Link.Name
		if name == "" {
			continue
		}
		if by, ok := taken[name]; ok {
			return nil, fmt.Errorf("interface name %s, wanted by %s, belongs to %s: choose another: %w", name, key, by, errdefs.ErrAlreadyExists)
		}
		names[key], taken[name] = name, key
	}
	for _, key := range keys {
		if names[key] != "" {
			continue
		}
		prefix := cmp.Or(brought[key].Prefix, "eth")
		for n := 0; names[key] == ""; n++ {
			if name := prefix + strconv.Itoa(n); taken[name] == "" {
				names[key], taken[name] = name, key
			}
		}
	}
	return names, nil
}

// exit is how an endpoint leads out in one family: by a router, or, when onLink, by the link itself.
type exit struct {
	dst    netip.Prefix
	router netip.Addr
	onLink bool
}

func exit4(a Attachment) exit {
	return exit{netip.PrefixFrom(netip.IPv4Unspecified(), 0), a.Gateway4, a.OnLink4}
}

func exit6(a Attachment) exit {
	return exit{netip.PrefixFrom(netip.IPv6Unspecified(), 0), a.Gateway6, a.OnLink6}
}

func (e exit) route(link string) Route {
	if e.onLink {
		return Route{Dst: e.dst, Link: link}
	}
	return Route{Dst: e.dst, Via: e.router, Link: link}
}

// gateway is the key of the endpoint that leads out in one family; "" none does.
func gateway(brought map[string]Attachment, of func(Attachment) exit) string {
	var offers []string
	for key, a := range brought {
		if e := of(a); !a.Internal && (e.onLink || e.router.IsValid()) {
			offers = append(offers, key)
		}
	}
	if len(offers) == 0 {
		return ""
	}
	return slices.MinFunc(offers, func(k, l string) int {
		a, b := brought[k], brought[l]
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.Order, b.Order), cmp.Compare(k, l))
	})
}

// routes are the static routes of all endpoints and the default routes of the gateways.
func (m Merged) routes(brought map[string]Attachment) ([]Route, error) {
	var all []Route
	by := make(map[routeID]string)
	add := func(key string, r Route) error {
		if other, ok := by[r.id()]; ok {
			return fmt.Errorf("route to %s (table %d, metric %d) is given by %s and by %s: only one can have it: %w",
				r.Dst, r.id().table, r.id().metric, other, key, errdefs.ErrFailedPrecondition)
		}
		by[r.id()] = key
		all = append(all, r)
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(brought)) {
		for _, r := range brought[key].Routes {
			if r.onLink() {
				r.Link = m.Names[key]
			}
			if err := add(key, r); err != nil {
				return nil, err
			}
		}
	}
	if m.Gateway4 != "" {
		if err := add(m.Gateway4, exit4(brought[m.Gateway4]).route(m.Names[m.Gateway4])); err != nil {
			return nil, err
		}
	}
	if m.Gateway6 != "" {
		if err := add(m.Gateway6, exit6(brought[m.Gateway6]).route(m.Names[m.Gateway6])); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b Route) int { return a.id().compare(b.id()) })
	return all, nil
}

// sysctls are the settings of all endpoints, with the links' names in place.
func (m Merged) sysctls(brought map[string]Attachment) ([]Sysctl, error) {
	wanted := make(map[string]Sysctl)
	for _, key := range slices.Sorted(maps.Keys(brought)) {
		for _, s := range brought[key].Sysctls {
			s.Link = m.Names[key]
			s.Key = s.Path()
			if other, ok := wanted[s.Key]; ok && other.Value != s.Value {
				return nil, fmt.Errorf("sysctl net/%s is wanted as %q and as %q: leave one out: %w", s.Key, other.Value, s.Value, errdefs.ErrFailedPrecondition)
			}
			wanted[s.Key] = s
		}
	}
	return slices.SortedFunc(maps.Values(wanted), func(a, b Sysctl) int { return cmp.Compare(a.Key, b.Key) }), nil
}

// routeID is what the kernel tells routes apart by.
type routeID struct {
	dst           netip.Prefix
	table, metric int
}

// id has the kernel's defaults filled in: table main, or local for local routes, and metric 1024 for IPv6.
func (r Route) id() routeID {
	id := routeID{dst: r.Dst.Masked(), table: cmp.Or(r.Table, 254), metric: r.Metric}
	if r.Type == "local" {
		id.table = cmp.Or(r.Table, 255)
	}
	if r.Dst.Addr().Is6() {
		id.metric = cmp.Or(r.Metric, 1024)
	}
	return id
}

func (a routeID) compare(b routeID) int {
	return cmp.Or(a.dst.Addr().Compare(b.dst.Addr()), cmp.Compare(a.dst.Bits(), b.dst.Bits()), cmp.Compare(a.table, b.table), cmp.Compare(a.metric, b.metric))
}

// onLink says that the route leads to a link: blackhole and its like lead nowhere.
func (r Route) onLink() bool { return r.Type == "" || r.Type == "unicast" || r.Type == "local" }

// Within is the part of c that known names: its links, by name, its routes, by destination, table and metric, and its rules. Inside a
// container nothing carries our mark, so that what Observe finds there is ours only as far as a record says so.
func (c Config) Within(known Config) Config {
	links, routes, rules := make(map[string]bool), make(map[routeID]bool), make(map[Rule]bool)
	for _, l := range known.Links {
		links[l.Name] = true
	}
	for _, r := range known.Routes {
		routes[r.id()] = true
	}
	for _, r := range known.Rules {
		rules[r] = true
	}
	return Config{
		Links:  keep(c.Links, func(l Link) bool { return links[l.Name] }),
		Routes: keep(c.Routes, func(r Route) bool { return routes[r.id()] }),
		Rules:  keep(c.Rules, func(r Rule) bool { return rules[r] }),
	}
}

func keep[T any](all []T, wanted func(T) bool) []T {
	var kept []T
	for _, v := range all {
		if wanted(v) {
			kept = append(kept, v)
		}
	}
	return kept
}
