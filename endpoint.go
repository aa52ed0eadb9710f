package sealane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// endpointHandle names the record of an endpoint.
type endpointHandle struct {
	c  *Controller
	on endpoint.NetworkID
	id endpoint.ID
}

func (e *endpointHandle) ID() endpoint.ID { return e.id }

func (e *endpointHandle) Info(ctx context.Context) (endpoint.Info, error) {
	info, err := e.c.endpointRecord(ctx, e.on, e.id)
	if err != nil {
		return info, fmt.Errorf("endpoint %s: %w", shortID(string(e.id)), err)
	}
	info.Problem = e.c.mender.problem(endpointOwner(e.id))
	return info, nil
}

// endpointRecord reads the record of an endpoint, for the caller to change: NotFound when there is none here.
func (c *Controller) endpointRecord(ctx context.Context, on endpoint.NetworkID, id endpoint.ID) (endpoint.Info, error) {
	shared, err := view(ctx, c.o.Run, func(tx datastore.Tx) (endpoint.Info, error) {
		return c.memory.endpoints.Get(tx, endpointTable(on), string(id))
	})
	return shared.Clone(), err
}

// CreateEndpoint makes an endpoint with its addresses. AlreadyExists names the id of the endpoint that has the name or the id.
func (n *network) CreateEndpoint(ctx context.Context, s endpoint.Spec) (endpoint.Endpoint, error) {
	if s.ID == "" {
		s.ID = endpoint.ID(newID())
	}
	if s.Name == "" {
		s.Name = shortID(string(s.ID))
	}
	if err := n.c.createEndpoint(ctx, n.id, s); err != nil {
		return nil, fmt.Errorf("create endpoint %.80q: %w", s.Name, err)
	}
	n.c.events.tell("endpoint", "create", string(s.ID), "name", s.Name, "network", string(n.id))
	return &endpointHandle{n.c, n.id, s.ID}, nil
}

func (c *Controller) createEndpoint(ctx context.Context, on endpoint.NetworkID, s endpoint.Spec) error {
	s, err := s.Decoded()
	if err != nil {
		return err
	}
	if err := checkEndpoint(s); err != nil {
		return err
	}
	unlock, err := c.hold(ctx, on, s.ID)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := c.networkToUse(ctx, on)
	if err != nil {
		return err
	}
	if err := c.endpointIsNew(ctx, n, s); err != nil {
		return err
	}
	e, err := c.draftEndpoint(ctx, n, s)
	if err == nil {
		err = c.establishEndpoint(ctx, n, &e)
	}
	if err != nil {
		c.abandonEndpoint(ctx, n, e)
	}
	return err
}

// networkToUse is the record of a network that is to have an endpoint more.
func (c *Controller) networkToUse(ctx context.Context, on endpoint.NetworkID) (netdriver.Network, error) {
	n, err := c.networkRecord(ctx, on)
	if c.o.Cluster != nil && (errdefs.IsNotFound(err) || err == nil && n.Scope == netdriver.Global) {
		n, err = c.use(ctx, on)
	}
	if err != nil {
		return n, fmt.Errorf("network %s: %w", shortID(string(on)), err)
	}
	if n.Deleting {
		return n, fmt.Errorf("network %s: %w: it is being deleted", n.Name, errdefs.ErrFailedPrecondition)
	}
	return n, nil
}

// draftEndpoint is what an endpoint will be: its addresses are its own from now on, also on an error. A driver that computes is asked here,
// so that a bad option has no effect.
func (c *Controller) draftEndpoint(ctx context.Context, n netdriver.Network, s endpoint.Spec) (endpoint.Info, error) {
	e := endpoint.Info{ID: s.ID, Spec: s, Network: n.ID, MAC: s.MAC}
	if err := c.requireMAC(ctx, n, &e); err != nil {
		return e, err
	}
	s.MAC = e.MAC
	var err error
	if e.Addresses, err = c.requestAddresses(ctx, n, s); err != nil {
		return e, err
	}
	d, err := c.driver(ctx, n.Driver)
	if err != nil || !c.computes(ctx, n.Driver) {
		return e, err
	}
	if e.MAC == nil { // else the driver chooses
		e.MAC = derivedMAC(e.Addresses)
	}
	in, err := c.input(ctx, n)
	if err != nil {
		return e, err
	}
	chosen, err := d.CreateEndpoint(ctx, in, e)
	if err == nil {
		accept(&e, chosen)
	}
	return e, err
}

// hold takes an endpoint exclusively and its network shared.
func (c *Controller) hold(ctx context.Context, on endpoint.NetworkID, id endpoint.ID) (unlock func(), err error) {
	leave, err := c.locks.shared(ctx, networkOwner(on))
	if err != nil {
		return nil, err
	}
	release, err := c.locks.exclusive(ctx, endpointOwner(id))
	if err != nil {
		leave()
		return nil, err
	}
	return func() { release(); leave() }, nil
}

// endpointIsNew finds out early that a name or id is taken; establishEndpoint decides. What is on its way out is helped on first.
func (c *Controller) endpointIsNew(ctx context.Context, n netdriver.Network, s endpoint.Spec) error {
	old, err := view(ctx, c.o.Run, func(tx datastore.Tx) (*endpoint.Info, error) { return findEndpoint(tx, n.ID, s) })
	if err != nil || old == nil {
		return err
	}
	if old.Deleting && old.ID == s.ID {
		if old.Sandbox != "" {
			return (&endpointHandle{c, n.ID, old.ID}).end(ctx, n, *old)
		}
		return c.deleteEndpoint(ctx, n, *old)
	}
	return endpointTaken(s, *old)
}

func findEndpoint(tx datastore.Tx, on endpoint.NetworkID, s endpoint.Spec) (*endpoint.Info, error) {
	named, err := endpointNames(on).get(tx, s.Name)
	if err != nil {
		return nil, err
	}
	for _, id := range []string{string(s.ID), named} {
		if id == "" {
			continue
		}
		if old, found, err := maybe(endpointTable(on).Get(tx, id)); err != nil || found {
			return &old, err
		}
	}
	return nil, nil
}

func endpointTaken(s endpoint.Spec, by endpoint.Info) error {
	if s.Name == by.Spec.Name {
		return fmt.Errorf("%w: the name is taken by endpoint %s", errdefs.ErrAlreadyExists, by.ID)
	}
	return fmt.Errorf("%w: the id is taken by endpoint %s (%s)", errdefs.ErrAlreadyExists, by.ID, by.Spec.Name)
}

// establishEndpoint records an endpoint. A driver that acts is asked after that.
func (c *Controller) establishEndpoint(ctx context.Context, n netdriver.Network, e *endpoint.Info) error {
	if err := c.o.Run.Update(ctx, func(tx datastore.Tx) error { return c.memory.enter(tx, e) }); err != nil {
		return err
	}
	if !c.computes(ctx, n.Driver) {
		d, err := c.driver(ctx, n.Driver)
		if err != nil {
			return err
		}
		chosen, err := c.drive(ctx, d, n, *e)
		if err != nil {
			return err
		}
		if accept(e, chosen) {
			if err := c.putEndpoint(ctx, *e); err != nil {
				return err
			}
		}
	}
	if err := c.raise(ctx, n); err != nil {
		return err
	}
	return c.publish(ctx, n, *e)
}

// accept takes over what a driver chose; true when that is something.
func accept(e *endpoint.Info, chosen netdriver.Interface) bool {
	if len(chosen.Addresses) > 0 {
		e.Addresses = chosen.Addresses
	}
	if chosen.MAC != nil {
		e.MAC = chosen.MAC
	}
	return len(chosen.Addresses) > 0 || chosen.MAC != nil
}

// clearPlace forgets where an endpoint was.
func clearPlace(e *endpoint.Info) { e.Sandbox, e.Nonce, e.Interface = "", "", "" }

// enter writes a new endpoint and claims its name.
func (r *memory) enter(tx datastore.Tx, e *endpoint.Info) error {
	old, found, err := maybe(endpointTable(e.Network).Get(tx, string(e.ID)))
	if err != nil {
		return err
	}
	if found && !equal(old, *e) {
		return endpointTaken(e.Spec, old)
	}
	if err := endpointNames(e.Network).claim(tx, e.Spec.Name, string(e.ID)); err != nil {
		return err
	}
	if err := claimAddresses(tx, e); err != nil {
		return err
	}
	if e.Announce, err = lastSeen(tx, e); err != nil {
		return err
	}
	if err := r.enterFor(tx, e); err != nil {
		return err
	}
	return r.endpoints.Put(tx, endpointTable(e.Network), string(e.ID), e.Clone()) // what the caller gave stays the caller's
}

// enterFor makes an endpoint known to the sandbox that it is made for.
func (r *memory) enterFor(tx datastore.Tx, e *endpoint.Info) error {
	if e.Spec.For == "" {
		return nil
	}
	s, err := r.sandboxes.Get(tx, sandboxTable(), string(e.Spec.For))
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", shortID(string(e.Spec.For)), err)
	}
	if s.Deleting {
		return fmt.Errorf("sandbox %s: %w: it is being deleted", s.Spec.Name, errdefs.ErrFailedPrecondition)
	}
	return memberTable(e.Spec.For).Put(tx, string(e.ID), e.Network)
}

func claimAddresses(tx datastore.Tx, e *endpoint.Info) error {
	if !e.Spec.ByAddress {
		return nil
	}
	for _, p := range e.Addresses {
		has, err := holders(e.Network).get(tx, p.Addr().String())
		if err == nil && has != "" && has != string(e.ID) {
			err = fmt.Errorf("address %s: %w: endpoint %s has it", p.Addr(), errdefs.ErrAlreadyExists, has)
		}
		if err == nil {
			err = holders(e.Network).claim(tx, p.Addr().String(), string(e.ID))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// erase deletes an endpoint's records, all but those of its being in a sandbox.
func erase(tx datastore.Tx, e endpoint.Info) error {
	errs := []error{endpointTable(e.Network).Delete(tx, string(e.ID)), endpointNames(e.Network).free(tx, e.Spec.Name, string(e.ID))}
	if e.Spec.ByAddress {
		for _, p := range e.Addresses {
			errs = append(errs, holders(e.Network).free(tx, p.Addr().String(), string(e.ID)))
		}
	}
	return errors.Join(errs...)
}

// lastSeen remembers which addresses are out with a MAC that is not derived from them, and says what announced said before.
func lastSeen(tx datastore.Tx, e *endpoint.Info) (announce bool, err error) {
	own := ownMAC(e)
	for _, p := range e.Addresses {
		key, odd, err := seenOdd(tx, e, p)
		switch {
		case err != nil:
		case own:
			err = tx.Put(key, e.MAC)
		case odd:
			err = tx.Delete(key)
		}
		if err != nil {
			return false, err
		}
		announce = announce || own || odd
	}
	return announce, nil
}

// announced says whether neighbours may know e's addresses with another MAC: then they must be told.
func announced(tx datastore.Tx, e *endpoint.Info) (announce bool, err error) {
	for _, p := range e.Addresses {
		_, odd, err := seenOdd(tx, e, p)
		if err != nil {
			return false, err
		}
		announce = announce || odd || ownMAC(e)
	}
	return announce, nil
}

// ownMAC says that an endpoint has a MAC that is not derived from its addresses.
func ownMAC(e *endpoint.Info) bool {
	return e.MAC != nil && !bytes.Equal(e.MAC, derivedMAC(e.Addresses))
}

// seenOdd says whether an address of e's was last out with such a MAC, and where that is remembered.
func seenOdd(tx datastore.Tx, e *endpoint.Info, p netip.Prefix) (key string, odd bool, err error) {
	key = datastore.Key("mac", string(e.Network), p.Addr().String())
	_, odd, err = maybe(tx.Get(key))
	return key, odd, err
}

// abandonEndpoint takes back what createEndpoint came to.
func (c *Controller) abandonEndpoint(ctx context.Context, n netdriver.Network, e endpoint.Info) {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	old, err := c.endpointRecord(ctx, n.ID, e.ID)
	if errdefs.IsNotFound(err) {
		if !e.Spec.Leased {
			c.withdraw(withdrawn(n, e))
		}
		return
	}
	if err == nil {
		err = c.deleteEndpoint(ctx, n, old)
	}
	if err != nil {
		c.mender.later(endpointOwner(e.ID), err)
	}
}

func (c *Controller) putEndpoint(ctx context.Context, e endpoint.Info) error {
	return c.o.Run.Update(ctx, func(tx datastore.Tx) error { return endpointTable(e.Network).Put(tx, string(e.ID), e) })
}

// checkEndpoint refuses what no driver need be asked about.
func checkEndpoint(s endpoint.Spec) error {
	errs := []error{checkName(s.Name), checkID(string(s.ID))}
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{errdefs.ErrInvalidArgument}, args...)...))
	}
	for _, alias := range s.Aliases {
		errs = append(errs, endpoint.CheckAlias(alias))
	}
	for alias, name := range s.Links {
		errs = append(errs, endpoint.CheckLink(alias, name))
	}
	errs = append(errs, endpoint.CheckMAC(s.MAC))
	if s.Interface != "" {
		errs = append(errs, sandbox.CheckLinkName(s.Interface))
	}
	for _, p := range s.LinkLocal {
		if !p.Addr().IsLinkLocalUnicast() {
			bad("address %s is not link-local", p.Addr())
		}
	}
	for _, b := range append(slices.Clone(s.Publish), s.Exposed...) {
		if err := b.Check(); err != nil {
			errs = append(errs, err)
		}
	}
	return together(errs...)
}

// Join puts the endpoint into a sandbox.
func (e *endpointHandle) Join(ctx context.Context, sb sandbox.Sandbox) error {
	if sb == nil {
		return fmt.Errorf("join: %w: no sandbox given", errdefs.ErrInvalidArgument)
	}
	if err := e.join(ctx, sb.ID(), nil); err != nil {
		return fmt.Errorf("join endpoint %s to sandbox %s: %w", shortID(string(e.id)), shortID(string(sb.ID())), err)
	}
	return nil
}

// join is Join. fresh, which may be nil, is the record of the sandbox where there is none yet: it is made with the endpoint in it.
func (e *endpointHandle) join(ctx context.Context, into sandbox.ID, fresh *sandbox.Info) error {
	unlock, err := e.c.hold(ctx, e.on, e.id)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := e.recordsToJoin(ctx, into)
	if err != nil {
		return err
	}
	info := r.info
	n, err := e.c.networkRecord(ctx, e.on)
	if err != nil {
		return err
	}
	switch info.Sandbox {
	case into:
		return e.c.converge(ctx, into, nil, nil)
	case "":
	default:
		return fmt.Errorf("%w: it is in sandbox %s; make it leave first", errdefs.ErrFailedPrecondition, info.Sandbox)
	}
	if err := e.finishLeaving(ctx, r.pending); err != nil {
		return err
	}
	s := r.sandbox
	switch {
	case r.known && fresh != nil && s.Spec.Namespace != fresh.Spec.Namespace:
		return sandboxTaken(fresh.Spec, s)
	case !r.known && fresh == nil:
		return errdefs.ErrNotFound
	case !r.known:
		s = *fresh
	}
	if err := canJoin(n, s); err != nil {
		return err
	}
	if info.Spec.For != into { // other hosts are told of the sandbox's names and ports when they were not before
		defer e.c.resettle(e.on, e.id)
	}
	info.Sandbox, info.Nonce = into, randomHex(6)
	if err = e.enterSandbox(ctx, n, info, s, fresh != nil); err != nil {
		e.takeBack(ctx, n, info, fresh != nil)
	}
	return err
}

// reachesTwice refuses a network that keeps apart and has a subnet which the sandbox reaches by another of its networks already.
func (v *content) reachesTwice(n netdriver.Network) error {
	for _, m := range v.members {
		if m.on == n.ID || !m.wanted(v) || n.Space == "" && m.network.Space == "" {
			continue
		}
		for _, mine := range n.Subnets {
			for _, theirs := range m.network.Subnets {
				if mine.Pool.Subnet.Overlaps(theirs.Pool.Subnet) {
					return fmt.Errorf("%w: subnet %s of network %s overlaps %s of network %s, on which it is: no sandbox can be on both",
						errdefs.ErrFailedPrecondition, mine.Pool.Subnet, n.Name, theirs.Pool.Subnet, m.network.Name)
				}
			}
		}
	}
	return nil
}

// enterSandbox asks the driver that acts, and converges the sandbox with the endpoint in it. make: the sandbox too, when it is not there.
func (e *endpointHandle) enterSandbox(ctx context.Context, n netdriver.Network, info endpoint.Info, s sandbox.Info, make bool) error {
	if e.c.mender.doubts(sandboxOwner(s.ID)) { // what an earlier call left undone may have the interface's name still
		if err := e.c.converge(ctx, s.ID, nil, nil); err != nil {
			return fmt.Errorf("finish what an earlier call left undone: %w", err)
		}
	}
	driven, err := e.c.driveInto(ctx, n, info, s)
	if err != nil {
		return err
	}
	var others []*member
	err = e.c.converge(ctx, s.ID, func(v *content) error {
		if !v.known && make {
			v.begin(s)
		}
		if !v.known || v.sandbox.Deleting {
			return fmt.Errorf("%w: the sandbox is being deleted", errdefs.ErrFailedPrecondition)
		}
		others = slices.Clone(v.members)
		if err := v.reachesTwice(n); err != nil {
			return err
		}
		m := v.member(info.ID)
		if m == nil {
			m = v.add(info, n)
		}
		m.info, m.network, m.dirty, m.driven, m.mine = info, n, true, driven, true
		return nil
	}, nil)
	if err != nil || driven.Driver == "" {
		return err
	}
	for _, m := range others {
		if m.driven.Gateway && !m.gateway && m.id != info.ID { // the driver may let a port be of one endpoint only
			e.c.stepDown(ctx, m)
		}
	}
	return e.c.driveGateway(ctx, n, info)
}

// driveInto has a driver that acts join an endpoint to a sandbox that is there; others and later sandboxes need nothing.
func (c *Controller) driveInto(ctx context.Context, n netdriver.Network, info endpoint.Info, s sandbox.Info) (netdriver.Held, error) {
	d, err := c.driver(ctx, n.Driver)
	if err != nil {
		return netdriver.Held{}, err
	}
	if c.computes(ctx, n.Driver) || !(&content{sandbox: s}).placed() {
		return netdriver.Held{}, nil
	}
	info.Key = s.Key
	if _, err := c.drive(ctx, d, n, info); err != nil {
		return netdriver.Held{}, err
	}
	h, _, err := c.drivenRecord(ctx, endpointOwner(info.ID))
	return h, err
}

// canJoin says which networks a kind of sandbox takes.
func canJoin(n netdriver.Network, s sandbox.Info) error {
	o := s.Spec.Namespace
	switch {
	case n.Deleting:
		return fmt.Errorf("%w: network %s is being deleted", errdefs.ErrFailedPrecondition, n.Name)
	case o.Share != "":
		return fmt.Errorf("%w: it shares the networks of sandbox %s and has none of its own", errdefs.ErrInvalidArgument, o.Share)
	case o.Host && n.Driver != "host":
		return fmt.Errorf("%w: a sandbox in the host's namespace joins networks of the driver host only, not %s", errdefs.ErrInvalidArgument, n.Name)
	case !o.Host && n.Driver == "host":
		return fmt.Errorf("%w: network %s is the host's own: only a sandbox in the host's namespace joins it", errdefs.ErrInvalidArgument, n.Name)
	}
	return nil
}

// takeBack makes nothing joined after a Join that failed, and no sandbox if that was made for it. The caller's context may be over.
func (e *endpointHandle) takeBack(ctx context.Context, n netdriver.Network, info endpoint.Info, made bool) {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	if err := e.exit(ctx, n, info, made); err != nil {
		e.c.mender.later(sandboxOwner(info.Sandbox), err)
	}
}

// exit converges the sandbox without the endpoint, and has a driver that acts let go of it. last: the sandbox ends with its last endpoint.
func (e *endpointHandle) exit(ctx context.Context, n netdriver.Network, info endpoint.Info, last bool) error {
	err := e.c.converge(ctx, info.Sandbox, func(v *content) error {
		if m := v.member(e.id); m != nil {
			clearPlace(&m.info)
			m.dirty = true
		}
		if last {
			return e.c.endEmpty(ctx, v)
		}
		return nil
	}, nil)
	if e.c.computes(ctx, n.Driver) {
		return err
	}
	if err != nil { // it may have left all the same
		e.c.mender.later(endpointOwner(e.id), err)
		return err
	}
	d, err := e.c.driver(ctx, n.Driver)
	if err != nil {
		e.c.mender.later(endpointOwner(e.id), err)
		return nil
	}
	info.Sandbox = ""
	if _, err = e.c.drive(ctx, d, n, info); err != nil { // it has left; what its driver holds is converged until that lets go
		e.c.mender.later(endpointOwner(e.id), err)
	}
	return nil
}

// records reads the endpoint and its network.
func (e *endpointHandle) records(ctx context.Context) (info endpoint.Info, n netdriver.Network, err error) {
	if info, err = e.present(ctx); err != nil {
		return info, n, err
	}
	n, err = e.c.networkRecord(ctx, e.on)
	return info, n, err
}

// present reads the endpoint, which is not on its way out. The record is shared with others who read it.
func (e *endpointHandle) present(ctx context.Context) (endpoint.Info, error) {
	return view(ctx, e.c.o.Run, e.presentIn)
}

func (e *endpointHandle) presentIn(tx datastore.Tx) (endpoint.Info, error) {
	info, err := e.c.memory.endpoints.Get(tx, endpointTable(e.on), string(e.id))
	if err != nil {
		return info, fmt.Errorf("endpoint %s: %w", shortID(string(e.id)), err)
	}
	if info.Deleting {
		return info, fmt.Errorf("%w: it is being deleted", errdefs.ErrFailedPrecondition)
	}
	return info, nil
}

// toJoin is what the run store has that Join asks for.
type toJoin struct {
	info    endpoint.Info
	pending sandbox.ID   // see heldIn
	sandbox sandbox.Info // to join
	known   bool         // there is one
}

func (e *endpointHandle) recordsToJoin(ctx context.Context, into sandbox.ID) (toJoin, error) {
	return view(ctx, e.c.o.Run, func(tx datastore.Tx) (r toJoin, err error) {
		if r.info, err = e.presentIn(tx); err != nil {
			return r, err
		}
		if r.pending, err = e.heldInAs(tx); err != nil {
			return r, err
		}
		r.sandbox, r.known, err = maybe(e.c.memory.sandboxes.Get(tx, sandboxTable(), string(into)))
		return r, err
	})
}

// Leave takes the endpoint out of its sandbox.
func (e *endpointHandle) Leave(ctx context.Context) error {
	if err := e.leave(ctx); err != nil {
		return fmt.Errorf("leave endpoint %s: %w", shortID(string(e.id)), err)
	}
	return nil
}

func (e *endpointHandle) leave(ctx context.Context) error {
	unlock, err := e.c.hold(ctx, e.on, e.id)
	if err != nil {
		return err
	}
	defer unlock()
	info, n, err := e.records(ctx)
	if err != nil {
		return err
	}
	if info.Sandbox != "" {
		return e.exit(ctx, n, info, false)
	}
	pending, err := e.heldIn(ctx)
	if err != nil {
		return err
	}
	if pending == "" {
		return fmt.Errorf("%w: it is in no sandbox", errdefs.ErrFailedPrecondition)
	}
	return e.finishLeaving(ctx, pending)
}

// heldIn is the sandbox in which something of an endpoint may be though it is not wanted there any more.
func (e *endpointHandle) heldIn(ctx context.Context) (sandbox.ID, error) {
	return view(ctx, e.c.o.Run, e.heldInAs)
}

func (e *endpointHandle) heldInAs(tx datastore.Tx) (sandbox.ID, error) {
	h, _, err := maybe(heldTable().Get(tx, endpointOwner(e.id)))
	return h.Sandbox, err
}

// finishLeaving ends a Leave that failed before: pending is what heldIn says.
func (e *endpointHandle) finishLeaving(ctx context.Context, pending sandbox.ID) error {
	if pending == "" {
		return nil
	}
	e.c.mender.doubt(sandboxOwner(pending))
	return e.c.converge(ctx, pending, nil, nil)
}

// Delete removes the endpoint.
func (e *endpointHandle) Delete(ctx context.Context) error { return e.delete(ctx, false) }

// Forget removes the endpoint, joined or not.
func (e *endpointHandle) Forget(ctx context.Context) error { return e.delete(ctx, true) }

func (e *endpointHandle) delete(ctx context.Context, force bool) error {
	unlock, err := e.c.hold(ctx, e.on, e.id)
	if err != nil {
		return fmt.Errorf("delete endpoint: %w", err)
	}
	defer unlock()
	info, err := e.Info(ctx)
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	n, err := e.c.networkRecord(ctx, e.on)
	if err == nil || errdefs.IsNotFound(err) {
		err = e.remove(ctx, n, info, force)
	}
	if err != nil {
		return fmt.Errorf("delete endpoint %s: %w", info.Spec.Name, err)
	}
	e.c.events.tell("endpoint", "destroy", string(e.id), "name", info.Spec.Name, "network", string(e.on))
	return nil
}

func (e *endpointHandle) remove(ctx context.Context, n netdriver.Network, info endpoint.Info, force bool) error {
	if info.Sandbox != "" && !force {
		return fmt.Errorf("%w: it is in sandbox %s; make it leave first", errdefs.ErrFailedPrecondition, info.Sandbox)
	}
	if force {
		if err := e.c.renounce(ctx, endpointOwner(e.id)); err != nil {
			return err
		}
	}
	if info.Sandbox != "" {
		if err := e.exit(ctx, n, info, false); err != nil {
			return err
		}
		clearPlace(&info)
	} else {
		pending, err := e.heldIn(ctx)
		if err == nil {
			err = e.finishLeaving(ctx, pending)
		}
		if err != nil {
			return err
		}
	}
	return e.c.deleteEndpoint(ctx, n, info)
}

// deleteEndpoint lets go of an endpoint that is in no sandbox: its driver's part, its records, its addresses. The caller holds it.
func (c *Controller) deleteEndpoint(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	if err := c.withdrawPublished(ctx, n, e.ID); err != nil {
		return err
	}
	defer c.resettle(n.ID, e.ID)
	if h, found, err := c.drivenRecord(ctx, endpointOwner(e.ID)); err != nil {
		return err
	} else if found {
		e.Deleting = true
		if err := c.putEndpoint(ctx, e); err != nil {
			return err
		}
		d, err := c.driver(ctx, h.Driver)
		if err != nil {
			return err
		}
		if _, err := c.drive(ctx, d, h.Network, e); err != nil {
			return err
		}
	}
	err := surely(ctx, c.o.Run, func(tx datastore.Tx) error {
		if e.Spec.For != "" {
			if err := memberTable(e.Spec.For).Delete(tx, string(e.ID)); err != nil {
				return err
			}
		}
		return erase(tx, e)
	})
	if err != nil {
		return err
	}
	if n.ID != "" {
		c.withdraw(withdrawn(n, e))
	}
	return c.lower(ctx, n)
}

// Update changes ports, aliases, rates or the gateway role.
func (e *endpointHandle) Update(ctx context.Context, change func(*endpoint.Spec) error) error {
	if err := e.update(ctx, change); err != nil {
		return fmt.Errorf("update endpoint %s: %w", shortID(string(e.id)), err)
	}
	return nil
}

func (e *endpointHandle) update(ctx context.Context, change func(*endpoint.Spec) error) error {
	unlock, err := e.c.hold(ctx, e.on, e.id)
	if err != nil {
		return err
	}
	defer unlock()
	info, err := e.present(ctx)
	if err != nil {
		return err
	}
	from, to := info.Spec, info.Spec.Clone()
	if err := change(&to); err != nil {
		return err
	}
	if reflect.DeepEqual(from, to) && !e.c.mender.doubts(sandboxOwner(info.Sandbox)) {
		return nil
	}
	to = to.Clone() // what the caller put in stays the caller's
	if err := checkUpdate(from, to); err != nil {
		return err
	}
	defer e.c.resettle(e.on, e.id)
	if info.Sandbox == "" {
		info.Spec = to
		return e.putUnjoined(ctx, info)
	}
	set := func(s endpoint.Spec) func(*content) error {
		return func(v *content) error {
			if m := v.member(e.id); m != nil {
				m.info.Spec, m.dirty = s, true
			}
			return nil
		}
	}
	if err = e.c.converge(ctx, info.Sandbox, set(to), nil); err != nil {
		ctx, cancel := afterwards(ctx)
		defer cancel()
		if back := e.c.converge(ctx, info.Sandbox, set(from), nil); back != nil {
			e.c.mender.later(sandboxOwner(info.Sandbox), back)
		}
	}
	return err
}

// putUnjoined writes a changed endpoint after its driver has found nothing wrong with it.
func (e *endpointHandle) putUnjoined(ctx context.Context, info endpoint.Info) error {
	n, err := e.c.networkRecord(ctx, e.on)
	if err != nil {
		return err
	}
	d, err := e.c.driver(ctx, n.Driver)
	if err != nil {
		return err
	}
	if e.c.computes(ctx, n.Driver) {
		in, err := e.c.input(ctx, n)
		if err != nil {
			return err
		}
		if _, err := d.CreateEndpoint(ctx, in, info); err != nil {
			return err
		}
	}
	return e.c.putEndpoint(ctx, info)
}

// checkUpdate refuses a change of what cannot change while the endpoint lives.
func checkUpdate(from, to endpoint.Spec) error {
	if err := checkEndpoint(to); err != nil {
		return err
	}
	fixed := to.Clone()
	fixed.Publish, fixed.PublishAll, fixed.Exposed = from.Publish, from.PublishAll, from.Exposed
	fixed.Aliases, fixed.Links, fixed.Labels = from.Aliases, from.Links, from.Labels
	fixed.Ingress, fixed.Egress, fixed.Gateway, fixed.Priority = from.Ingress, from.Egress, from.Gateway, from.Priority
	if !equal(fixed, from) {
		return fmt.Errorf("%w: name, addresses, MAC, interface, sysctls and options stay as they were made; make another endpoint",
			errdefs.ErrFailedPrecondition)
	}
	return nil
}
