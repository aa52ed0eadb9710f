package sealane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// Names are part of converging a sandbox: withdrawn before what they lead to goes, told when what they lead to is there. The resolver and
// the files are told what is wanted, whole, and find out themselves what is new.

// optionDNS is a network's option that names the servers which its sandboxes ask: see resolver.ParseUpstreams.
const optionDNS = optionPrefix + "dns"

// optionPrefix begins the options that are the Controller's and no driver's.
const optionPrefix = "sealane."

// checkOptions refuses options of ours that do not exist or mean nothing.
func checkOptions(options map[string]string) error {
	for key, value := range options {
		if !strings.HasPrefix(key, optionPrefix) {
			continue
		}
		if key != optionDNS {
			return fmt.Errorf("%w: option %.80s: of this name there is %s", errdefs.ErrInvalidArgument, key, optionDNS)
		}
		if _, err := resolver.ParseUpstreams(value); err != nil {
			return fmt.Errorf("option %s: %w", key, err)
		}
	}
	return nil
}

// redirects remembers which were last applied in which sandbox. Where it does not know, the sandbox is looked at.
type redirects struct {
	mu      sync.Mutex // guards applied
	applied map[sandbox.ID][]firewall.Redirect
}

func (r *redirects) get(id sandbox.ID) (applied []firewall.Redirect, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	applied, known = r.applied[id]
	return applied, known
}

func (r *redirects) put(id sandbox.ID, applied []firewall.Redirect) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.applied == nil {
		r.applied = map[sandbox.ID][]firewall.Redirect{}
	}
	r.applied[id] = applied
}

func (r *redirects) forget(id sandbox.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.applied, id)
}

// resolves says that sandboxes can ask the resolver: without a firewall port 53 does not lead to it.
func (c *Controller) resolves() bool { return c.o.Resolver != nil && c.o.Firewalls != nil }

// named says that an endpoint has names on its network, and that the sandbox it is in sees those of the others. Of one whose records are
// gone it may have been so.
func (c *Controller) named(m *member) bool {
	return c.resolves() && !m.network.NoNames && (m.network.ID == "" || m.info.ID == "" || len(m.info.Addresses) > 0)
}

// tellNames tells what came to be on a network, and what is no more. Callers: converging, for endpoints of this host; whoever learns of
// those of others.
func (c *Controller) tellNames(ctx context.Context, n netdriver.Network, put []endpoint.Published, drop ...endpoint.ID) error {
	if !c.resolves() || n.NoNames || len(put)+len(drop) == 0 {
		return nil
	}
	if err := c.o.Resolver.SetZone(ctx, n.ID, resolver.Change{Name: n.Name, Put: put, Drop: drop}); err != nil {
		return fmt.Errorf("tell names of network %s: %w", n.Name, err)
	}
	return nil
}

// ranked are the members that stay, in the order in which they are asked for names: as they would be the way out.
func (v *content) ranked(stays func(*member) bool) []*member {
	var all []*member
	for _, m := range v.members {
		if stays(m) {
			all = append(all, m)
		}
	}
	slices.SortStableFunc(all, func(a, b *member) int {
		return cmp.Or(cmp.Compare(b.info.Spec.Priority, a.info.Spec.Priority), cmp.Compare(a.network.Name, b.network.Name))
	})
	return all
}

// renames says that a converge may change what is told of a sandbox.
func (v *content) renames(look bool) bool {
	return look || v.dirty || v.moved || slices.ContainsFunc(v.members, func(m *member) bool { return m.dirty || m.fresh || !m.remains(v) })
}

// unname withdraws the names of who leaves. When nobody is left whose names the sandbox sees, the resolver leaves it.
func (c *Controller) unname(ctx context.Context, v *content) error {
	if c.o.Resolver == nil {
		return nil
	}
	had, has := false, false
	for _, m := range v.members {
		switch {
		case !c.named(m):
		case m.wanted(v):
			had, has = had || !m.fresh, true
		case m.held.Owner != "":
			had = true
			n := netdriver.Network{ID: m.on, Name: cmp.Or(m.network.Name, string(m.on))}
			if err := c.tellNames(ctx, n, nil, m.id); err != nil {
				return err
			}
		}
	}
	if has || !had && !v.sandbox.Deleting {
		return nil
	}
	return c.leaveSandbox(ctx, v, had)
}

// leaveSandbox ends what the resolver has in a sandbox. What is in a namespace of ours that goes too is not tidied.
func (c *Controller) leaveSandbox(ctx context.Context, v *content, had bool) error {
	if err := c.o.Resolver.Remove(ctx, v.id); err != nil {
		return fmt.Errorf("take the resolver out of sandbox %s: %w", shortID(string(v.id)), err)
	}
	if had && v.enterable() && !v.gone && !(v.sandbox.Deleting && v.ours()) {
		if err := c.redirect(ctx, v, nil, true); err != nil && !(errors.Is(err, errGone) && v.sandbox.Deleting) {
			return err
		}
	}
	c.redirects.forget(v.id)
	return nil
}

// answer writes a sandbox's files and lets it see the names of its networks.
func (c *Controller) answer(ctx context.Context, v *content, look bool) error {
	if v.sandbox.Unknown && !v.sandbox.Deleting {
		return nil
	}
	if v.renames(look) {
		if err := c.writeFiles(ctx, v); err != nil {
			return err
		}
	}
	if wanted := c.answered(v); len(wanted) > 0 && v.enterable() {
		return c.enterResolver(ctx, v, wanted, look)
	}
	return nil
}

// answered are the members that have names, and whose networks' names the sandbox sees.
func (c *Controller) answered(v *content) []*member {
	if !c.resolves() || v.sandbox.Deleting {
		return nil
	}
	return v.ranked(func(m *member) bool { return m.wanted(v) && c.named(m) })
}

// name tells the names of who is there.
func (c *Controller) name(ctx context.Context, v *content, look bool) error {
	if v.sandbox.Unknown && !v.sandbox.Deleting {
		return nil
	}
	for _, m := range c.answered(v) {
		if look || v.dirty || v.moved || m.dirty || m.fresh {
			if err := c.tellNames(ctx, m.network, []endpoint.Published{v.published(m)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// enterResolver has the resolver answer in a sandbox, and what is sent to port 53 lead to it.
func (c *Controller) enterResolver(ctx context.Context, v *content, wanted []*member, look bool) error {
	ns, err := c.namespace(ctx, v.sandbox)
	if err != nil {
		return err
	}
	defer c.done(v.sandbox, ns)
	want, err := c.o.Resolver.Set(ctx, ns, v.view(wanted))
	if err != nil {
		return fmt.Errorf("have the resolver answer in sandbox %s: %w", shortID(string(v.id)), err)
	}
	return c.redirect(ctx, v, want, look)
}

// view is what a sandbox resolves.
func (v *content) view(wanted []*member) resolver.View {
	view := resolver.View{Sandbox: v.id, NoIPv6: true, Forward: v.merged.Gateway4 != "" || v.merged.Gateway6 != ""}
	for _, m := range wanted {
		view.Zones = append(view.Zones, m.on)
		view.NoIPv6 = view.NoIPv6 && !hasFamily(m.info.Addresses, true)
		for alias, name := range m.info.Spec.Links {
			if view.Private == nil {
				view.Private = map[string]string{}
			}
			if _, taken := view.Private[alias]; !taken {
				view.Private[alias] = name
			}
		}
	}
	view.Upstreams = v.upstreams(wanted)
	return view
}

// upstreams are the sandbox's own servers, and those of its networks: for what the sandbox has servers of its own for, theirs are not asked.
func (v *content) upstreams(wanted []*member) []resolver.Upstream {
	var all []resolver.Upstream
	for _, a := range v.sandbox.Spec.Names.DNS {
		all = append(all, resolver.Upstream{Server: netip.AddrPortFrom(a, 0)})
	}
	own := len(all) > 0
	for _, m := range wanted {
		of, err := resolver.ParseUpstreams(m.network.Options[optionDNS])
		if err != nil {
			continue // checked when the network was made
		}
		for _, u := range of {
			if !own || len(u.Domains) > 0 {
				all = append(all, u)
			}
		}
	}
	return all
}

// redirect makes a sandbox's firewall lead to the resolver, or not any more. What an earlier call applied is known, or looked for where
// there may be some; where the look finds something else, somebody changed it, which is told.
func (c *Controller) redirect(ctx context.Context, v *content, want []firewall.Redirect, look bool) error {
	applied, known := c.redirects.get(v.id)
	if known && !look && slices.Equal(applied, want) {
		return nil
	}
	ns, err := c.namespace(ctx, v.sandbox)
	if err != nil {
		return err
	}
	defer c.done(v.sandbox, ns)
	wall, err := c.o.Firewalls.Open(ctx, ns.Key())
	if err != nil {
		return fmt.Errorf("open the firewall of sandbox %s: %w", shortID(string(v.id)), err)
	}
	owner, have := sandboxOwner(v.id), applied
	if look || !known && slices.ContainsFunc(v.members, func(m *member) bool { return !m.fresh }) {
		seen, err := wall.Observe(ctx)
		if err != nil {
			return errors.Join(fmt.Errorf("observe the firewall of sandbox %s: %w", shortID(string(v.id)), err), wall.Close())
		}
		have = seen[owner].Redirects
	}
	if !slices.Equal(have, want) {
		err = wall.Apply(ctx, []firewall.Change{{Owner: owner, Have: firewall.Terms{Redirects: have}, Want: firewall.Terms{Redirects: want}}})
	}
	if err = errors.Join(err, wall.Close()); err != nil {
		return fmt.Errorf("lead sandbox %s to the resolver: %w", shortID(string(v.id)), err)
	}
	c.redirects.put(v.id, want)
	if known && !slices.Equal(have, applied) {
		c.log.Warn("somebody changed what leads a sandbox to the resolver", "sandbox", v.id)
		c.events.tell("sandbox", "repair", string(v.id), "name", v.sandbox.Spec.Name)
	}
	return nil
}

// published is what others are told of an endpoint. The first 12 digits of its sandbox's id and its hostname are names of it too.
func (v *content) published(m *member) endpoint.Published {
	return endpoint.Published{ID: m.id, Name: m.info.Spec.Name, Aliases: m.info.DNSNames(v.sandbox)[1:], Addresses: m.info.Addresses,
		MAC: m.info.MAC, Ports: containerPorts(m.info.Spec, v.ports)}
}

// restoreNames tells all zones, and then has the sandboxes answered as they were: questions may wait since before the start, and to converge
// all sandboxes takes longer than who asks should wait.
func (c *Controller) restoreNames(ctx context.Context) error {
	if !c.resolves() {
		return nil
	}
	networks, put := map[endpoint.NetworkID]netdriver.Network{}, map[endpoint.NetworkID][]endpoint.Published{}
	var all []*content
	for s, err := range c.Sandboxes(ctx) {
		if err != nil || s.Deleting {
			continue // told, or ended, by restoreSandboxes
		}
		if gone, err := c.isGone(ctx, s); err != nil || gone {
			continue
		}
		v, err := c.read(ctx, s.ID)
		if err != nil {
			return err
		}
		all = append(all, v)
		for _, m := range v.members {
			if m.wanted(v) && c.named(m) {
				networks[m.on], put[m.on] = m.network, append(put[m.on], v.published(m))
			}
		}
	}
	for id, n := range networks {
		if err := c.tellNames(ctx, n, put[id]); err != nil {
			return err
		}
	}
	for _, v := range all {
		c.answerAgain(ctx, v)
	}
	return ctx.Err()
}

// answerAgain has the resolver answer in a sandbox as it is held. What fails is done again, and told, when the sandbox is converged.
func (c *Controller) answerAgain(ctx context.Context, v *content) {
	wanted := c.answered(v)
	if len(wanted) == 0 || !v.enterable() {
		return
	}
	v.brought = map[string]sandbox.Attachment{}
	for _, m := range v.members {
		if !m.wanted(v) || m.held.Owner == "" {
			return // it was on its way when an earlier process ended
		}
		if a := m.held.Plan.Attachment; a != nil {
			v.brought[string(m.id)] = *a
		}
	}
	var err error
	if v.merged, err = sandbox.Merge(v.brought); err != nil {
		return
	}
	ns, err := c.namespace(ctx, v.sandbox)
	if err != nil {
		return
	}
	defer c.done(v.sandbox, ns)
	_, _ = c.o.Resolver.Set(ctx, ns, v.view(wanted))
}

// writeFiles makes hosts, hostname and resolv.conf say what the records say. A sandbox that shares another's namespace sees its files, and
// one whose links somebody else moves those of somebody else.
func (c *Controller) writeFiles(ctx context.Context, v *content) error {
	o := v.sandbox.Spec.Namespace
	switch {
	case c.o.Files == nil || o.Share != "" || o.Foreign || !v.known:
		return nil
	case v.sandbox.Deleting:
		c.linked.set(v.id, nil)
		return c.o.Files.Remove(ctx, v.id)
	}
	conf, err := c.o.Files.Conf(ctx)
	if err != nil {
		return err
	}
	t := resolver.Texts{Hostname: v.sandbox.Hostname()}
	stay := v.ranked(func(m *member) bool { return m.remains(v) })
	if o.Host {
		t.Hosts, err = c.o.Files.Hosts(ctx)
		if t.Hostname == "" && err == nil {
			t.Hostname, err = c.o.Files.Hostname(ctx)
		}
	} else {
		t.Hosts = resolver.Localhost(!withoutIPv6(v.sandbox.Spec))
	}
	if err != nil {
		return err
	}
	links, err := c.links(ctx, stay)
	if err != nil {
		return err
	}
	c.linked.set(v.id, linkTargets(stay))
	t.Hosts = slices.Concat(t.Hosts, hostEntries(v.sandbox, stay), linkLines(links), ownLines(v.sandbox, stay))
	t.ResolvConf = c.resolvConf(conf, v, stay)
	return c.o.Files.Write(ctx, v.id, t)
}

// ownLines are a sandbox itself at each of its addresses.
func ownLines(s sandbox.Info, stay []*member) []string {
	var lines []string
	names := resolver.SelfNames(s.Hostname(), s.Spec.Names.Domainname)
	for _, m := range stay {
		for _, p := range m.info.Addresses {
			lines = append(lines, resolver.HostsLine(p.Addr(), names...))
		}
	}
	return lines
}

// withoutIPv6 says that a sandbox has no IPv6 at all, not even ::1.
func withoutIPv6(s sandbox.Spec) bool {
	for key, value := range s.Sysctls {
		switch strings.ReplaceAll(key, "/", ".") {
		case "net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.lo.disable_ipv6":
			if strings.TrimSpace(value) != "0" {
				return true
			}
		}
	}
	return false
}

// hostEntries are the lines asked for. The host is at the gateway addresses of the sandbox's networks.
func hostEntries(s sandbox.Info, stay []*member) []string {
	var lines []string
	for _, h := range s.Spec.Names.Hosts {
		if h.Address.IsValid() {
			lines = append(lines, resolver.HostsLine(h.Address, h.Name))
			continue
		}
		for _, a := range hostAddresses(s, stay) {
			lines = append(lines, resolver.HostsLine(a, h.Name))
		}
	}
	return lines
}

// hostAddresses are where a sandbox reaches the host, one a family.
func hostAddresses(s sandbox.Info, stay []*member) []netip.Addr {
	if s.Spec.Namespace.Host {
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	}
	var found []netip.Addr
	for _, six := range []bool{false, true} {
		for _, m := range stay {
			if a := gatewayAddress(m, six); a.IsValid() {
				found = append(found, a)
				break
			}
		}
	}
	return found
}

// gatewayAddress is the host's address on a member's network.
func gatewayAddress(m *member, six bool) netip.Addr {
	if hasFamily(m.info.Addresses, six) {
		for _, sub := range m.network.Subnets {
			if sub.Pool.Subnet.Addr().Is6() == six && sub.Gateway.IsValid() {
				return sub.Gateway.Addr()
			}
		}
	}
	return netip.Addr{}
}

// resolvConf names the resolver where the sandbox sees names, else servers that it reaches itself.
func (c *Controller) resolvConf(host resolver.ResolvConf, v *content, stay []*member) string {
	own := v.sandbox.Spec.Names
	conf := host.With(own)
	comments := []string{"Written by sealane. Once it is edited it is left alone."}
	switch {
	case v.sandbox.Spec.Namespace.Host:
	case slices.ContainsFunc(stay, c.named):
		conf = conf.Embedded()
		asked := "those of its networks or the host's"
		if len(own.DNS) > 0 {
			asked = strings.Trim(fmt.Sprint(own.DNS), "[]")
		}
		comments = append(comments, "This is the resolver, which knows the names of the sandbox's networks. Other servers it asks: "+asked+".")
	case len(own.DNS) == 0:
		conf = conf.Direct(slices.ContainsFunc(stay, func(m *member) bool { return hasFamily(m.info.Addresses, true) }))
	}
	return conf.Text(comments...)
}
