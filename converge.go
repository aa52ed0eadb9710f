package sealane

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sync/errgroup"
)

// observation is what the host's namespace contains of ours, by owner, and those of networks as far as somebody asked.
type observation struct {
	links  map[string]sandbox.Config // in a network's namespace all of it, as the share of ""
	terms  map[string]firewall.Terms
	spaces map[string]*observation // by Space; nil: there is no such namespace
}

func (c *Controller) observe(ctx context.Context) (*observation, error) {
	return c.lookout.share(ctx, func(ctx context.Context) (o observation, err error) {
		if o.links, err = c.host.Observe(ctx); err != nil {
			return o, fmt.Errorf("observe the host's links: %w", err)
		}
		if c.wall != nil {
			if o.terms, err = c.wall.Observe(ctx); err != nil {
				return o, fmt.Errorf("observe the firewall: %w", err)
			}
		}
		return o, nil
	})
}

// plan is what an owner has on the host, as a plan.
func (o *observation) plan(owner string) netdriver.Plan {
	return netdriver.Plan{Shares: []netdriver.Share{{Config: o.links[owner], Terms: o.terms[owner]}}}
}

// has is what an owner has on the host, and in networks' namespaces of what the known plans speak of.
func (c *Controller) has(ctx context.Context, o *observation, owner string, known ...netdriver.Plan) (netdriver.Plan, error) {
	has := o.plan(owner)
	for _, space := range spacesOf(known...) {
		if space == "" {
			continue
		}
		there, err := c.observeSpace(ctx, o, space)
		if err != nil {
			return has, err
		}
		if there == nil {
			continue
		}
		var all sandbox.Config
		for _, p := range known {
			all = union(all, shareOf(p, space).Config)
		}
		all.Links = slices.Clip(all.Links)
		for _, l := range there.links[""].Links {
			if l.Owner == owner {
				all.Links = append(all.Links, l) // what no record knows of any more
			}
		}
		has.Shares = append(has.Shares, netdriver.Share{Space: space, Config: there.links[""].Within(all), Terms: there.terms[owner]})
	}
	return has, nil
}

// observeSpace looks at a network's namespace, once for each observation; nil when there is none.
func (c *Controller) observeSpace(ctx context.Context, o *observation, space string) (*observation, error) {
	if seen, asked := o.spaces[space]; asked {
		return seen, nil
	}
	if o.spaces == nil {
		o.spaces = map[string]*observation{}
	}
	p, err := c.at(ctx, space, false)
	if err != nil || p == nil {
		o.spaces[space] = nil
		return nil, err
	}
	seen := &observation{}
	if seen.links, err = p.ns.Observe(ctx); err != nil {
		c.leave(space) // it may be another one by now
		return nil, fmt.Errorf("observe the namespace of %s: %w", space, err)
	}
	if p.wall != nil {
		if seen.terms, err = p.wall.Observe(ctx); err != nil {
			return nil, fmt.Errorf("observe the firewall of %s: %w", space, err)
		}
	}
	o.spaces[space] = seen
	return seen, nil
}

// converge makes the kernel match the records of one sandbox: the one path of joining, leaving, publishing, deleting, restarting and
// repairing. edit, which may be nil, changes the records first; its error has no effect. seen is what the host contains; nil: what Held
// says, which costs no look at the kernel, unless an earlier call left doubt.
//
// What may exist is recorded before it is made and struck out after it is unmade. A fault at any step leaves records that the next
// call finishes from.
func (c *Controller) converge(ctx context.Context, id sandbox.ID, edit func(*content) error, seen *observation) error {
	unlock, err := c.locks.exclusive(ctx, sandboxOwner(id))
	if err != nil {
		return err
	}
	defer unlock()
	v, err := c.read(ctx, id)
	if err != nil {
		return err
	}
	if edit != nil {
		if err := edit(v); err != nil {
			return err
		}
	}
	if seen == nil && c.mender.doubts(sandboxOwner(id)) {
		if seen, err = c.observe(ctx); err != nil {
			return err
		}
	}
	if err := c.plan(ctx, v); err != nil {
		c.ports.keep(v)
		return err
	}
	if err = c.carryOut(ctx, v, seen); err != nil {
		if c.mender.doubt(sandboxOwner(id)); errors.Is(err, errGone) {
			c.mender.later(sandboxOwner(id), err)
		}
		return err
	}
	c.ports.keep(v)
	c.mender.settled(v)
	return nil
}

// carryOut records, applies and settles.
func (c *Controller) carryOut(ctx context.Context, v *content, seen *observation) error {
	for _, m := range v.members {
		m.had = m.held.Plan
		m.has = m.had
		if seen == nil {
			continue
		}
		var err error
		if m.has, err = c.has(ctx, seen, endpointOwner(m.id), m.had, m.want); err != nil {
			return err
		}
	}
	if err := c.record(ctx, v); err != nil {
		return err
	}
	return inOrder(
		func() error { return c.raiseNew(ctx, v) },
		func() error { return c.unname(ctx, v) },
		func() error { return c.fill(ctx, v, seen != nil) },
		func() error { return c.name(ctx, v, seen != nil) },
		func() error { return c.settle(ctx, v) },
		func() error { c.tellLinked(v); return nil })
}

// record writes what is wanted and what may exist from now on, a few members at a time: each Update leaves records to converge from.
func (c *Controller) record(ctx context.Context, v *content) error {
	atOnce := 4 // five keys and directories a member, less than datastore.MaxKeys
	if v.made {
		atOnce = 2 // six where it is new, and five of the sandbox
	}
	var written []*member
	for _, m := range v.members {
		if m.dirty || m.wanted(v) {
			m.hold(v)
			written = append(written, m)
		}
	}
	for first := true; first && (v.dirty || v.moved) || len(written) > 0; first = false {
		now := written[:min(atOnce, len(written))]
		written = written[len(now):]
		err := c.o.Run.Update(ctx, func(tx datastore.Tx) error {
			if first {
				if err := v.write(tx, &c.memory); err != nil {
					return err
				}
			}
			for _, m := range now {
				if err := m.write(tx, v, &c.memory); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("record what is wanted: %w", err)
		}
	}
	return nil
}

// write puts the records of the sandbox itself.
func (v *content) write(tx datastore.Tx, r *memory) error {
	var errs []error
	switch {
	case v.made:
		errs = append(errs, r.enterSandbox(tx, v.sandbox))
	case v.dirty:
		errs = append(errs, sandboxTable().Put(tx, string(v.id), v.sandbox))
	}
	if v.moved {
		errs = append(errs, portsTable().Put(tx, string(v.id), v.ports))
	}
	return errors.Join(errs...)
}

// hold makes Held cover what is wanted.
func (m *member) hold(v *content) {
	if m.wanted(v) {
		m.fresh = m.held.Owner == ""
		m.held = netdriver.Held{Owner: endpointOwner(m.id), Sandbox: v.id, Plan: withoutEntries(m.want), Gateway: m.gateway}
	}
}

// write puts the records of a member. The store knows which of them are as they were.
func (m *member) write(tx datastore.Tx, v *content, r *memory) error {
	var errs []error
	switch {
	case m.made:
		errs = append(errs, r.enter(tx, &m.info))
	case m.dirty && m.info.ID != "":
		errs = append(errs, r.endpoints.Put(tx, endpointTable(m.on), string(m.id), m.info))
	}
	if m.remains(v) && !m.listed {
		errs = append(errs, memberTable(v.id).Put(tx, string(m.id), m.on))
	}
	if m.wanted(v) {
		errs = append(errs, r.held.Put(tx, heldTable(), m.held.Owner, m.held))
	}
	return errors.Join(errs...)
}

// fill makes the kernel match, and what the sandbox sees of names. Nobody can have asked in one that had nothing: there the resolver moves in
// while links are made, since one half waits for the kernel's lock of links and the other for that of its tables.
func (c *Controller) fill(ctx context.Context, v *content, look bool) error {
	links := func() error { return c.apply(ctx, v, look) }
	names := func() error { return c.answer(ctx, v, look) }
	if v.had() || len(c.answered(v)) == 0 {
		return inOrder(links, names)
	}
	var both errgroup.Group
	both.Go(names)
	return together(links(), both.Wait())
}

// apply makes the kernel match. What restricts comes before links when making and goes after them when unmaking. All ports change hands
// in one transaction, when what they will lead to is there and what they led to still is: somebody is calling at every moment.
func (c *Controller) apply(ctx context.Context, v *content, look bool) error {
	first, ports, last := v.terms()
	sooner := func() error { return c.applyTerms(ctx, ports) }
	later := func() error { return c.applyInside(ctx, v, look) }
	if v.grows() {
		sooner, later = later, sooner
	}
	return inOrder(
		func() error { return c.applyTerms(ctx, first) },
		func() error {
			for _, m := range v.members {
				if !m.wanted(v) {
					continue
				}
				if err := c.applyMember(ctx, m, m.want); err != nil {
					return err
				}
			}
			return nil
		},
		sooner, later,
		func() error {
			for _, m := range v.members {
				if m.remains(v) {
					continue
				}
				if err := c.applyMember(ctx, m, netdriver.Plan{}); err != nil {
					return err
				}
			}
			return nil
		},
		func() error { return c.applyTerms(ctx, last) })
}

// terms are the changes of the firewall in the order of apply: what restricts, what is published, and what restricts no more.
func (v *content) terms() (first, ports, last []change) {
	for _, m := range v.members {
		owner := endpointOwner(m.id)
		for _, space := range spacesOf(m.has, m.want) {
			have, want := shareOf(m.has, space).Terms, firewall.Terms{}
			if m.wanted(v) {
				want = shareOf(m.want, space).Terms
			} else {
				want.Policies, want.Pinholes = have.Policies, have.Pinholes
				last = append(last, change{space, firewall.Change{Owner: owner, Have: want}})
			}
			unpublished := want
			unpublished.Ports = have.Ports
			first = append(first, change{space, firewall.Change{Owner: owner, Have: have, Want: unpublished}})
			ports = append(ports, change{space, firewall.Change{Owner: owner, Have: unpublished, Want: want}})
		}
	}
	return first, ports, last
}

// grows says that a member has no link yet: then nothing can lead to it before it is arranged.
func (v *content) grows() bool {
	return slices.ContainsFunc(v.members, func(m *member) bool {
		return m.wanted(v) && !slices.ContainsFunc(m.has.Shares, func(s netdriver.Share) bool { return len(s.Config.Links) > 0 })
	})
}

// had says that the sandbox may contain something of an earlier call.
func (v *content) had() bool {
	return slices.ContainsFunc(v.members, func(m *member) bool { return m.held.Owner != "" && !m.fresh })
}

func joined(a, b firewall.Terms) firewall.Terms {
	a.Networks, a.Ports = append(a.Networks, b.Networks...), append(a.Ports, b.Ports...)
	a.Pinholes, a.Policies = append(a.Pinholes, b.Pinholes...), append(a.Policies, b.Policies...)
	a.Redirects, a.Tunnels = append(a.Redirects, b.Redirects...), append(a.Tunnels, b.Tunnels...)
	return a
}

// applyMember makes what a member has outside its sandbox what is wanted.
func (c *Controller) applyMember(ctx context.Context, m *member, want netdriver.Plan) error {
	for _, space := range spacesOf(m.has, want) {
		if err := c.applyLinks(ctx, space, endpointOwner(m.id), shareOf(m.has, space).Config, shareOf(want, space).Config); err != nil {
			return err
		}
	}
	return nil
}

// applyInside makes the inside of the sandbox match. One that is ours and on its way out is not tidied: it goes as a whole.
func (c *Controller) applyInside(ctx context.Context, v *content, look bool) error {
	if !v.enterable() || v.gone || v.sandbox.Deleting && v.ours() || len(v.members) == 0 {
		return nil
	}
	held := map[string]sandbox.Attachment{}
	for _, m := range v.members {
		if a := m.had.Attachment; a != nil {
			held[string(m.id)] = *a
		}
	}
	if !look && reflect.DeepEqual(held, v.brought) {
		return nil
	}
	was, err := sandbox.Merge(held)
	if err != nil {
		return fmt.Errorf("merge what the sandbox holds: %w", err)
	}
	ns, err := c.namespace(ctx, v.sandbox)
	if errors.Is(err, errGone) && v.sandbox.Deleting {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.done(v.sandbox, ns)
	have, want := was.Config, v.merged.Config
	if look {
		seen, err := ns.Observe(ctx)
		if err != nil {
			return fmt.Errorf("observe sandbox %s: %w", shortID(string(v.id)), err)
		}
		have = seen[""].Within(union(have, want))
	}
	_, err = ns.Apply(ctx, sandboxOwner(v.id), have, want)
	return err
}

// union names all that either config names.
func union(a, b sandbox.Config) sandbox.Config {
	return sandbox.Config{Links: append(a.Links[:len(a.Links):len(a.Links)], b.Links...),
		Routes: append(a.Routes[:len(a.Routes):len(a.Routes)], b.Routes...),
		Rules:  append(a.Rules[:len(a.Rules):len(a.Rules)], b.Rules...)}
}

// settle strikes out what is gone, and tells. Addresses are free only when no record has them any more.
func (c *Controller) settle(ctx context.Context, v *content) error {
	const atOnce = 2 // six keys a member, and four of the sandbox
	var left, doomed []*member
	var freed []withdrawal
	for _, m := range v.members {
		if !m.remains(v) && (!m.waits(v) || m.held.Owner != "") {
			left = append(left, m)
			if m.doomed(v) {
				doomed, freed = append(doomed, m), append(freed, withdrawn(m.network, m.info))
			}
		}
	}
	last := v.sandbox.Deleting
	if last && v.ours() {
		if err := c.removeNamespace(ctx, v.sandbox); err != nil {
			return err
		}
	}
	for len(left) > 0 || last {
		now := left[:min(atOnce, len(left))]
		left = left[len(now):]
		ending := last && len(left) == 0
		err := surely(ctx, c.o.Run, func(tx datastore.Tx) error { return strike(tx, v, now, ending) })
		if err != nil {
			return fmt.Errorf("record what is gone: %w", err)
		}
		last = last && !ending
	}
	for _, m := range v.members {
		if m.driven.Driver != "" && !m.mine && (!m.remains(v) || !m.told()) { // its driver learns of it too, whoever converged
			c.mender.later(endpointOwner(m.id), nil)
		}
	}
	c.withdraw(freed...)
	for _, m := range doomed {
		_ = c.lower(ctx, m.network) // it has seen to that it is tried again
	}
	c.tell(v)
	return nil
}

// strike removes the records of members that left and, when it is ending, of the sandbox.
func strike(tx datastore.Tx, v *content, left []*member, ending bool) error {
	var errs []error
	for _, m := range left {
		errs = append(errs, heldTable().Delete(tx, endpointOwner(m.id)))
		if !m.waits(v) {
			errs = append(errs, memberTable(v.id).Delete(tx, string(m.id)))
		}
		switch {
		case m.doomed(v):
			errs = append(errs, erase(tx, m.info))
		case m.info.ID != "" && (m.info.Sandbox == v.id || m.info.Sandbox == "" && len(m.info.Ports) > 0):
			clearPlace(&m.info)
			m.info.Ports = nil
			errs = append(errs, endpointTable(m.on).Put(tx, string(m.id), m.info))
		}
	}
	if ending {
		errs = append(errs, sandboxTable().Delete(tx, string(v.id)), portsTable().Delete(tx, string(v.id)), sandboxNames.free(tx, v.sandbox.Spec.Name, string(v.id)))
		if donor := v.sandbox.Spec.Namespace.Share; donor != "" {
			errs = append(errs, sharers(donor).Delete(tx, string(v.id)))
		} else if v.sandbox.Key != "" {
			errs = append(errs, namespaceCookies.free(tx, cookieName(v.sandbox.Cookie), string(v.id)))
		}
	}
	return errors.Join(errs...)
}

// tell says who came and who left.
func (c *Controller) tell(v *content) {
	if v.made {
		c.events.tell("sandbox", "create", string(v.id), "name", v.sandbox.Spec.Name)
	}
	if v.ended {
		defer c.events.tell("sandbox", "destroy", string(v.id), "name", v.sandbox.Spec.Name)
	}
	for _, m := range v.members {
		if m.made {
			c.events.tell("endpoint", "create", string(m.id), "name", m.info.Spec.Name, "network", string(m.on))
		}
		attrs := []string{"container", string(v.id), "name", m.network.Name, "type", m.network.Driver, "endpoint", string(m.id)}
		if m.fresh && m.remains(v) {
			c.events.tell("network", "connect", string(m.on), attrs...)
		}
		if !m.remains(v) && m.held.Owner != "" {
			c.events.tell("network", "disconnect", string(m.on), attrs...)
		}
		if m.doomed(v) {
			c.events.tell("endpoint", "destroy", string(m.id), "name", m.info.Spec.Name, "network", string(m.on))
		}
	}
}

// afterwards is a context for cleaning up after a call whose own may be over.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	const enough = 30 * time.Second
	return context.WithTimeout(context.WithoutCancel(ctx), enough)
}
