package sealane

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// Front ends that move links themselves (sandbox.Origin.Foreign) are told of endpoints and of no sandboxes: those begin with their first
// endpoint and end with their last. Each verb of theirs is one call here, and so one converge and as few commits as it needs.

// JoinForeign joins an endpoint to a sandbox of Origin.Foreign, which is made with it if there is none with the spec's id, and says what the
// endpoint brings, as Attachment does. Errors are those of CreateSandbox and Join; then there is no more than before.
func (c *Controller) JoinForeign(ctx context.Context, on endpoint.NetworkID, id endpoint.ID, s sandbox.Spec) (sandbox.Attachment, error) {
	s.Name = cmp.Or(s.Name, shortID(string(s.ID)))
	err := together(checkName(s.Name), checkID(string(s.ID)), s.Names.Check())
	if err == nil && (s.ID == "" || s.Namespace != (sandbox.Origin{Foreign: true}) || len(s.Sysctls) > 0) {
		err = fmt.Errorf("%w: a sandbox made by joining has an id, and links and settings by whoever asks for it", errdefs.ErrInvalidArgument)
	}
	if err == nil {
		err = (&endpointHandle{c, on, id}).join(ctx, s.ID, &sandbox.Info{ID: s.ID, Spec: s, Created: time.Now().UTC()})
	}
	if err != nil {
		return sandbox.Attachment{}, fmt.Errorf("join endpoint %s to sandbox %.80q: %w", shortID(string(id)), s.Name, err)
	}
	return c.Attachment(ctx, id)
}

// Attachment is what a joined endpoint brings into its sandbox: what a front end that moves the link itself (sandbox.Origin.Foreign) must
// know. Link.Arrives is the name under which the link waits in the host's namespace. FailedPrecondition while it is joined nowhere. What it
// points to is shared and nobody changes it.
func (c *Controller) Attachment(ctx context.Context, id endpoint.ID) (sandbox.Attachment, error) {
	h, err := view(ctx, c.o.Run, func(tx datastore.Tx) (netdriver.Held, error) {
		h, _, err := maybe(c.memory.held.Get(tx, heldTable(), endpointOwner(id)))
		return h, err
	})
	if err == nil && h.Plan.Attachment == nil {
		err = fmt.Errorf("%w: it brings nothing into a sandbox", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return sandbox.Attachment{}, fmt.Errorf("endpoint %s: %w", shortID(string(id)), err)
	}
	return *h.Plan.Attachment, nil
}

// DeleteForeign deletes an endpoint, joined or not, and with the last endpoint of a sandbox of Origin.Foreign the sandbox. NotFound when there
// is none. What fails after the wish was recorded is tried again in the background: the caller need not ask again.
func (c *Controller) DeleteForeign(ctx context.Context, on endpoint.NetworkID, id endpoint.ID) error {
	e := &endpointHandle{c, on, id}
	unlock, err := c.hold(ctx, on, id)
	if err != nil {
		return fmt.Errorf("delete endpoint %s: %w", shortID(string(id)), err)
	}
	defer unlock()
	info, err := view(ctx, c.o.Run, func(tx datastore.Tx) (endpoint.Info, error) {
		return c.memory.endpoints.Get(tx, endpointTable(on), string(id))
	})
	if err != nil {
		return fmt.Errorf("delete endpoint %s: %w", shortID(string(id)), err)
	}
	n, _, err := maybe(c.networkRecord(ctx, on))
	if err == nil && info.Sandbox == "" {
		if err = e.remove(ctx, n, info, false); err == nil {
			c.events.tell("endpoint", "destroy", string(id), "name", info.Spec.Name, "network", string(on))
		}
	} else if err == nil {
		err = e.end(ctx, n, info)
	}
	if err != nil {
		return fmt.Errorf("delete endpoint %s: %w", info.Spec.Name, err)
	}
	return nil
}

// end deletes a joined endpoint in one converge of its sandbox. What a driver that acts has of it is let go of afterwards, with its record.
func (e *endpointHandle) end(ctx context.Context, n netdriver.Network, info endpoint.Info) error {
	c, acts := e.c, !e.c.computes(ctx, n.Driver)
	if acts {
		if err := e.exit(ctx, n, info, true); err != nil {
			return err
		}
		clearPlace(&info)
		return c.deleteEndpoint(ctx, n, info)
	}
	if err := c.withdrawPublished(ctx, n, e.id); err != nil {
		return err
	}
	defer c.resettle(n.ID, e.id)
	err := c.converge(ctx, info.Sandbox, func(v *content) error {
		if m := v.member(e.id); m != nil {
			m.info.Deleting, m.dirty = true, true
		}
		return c.endEmpty(ctx, v)
	}, nil)
	if err != nil {
		c.mender.later(sandboxOwner(info.Sandbox), err)
	}
	return err
}

// endEmpty ends a foreign sandbox in which no endpoint is to be any more, unless others share it.
func (c *Controller) endEmpty(ctx context.Context, v *content) error {
	if !v.known || !v.sandbox.Spec.Namespace.Foreign || slices.ContainsFunc(v.members, func(m *member) bool { return m.remains(v) }) {
		return nil
	}
	err := c.notShared(ctx, v.id)
	if err == nil {
		v.sandbox.Deleting, v.dirty, v.ended = true, true, true
	}
	if errdefs.IsConflict(err) {
		return nil
	}
	return err
}

// Holder finds the endpoint of a network that has an address and was made to be found by it (Spec.ByAddress); "" none.
func (c *Controller) Holder(ctx context.Context, on endpoint.NetworkID, a netip.Addr) (endpoint.ID, error) {
	id, err := view(ctx, c.o.Run, func(tx datastore.Tx) (string, error) { return holders(on).get(tx, a.String()) })
	return endpoint.ID(id), err
}

// Endpoint is the handle of an endpoint by its ids, without a look whether there is one: its calls say.
func (c *Controller) Endpoint(on endpoint.NetworkID, id endpoint.ID) endpoint.Endpoint {
	return &endpointHandle{c, on, id}
}
