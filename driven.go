package sealane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
)

// drive makes a driver that acts hold what an endpoint's record wants of it: converge, for what is not in our kernel. The wish is in the
// root store before each call and is struck out after it, so that a call whose answer was lost is repeated or undone. The caller holds the
// endpoint, and no sandbox. It returns what the driver chose.
func (c *Controller) drive(ctx context.Context, d netdriver.Driver, n netdriver.Network, e endpoint.Info) (netdriver.Interface, error) {
	h, _, err := c.drivenRecord(ctx, endpointOwner(e.ID))
	if err != nil {
		return netdriver.Interface{}, err
	}
	if e.Deleting {
		return netdriver.Interface{}, c.undrive(ctx, d, h)
	}
	chosen := unheard(h, e)
	if h.Owner == "" || h.Endpoint.Sandbox == "" && !h.Answered {
		if h.Owner == "" {
			if h.Before, err = c.linksBefore(ctx); err != nil {
				return chosen, err
			}
		}
		h = netdriver.Held{Owner: endpointOwner(e.ID), Driver: n.Driver, Network: n, Endpoint: e, Before: h.Before}
		h.Endpoint.Sandbox = ""
		if chosen, err = c.driveCreate(ctx, d, &h); err != nil {
			return chosen, err
		}
	}
	accept(&e, chosen)
	switch {
	case e.Sandbox == "" && h.Endpoint.Sandbox != "":
		return chosen, c.driveLeave(ctx, d, h)
	case e.Sandbox != "" && (h.Endpoint.Sandbox != e.Sandbox || !h.Answered):
		h.Endpoint = e
		return chosen, c.driveJoin(ctx, d, h)
	case e.Sandbox != "":
		return chosen, c.driveRole(ctx, d, h)
	}
	return chosen, nil
}

// driveGateway tells the driver of an endpoint that was just converged about its role. The caller holds the endpoint.
func (c *Controller) driveGateway(ctx context.Context, n netdriver.Network, e endpoint.Info) error {
	d, err := c.driver(ctx, n.Driver)
	if err != nil {
		return err
	}
	_, err = c.drive(ctx, d, n, e)
	return err
}

// stepDown tells the driver of a member that is its sandbox's gateway no more, unless somebody is busy with it. Then, and when that fails, it
// is told in the background: converge saw to that.
func (c *Controller) stepDown(ctx context.Context, m *member) {
	if unlock, free := c.locks.try(endpointOwner(m.id)); free {
		defer unlock()
		if err := c.driveGateway(ctx, m.network, m.info); err != nil {
			c.log.Warn("the driver of a former gateway was not told", "endpoint", m.id, "error", err)
		}
	}
}

// told says that a member's driver knows its role.
func (m *member) told() bool {
	return m.driven.Gateway == m.gateway && (!m.gateway || !m.driven.Publishes || slices.Equal(m.driven.Endpoint.Ports, m.info.Ports))
}

// driveRole tells a driver whether the endpoint carries its sandbox's way out, as it was last converged.
func (c *Controller) driveRole(ctx context.Context, d netdriver.Driver, h netdriver.Held) error {
	m := member{driven: h}
	err := c.o.Run.View(ctx, func(tx datastore.Tx) (err error) {
		if m.held, _, err = maybe(heldTable().Get(tx, h.Owner)); err != nil {
			return err
		}
		m.info, _, err = maybe(endpointTable(h.Network.ID).Get(tx, string(h.Endpoint.ID)))
		return err
	})
	if m.gateway = m.held.Gateway && m.held.Sandbox == h.Endpoint.Sandbox; err != nil || m.told() {
		return err
	}
	done := c.calling(h)
	defer done()
	if h.Gateway {
		if err := c.driveRevoke(ctx, d, &h); err != nil {
			return err
		}
	}
	if !m.gateway {
		return nil
	}
	if h.Publishes {
		h.Endpoint.Ports = m.info.Ports
	}
	if err := tellGateway(ctx, d, true, h.Network, h.Endpoint); err != nil {
		return fmt.Errorf("driver %s: program external connectivity: %w", h.Driver, err)
	}
	h.Gateway = true
	return c.putDriven(ctx, h)
}

func (c *Controller) driveRevoke(ctx context.Context, d netdriver.Driver, h *netdriver.Held) error {
	if err := tellGateway(ctx, d, false, h.Network, h.Endpoint); err != nil {
		return fmt.Errorf("driver %s: revoke external connectivity: %w", h.Driver, err)
	}
	if !h.Gateway {
		return nil
	}
	h.Gateway, h.Endpoint.Ports = false, nil
	return c.putDriven(ctx, *h)
}

// calling marks what a driver is called about, for as long as the call lasts: the driver may call back.
func (c *Controller) calling(h netdriver.Held) (done func()) {
	return c.locks.calling(networkOwner(h.Network.ID), h.Owner)
}

func (c *Controller) drivenRecord(ctx context.Context, owner string) (h netdriver.Held, found bool, err error) {
	err = c.o.Root.View(ctx, func(tx datastore.Tx) (err error) {
		h, found, err = maybe(drivenTable().Get(tx, owner))
		return err
	})
	return h, found, err
}

func (c *Controller) putDriven(ctx context.Context, h netdriver.Held) error {
	return c.o.Root.Update(ctx, func(tx datastore.Tx) error { return drivenTable().Put(tx, h.Owner, h) })
}

// renounce gives up on what a driver that does not answer still holds for an owner.
func (c *Controller) renounce(ctx context.Context, owner string) error {
	return c.o.Root.Update(ctx, func(tx datastore.Tx) error { return drivenTable().Delete(tx, owner) })
}

// renounceNetwork gives up on what such a driver holds for a network and for endpoints that are gone already.
func (c *Controller) renounceNetwork(ctx context.Context, id endpoint.NetworkID) error {
	for h, err := range records(ctx, c.o.Root, drivenTable()) {
		if err == nil && h.Network.ID == id {
			err = c.renounce(ctx, h.Owner)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) driveCreate(ctx context.Context, d netdriver.Driver, h *netdriver.Held) (netdriver.Interface, error) {
	in, err := c.input(ctx, h.Network)
	if err != nil {
		return netdriver.Interface{}, err
	}
	if err := c.putDriven(ctx, *h); err != nil {
		return netdriver.Interface{}, err
	}
	done := c.calling(*h)
	defer done()
	chosen, err := d.CreateEndpoint(ctx, in, h.Endpoint)
	if err != nil {
		return chosen, fmt.Errorf("driver %s: create endpoint: %w", h.Driver, err)
	}
	h.Answered = true
	accept(&h.Endpoint, chosen)
	return chosen, c.putDriven(ctx, *h)
}

// unheard is what a driver chose that a crash kept from the endpoint's own record.
func unheard(h netdriver.Held, e endpoint.Info) (chosen netdriver.Interface) {
	if e.MAC == nil {
		chosen.MAC = h.Endpoint.MAC
	}
	if len(e.Addresses) == 0 {
		chosen.Addresses = h.Endpoint.Addresses
	}
	return chosen
}

func (c *Controller) driveJoin(ctx context.Context, d netdriver.Driver, h netdriver.Held) error {
	in, err := c.input(ctx, h.Network)
	if err != nil {
		return err
	}
	h.Plan, h.Answered, h.Gateway, h.Endpoint.Ports = netdriver.Plan{}, false, false, nil
	if err := c.putDriven(ctx, h); err != nil {
		return err
	}
	done := c.calling(h)
	defer done()
	if h.Publishes, err = publishes(ctx, d); err != nil {
		return fmt.Errorf("driver %s: %w", h.Driver, err)
	}
	if h.Plan, err = d.Join(ctx, in, h.Endpoint); err != nil {
		return fmt.Errorf("driver %s: join: %w", h.Driver, err)
	}
	if err := c.isNew(ctx, h); err != nil {
		return fmt.Errorf("driver %s: join: reply refused: %w", h.Driver, err)
	}
	h.Answered = true
	return c.putDriven(ctx, h)
}

// linksBefore are the host's links before a driver is called about an endpoint.
func (c *Controller) linksBefore(ctx context.Context) ([]int, error) {
	links, err := c.linksNow(ctx)
	return slices.Sorted(maps.Values(links)), err
}

// isNew refuses a link that was there before its driver was called about the endpoint: it is somebody else's, the host's uplink perhaps.
func (c *Controller) isNew(ctx context.Context, h netdriver.Held) error {
	if h.Plan.Attachment == nil || h.Plan.Attachment.Link.Arrives == "" {
		return nil
	}
	name := h.Plan.Attachment.Link.Arrives
	links, err := c.linksNow(ctx)
	if err != nil {
		return err
	}
	if index, there := links[name]; there && slices.Contains(h.Before, index) {
		return fmt.Errorf("link %s: %w: it was there before the endpoint and is not its", name, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (c *Controller) driveLeave(ctx context.Context, d netdriver.Driver, h netdriver.Held) error {
	done := c.calling(h)
	defer done()
	if err := c.driveRevoke(ctx, d, &h); err != nil { // whether it was told is not sure after a crash; not told, it says yes
		return err
	}
	if err := d.Leave(ctx, h.Network, h.Endpoint); err != nil {
		return fmt.Errorf("driver %s: leave: %w", h.Driver, err)
	}
	h.Endpoint.Sandbox, h.Plan = "", netdriver.Plan{}
	return c.putDriven(ctx, h)
}

// undrive undoes what is held with what Held itself says: the records that caused it may be gone.
func (c *Controller) undrive(ctx context.Context, d netdriver.Driver, h netdriver.Held) error {
	if h.Owner == "" {
		return nil
	}
	done := c.calling(h)
	defer done()
	var left error
	if h.Endpoint.Sandbox != "" {
		left = errors.Join(c.driveRevoke(ctx, d, &h), d.Leave(ctx, h.Network, h.Endpoint))
	}
	if err := errors.Join(left, d.DeleteEndpoint(ctx, h.Network, h.Endpoint)); err != nil {
		return fmt.Errorf("driver %s: delete endpoint: %w", h.Driver, err)
	}
	return c.renounce(ctx, h.Owner)
}
