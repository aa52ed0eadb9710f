package sealane

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// link is what Docker calls a legacy one: on a network without names, an endpoint that another one's sandbox knows by an alias, from its
// hosts file and its environment. On other networks the resolver knows the alias, and there is nothing to be written.
type link struct {
	alias  string
	of     string // the name of the endpoint that has it
	to     endpoint.Info
	ports  endpoint.Ports // of the sandbox that it leads to
	called string         // hostname of that
}

// linked remembers which sandboxes are linked to a name of a network, whose files change with it. It is told anew by each converge.
type linked struct {
	mu sync.Mutex                     // guards what is below
	to map[string]map[sandbox.ID]bool // who, by whom they are linked to
	of map[sandbox.ID][]string        // the same by who
}

func linkTarget(on endpoint.NetworkID, name string) string { return string(on) + "/" + name }

// set replaces what a sandbox is linked to.
func (l *linked) set(id sandbox.ID, targets []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.of[id] {
		if delete(l.to[t], id); len(l.to[t]) == 0 {
			delete(l.to, t)
		}
	}
	if delete(l.of, id); len(targets) == 0 {
		return
	}
	if l.to == nil {
		l.to, l.of = map[string]map[sandbox.ID]bool{}, map[sandbox.ID][]string{}
	}
	l.of[id] = targets
	for _, t := range targets {
		if l.to[t] == nil {
			l.to[t] = map[sandbox.ID]bool{}
		}
		l.to[t][id] = true
	}
}

func (l *linked) from(target string) []sandbox.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.to[target]))
}

// linkTargets are whom members are linked to by what is written in files.
func linkTargets(members []*member) []string {
	var targets []string
	for _, m := range members {
		if m.network.NoNames {
			for _, name := range m.info.Spec.Links {
				targets = append(targets, linkTarget(m.on, name))
			}
		}
	}
	return targets
}

// tellLinked has the files of sandboxes written again that are linked to who came or left.
func (c *Controller) tellLinked(v *content) {
	for _, m := range v.members {
		if m.network.NoNames && (m.fresh || !m.remains(v)) {
			for _, id := range c.linked.from(linkTarget(m.on, m.info.Spec.Name)) {
				c.mender.later(sandboxOwner(id), nil)
			}
		}
	}
}

// links finds whom the members of a sandbox are linked to. Who is not there, or in no sandbox, is left out.
func (c *Controller) links(ctx context.Context, members []*member) ([]link, error) {
	var found []link
	for _, m := range members {
		if !m.network.NoNames || len(m.info.Spec.Links) == 0 {
			continue
		}
		err := c.o.Run.View(ctx, func(tx datastore.Tx) error {
			for _, alias := range slices.Sorted(maps.Keys(m.info.Spec.Links)) {
				l, there, err := findLink(tx, m, alias)
				if err != nil {
					return err
				}
				if there {
					found = append(found, l)
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("links of endpoint %s: %w", shortID(string(m.id)), err)
		}
	}
	return found, nil
}

func findLink(tx datastore.Tx, m *member, alias string) (l link, there bool, err error) {
	id, err := endpointNames(m.on).get(tx, m.info.Spec.Links[alias])
	if err != nil || id == "" {
		return l, false, err
	}
	to, there, err := maybe(endpointTable(m.on).Get(tx, id))
	if err != nil || !there || to.Sandbox == "" || to.Deleting {
		return l, false, err
	}
	s, there, err := maybe(sandboxTable().Get(tx, string(to.Sandbox)))
	if err != nil || !there {
		return l, false, err
	}
	ports, _, err := maybe(portsTable().Get(tx, string(to.Sandbox)))
	return link{alias: alias, of: m.info.Spec.Name, to: to, ports: ports, called: s.Hostname()}, true, err
}

// linkLines are lines of hosts by which those are found whom a sandbox is linked to.
func linkLines(links []link) []string {
	var lines []string
	for _, l := range links {
		names := []string{l.alias}
		for _, n := range []string{l.called, l.to.Spec.Name} {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
		for _, p := range l.to.Addresses {
			lines = append(lines, resolver.HostsLine(p.Addr(), names...))
		}
	}
	return lines
}

// environment are the variables that programs written for legacy links look for.
func (l link) environment() []string {
	prefix := strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(l.alias))
	env := []string{prefix + "_NAME=/" + l.of + "/" + l.alias}
	if len(l.to.Addresses) == 0 {
		return env
	}
	address := l.to.Addresses[0].Addr().String()
	first := true
	for _, b := range containerPorts(l.to.Spec, l.ports) {
		port, proto := strconv.Itoa(int(b.Ports.First)), b.Proto.String()
		url := proto + "://" + address + ":" + port
		if l.to.Addresses[0].Addr().Is6() {
			url = proto + "://[" + address + "]:" + port
		}
		if first {
			env = append(env, prefix+"_PORT="+url)
			first = false
		}
		one := prefix + "_PORT_" + port + "_" + strings.ToUpper(proto)
		env = append(env, one+"="+url, one+"_ADDR="+address, one+"_PORT="+port, one+"_PROTO="+proto)
	}
	return env
}

// containerPorts are the ports of a container that an endpoint or its sandbox publishes or exposes, one by one, TCP first.
func containerPorts(s endpoint.Spec, p endpoint.Ports) []endpoint.PortBinding {
	var all []endpoint.PortBinding
	for _, b := range slices.Concat(s.Publish, s.Exposed, p.Publish, p.Exposed) {
		for i := range b.Ports.Len() {
			one := endpoint.PortBinding{Proto: b.Proto}
			one.Ports.First = b.Ports.First + uint16(i)
			one.Ports.Last = one.Ports.First
			if !slices.Contains(all, one) {
				all = append(all, one)
			}
		}
	}
	slices.SortFunc(all, func(a, b endpoint.PortBinding) int {
		if a.Proto != b.Proto {
			return int(a.Proto) - int(b.Proto)
		}
		return int(a.Ports.First) - int(b.Ports.First)
	})
	return all
}

// LinkEnvironment are the variables, NAME=value, that the legacy links of a sandbox give its processes (Docker's DB_PORT_5432_TCP_ADDR).
// NotFound when there is no such sandbox.
func (c *Controller) LinkEnvironment(ctx context.Context, id sandbox.ID) ([]string, error) {
	v, err := c.read(ctx, id)
	if err == nil && !v.known {
		_, err = c.sandboxRecord(ctx, id)
	}
	if err != nil {
		return nil, fmt.Errorf("links of sandbox %s: %w", shortID(string(id)), err)
	}
	links, err := c.links(ctx, v.ranked(func(m *member) bool { return m.remains(v) }))
	var env []string
	for _, l := range links {
		env = append(env, l.environment()...)
	}
	return env, err
}
