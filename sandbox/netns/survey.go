package netns

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const defaultMTU = 1500

// Survey reads what the host is like.
func (p *Provider) Survey(_ context.Context, links []string) (sandbox.Survey, error) {
	s := sandbox.Survey{MTU: defaultMTU, MTUs: map[netip.Addr]int{}, Links: map[string]sandbox.HostLink{}}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return s, fmt.Errorf("survey the host: %w", err)
	}
	s.Boot = fmt.Sprintf("%s/%d", strings.TrimSpace(string(boot)), p.cookie)
	if s.Resolvers, err = resolvers(resolver.HostConf, resolver.StubConf); err != nil {
		return s, fmt.Errorf("survey the host: %w", err)
	}
	if err := nsthread.Do(p.host, func() (err error) { s.Features = p.features(); return nil }); err != nil {
		return s, fmt.Errorf("survey the host: %w", err)
	}
	if err := p.surveyLinks(&s, links); err != nil {
		return s, fmt.Errorf("survey the host: %w", err)
	}
	return s, nil
}

// Indexes implements sandbox.Indexer.
func (p *Provider) Indexes(context.Context) (map[string]int, error) {
	nl, err := p.handle()
	if err != nil {
		return nil, fmt.Errorf("number the host's links: %w", err)
	}
	defer nl.Close()
	all, err := nlmsg.Whole(nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("number the host's links: %w", err)
	}
	indexes := make(map[string]int, len(all))
	for _, l := range all {
		indexes[l.Attrs().Name] = l.Attrs().Index
	}
	return indexes, nil
}

// features are switches of the namespace that the thread is in. One that cannot be read is off.
func (p *Provider) features() map[string]bool {
	on := map[string]bool{"ipv6": p.ipv6}
	for name, key := range map[string]string{
		"bridge-nf-call": "bridge/bridge-nf-call-iptables", "bridge-nf-call6": "bridge/bridge-nf-call-ip6tables",
		"forwarding4": "ipv4/ip_forward", "forwarding6": "ipv6/conf/all/forwarding",
	} {
		value, err := os.ReadFile("/proc/sys/net/" + key)
		on[name] = err == nil && strings.TrimSpace(string(value)) == "1"
		if name == "bridge-nf-call" {
			on["br_netfilter"] = err == nil
		}
	}
	return on
}

// surveyLinks reads the named links, the destinations that are routed, and what carries the default route.
func (p *Provider) surveyLinks(s *sandbox.Survey, named []string) error {
	nl, err := p.handle()
	if err != nil {
		return err
	}
	defer nl.Close()
	all, err := nlmsg.Whole(nl.LinkList)
	if err != nil {
		return err
	}
	others := make(map[int]netlink.Link, len(all)) // that are not ours
	for _, l := range all {
		if _, ours := p.owner(l.Attrs().Alias); !ours && !p.groups.isDead(l.Attrs().Group) {
			others[l.Attrs().Index] = l
		}
	}
	addrs, err := nlmsg.Whole(func() ([]netlink.Addr, error) { return nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	on := map[int][]netip.Prefix{}
	for _, a := range addrs {
		l, other := others[a.LinkIndex]
		if prefix, ok := prefixOf(a.IPNet.IP, a.IPNet.Mask); ok && other {
			on[a.LinkIndex] = append(on[a.LinkIndex], prefix)
			if prefix.Addr().IsGlobalUnicast() {
				s.MTUs[prefix.Addr()] = l.Attrs().MTU
			}
		}
	}
	for _, l := range others {
		if slices.Contains(named, l.Attrs().Name) {
			s.Links[l.Attrs().Name] = sandbox.HostLink{Kind: l.Type(), MTU: l.Attrs().MTU, Addrs: on[l.Attrs().Index]}
		}
	}
	return surveyRoutes(nl, s, others)
}

// surveyRoutes reads the main table. The default route with the lowest metric says what MTU the world has.
func surveyRoutes(nl *netlink.Handle, s *sandbox.Survey, others map[int]netlink.Link) error {
	routes, err := nlmsg.Whole(func() ([]netlink.Route, error) {
		return nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	found := false
	for _, r := range routes {
		l, other := others[r.LinkIndex]
		if !other && len(r.MultiPath) == 0 && r.LinkIndex != 0 {
			continue
		}
		if r.Dst != nil {
			prefix, ok := prefixOf(r.Dst.IP, r.Dst.Mask)
			if ok && prefix.Bits() > 0 {
				if !prefix.Addr().IsLinkLocalUnicast() && !prefix.Addr().IsMulticast() && !slices.Contains(s.Routes, prefix) {
					s.Routes = append(s.Routes, prefix)
				}
				continue
			}
		}
		if len(r.MultiPath) > 0 {
			l, other = others[r.MultiPath[0].LinkIndex]
		}
		if other && !found {
			s.MTU, found = l.Attrs().MTU, true
		}
	}
	return nil
}

func prefixOf(ip []byte, mask []byte) (netip.Prefix, bool) {
	addr, ok := netip.AddrFromSlice(ip)
	if !ok {
		return netip.Prefix{}, false
	}
	ones := 0
	for _, b := range mask {
		for ; b != 0; b <<= 1 {
			ones++
		}
	}
	return netip.PrefixFrom(addr.Unmap(), ones), true
}

// handle opens the library's way into the host.
func (p *Provider) handle() (*netlink.Handle, error) {
	if p.host == "" {
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	fd, err := openFile(p.host)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return netlink.NewHandleAt(netns.NsHandle(fd), unix.NETLINK_ROUTE)
}

// resolvers are the servers that the host asks.
func resolvers(file, behindStub string) ([]netip.Addr, error) {
	text, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	conf := resolver.ParseResolvConf(text)
	if conf.Stub() {
		if real, err := os.ReadFile(behindStub); err == nil {
			conf = resolver.ParseResolvConf(real)
		}
	}
	return conf.Servers, nil
}
