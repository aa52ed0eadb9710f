package sealane

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// Connection is an endpoint that a sandbox is made with.
type Connection struct {
	Network  endpoint.NetworkID
	Endpoint endpoint.Spec // it has the sandbox's name when it is given none, and goes with it
}

// CreateConnected makes a sandbox that is on networks and publishes ports from its first moment, or nothing of that: CreateSandbox, ChangePorts,
// CreateEndpoint and Join in one converge, which records the sandbox with the first two endpoints, so that a crash leaves all of these or
// nothing. Endpoints of drivers that act, and those that other hosts are told of, come one by one after it. Errors are those of the four.
func (c *Controller) CreateConnected(ctx context.Context, s sandbox.Spec, p endpoint.Ports, to ...Connection) (sandbox.Sandbox, error) {
	s.ID = cmp.Or(s.ID, sandbox.ID(newID()))
	s.Name = cmp.Or(s.Name, shortID(string(s.ID)))
	to, err := connections(s, to)
	if err == nil {
		err = c.createConnected(ctx, s, p, to)
	}
	if err != nil {
		return nil, fmt.Errorf("create sandbox %.80q: %w", s.Name, err)
	}
	return &sandboxHandle{c, s.ID}, nil
}

// connections are those given, filled in and found good.
func connections(s sandbox.Spec, given []Connection) ([]Connection, error) {
	all := slices.Clone(given)
	for i := range all {
		e := &all[i].Endpoint
		if slices.ContainsFunc(all[:i], func(other Connection) bool { return other.Endpoint.ID == e.ID }) && e.ID != "" {
			return nil, fmt.Errorf("%w: endpoint %s is named twice", errdefs.ErrInvalidArgument, e.ID)
		}
		e.ID, e.Name, e.For = cmp.Or(e.ID, endpoint.ID(newID())), cmp.Or(e.Name, s.Name), s.ID
		decoded, err := e.Decoded()
		if err == nil {
			err = checkEndpoint(decoded)
		}
		if err != nil {
			return nil, fmt.Errorf("endpoint %.80q: %w", e.Name, err)
		}
		*e = decoded
	}
	return all, nil
}

func (c *Controller) createConnected(ctx context.Context, s sandbox.Spec, p endpoint.Ports, to []Connection) error {
	inside, err := checkSandbox(s)
	if err == nil {
		err = checkPorts(p)
	}
	if err != nil {
		return err
	}
	b := &beginning{c: c, inside: inside, ports: p, info: sandbox.Info{ID: s.ID, Spec: s, Created: time.Now().UTC()}}
	if err := b.make(ctx, to); err != nil {
		b.undo(ctx)
		return err
	}
	for _, n := range b.later {
		h := &endpointHandle{c, n.Network, n.Endpoint.ID}
		if _, err = (&network{c, n.Network}).CreateEndpoint(ctx, n.Endpoint); err == nil {
			err = h.join(ctx, s.ID, nil)
		}
		if err != nil {
			b.undo(ctx)
			return err
		}
	}
	return nil
}

// beginning is a sandbox while it is made with its endpoints.
type beginning struct {
	c       *Controller
	info    sandbox.Info
	inside  sandbox.Config
	ports   endpoint.Ports
	members []*member
	later   []Connection // those that are made one by one
	placed  bool         // it may have a namespace
}

// make holds the networks and endpoints and converges.
func (b *beginning) make(ctx context.Context, to []Connection) error {
	unlock, err := b.c.holdAll(ctx, to)
	if err != nil {
		return err
	}
	defer unlock()
	if err = b.draft(ctx, to); err == nil {
		err = b.c.converge(ctx, b.info.ID, func(v *content) error { return b.fill(ctx, v) }, nil)
	}
	if err != nil {
		b.release(ctx)
	}
	return err
}

// holdAll is hold for several, in the order that all locks are taken in.
func (c *Controller) holdAll(ctx context.Context, all []Connection) (unlock func(), err error) {
	var held []func()
	unlock = func() {
		for _, release := range slices.Backward(held) {
			release()
		}
	}
	var networks []endpoint.NetworkID
	for _, n := range all {
		networks = append(networks, n.Network)
	}
	slices.Sort(networks)
	for _, on := range slices.Compact(networks) {
		release, err := c.locks.shared(ctx, networkOwner(on))
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, release)
	}
	for _, n := range all {
		release, err := c.locks.exclusive(ctx, endpointOwner(n.Endpoint.ID))
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, release)
	}
	return unlock, nil
}

// draft finds out what it will be. Whether its names are free the records that converge writes decide; addresses are asked for only when they
// seem to be, because to ask for those of an endpoint that is there is to be given them.
func (b *beginning) draft(ctx context.Context, to []Connection) error {
	old, err := view(ctx, b.c.o.Run, func(tx datastore.Tx) (*sandbox.Info, error) { return findSandbox(tx, b.info.Spec) })
	if err == nil && old != nil {
		err = sandboxTaken(b.info.Spec, *old)
	}
	if err != nil {
		return err
	}
	for _, n := range to {
		if err := b.draftEndpoint(ctx, n); err != nil {
			return fmt.Errorf("endpoint %.80q: %w", n.Endpoint.Name, err)
		}
	}
	return b.c.o.Run.View(ctx, func(tx datastore.Tx) error { // plans ask for it
		for _, m := range b.members {
			if m.info.Announce, err = announced(tx, &m.info); err != nil {
				return err
			}
		}
		return nil
	})
}

// draftEndpoint is draft of one endpoint, unless it is made later.
func (b *beginning) draftEndpoint(ctx context.Context, to Connection) error {
	c := b.c
	n, err := c.networkToUse(ctx, to.Network)
	if err == nil {
		err = canJoin(n, b.info)
	}
	if err != nil {
		return err
	}
	if n.Scope == netdriver.Global || !c.computes(ctx, n.Driver) {
		b.later = append(b.later, to)
		return nil
	}
	if err := c.endpointIsNew(ctx, n, to.Endpoint); err != nil {
		return err
	}
	e, err := c.draftEndpoint(ctx, n, to.Endpoint)
	e.Sandbox, e.Nonce = b.info.ID, randomHex(6)
	b.members = append(b.members, &member{id: e.ID, on: n.ID, info: e, network: n, dirty: true, mine: true, made: true, listed: true})
	return err
}

// fill makes the namespace and puts the endpoints in.
func (b *beginning) fill(ctx context.Context, v *content) error {
	if v.known {
		return sandboxTaken(b.info.Spec, v.sandbox)
	}
	b.placed = true
	if err := b.c.place(ctx, &b.info, b.inside); err != nil {
		return err
	}
	v.begin(b.info)
	if len(b.ports.Publish)+len(b.ports.Exposed) > 0 {
		if err := v.publishes(); err != nil {
			return err
		}
		v.ports, v.moved = b.ports.Clone(), true
	}
	for _, m := range b.members {
		if err := v.reachesTwice(m.network); err != nil {
			return err
		}
		v.members = append(v.members, m)
	}
	slices.SortFunc(v.members, func(a, b *member) int { return cmp.Compare(a.id, b.id) })
	return nil
}

// release gives back the addresses of endpoints that came to have no record; what is recorded goes with the sandbox. The caller's context may be
// over, and it holds the endpoints.
func (b *beginning) release(ctx context.Context) {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	for _, m := range b.members {
		if _, err := b.c.endpointRecord(ctx, m.on, m.id); errdefs.IsNotFound(err) && !m.info.Spec.Leased {
			b.c.withdraw(withdrawn(m.network, m.info))
		}
	}
}

// undo takes back what there is of the sandbox. The caller's context may be over.
func (b *beginning) undo(ctx context.Context) {
	c := b.c
	ctx, cancel := afterwards(ctx)
	defer cancel()
	if !b.placed {
		return
	}
	if _, err := c.sandboxRecord(ctx, b.info.ID); errdefs.IsNotFound(err) {
		c.mender.forget(sandboxOwner(b.info.ID))
		c.ports.keep(&content{id: b.info.ID})
		c.abandonSandbox(ctx, b.info)
		return
	}
	if err := c.endSandbox(ctx, b.info.ID, false); err != nil && !errdefs.IsNotFound(err) {
		c.mender.later(sandboxOwner(b.info.ID), err)
		c.log.Warn("a sandbox that could not be made is left", "sandbox", b.info.ID, "error", err)
	}
}
