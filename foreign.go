package sealane

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// Attachment is what a joined endpoint brings into its sandbox: what a front end that moves the link itself (sandbox.Origin.Foreign) must
// know. Link.Arrives is the name under which the link waits in the host's namespace. FailedPrecondition while it is joined nowhere.
func (c *Controller) Attachment(ctx context.Context, id endpoint.ID) (sandbox.Attachment, error) {
	h, err := view(ctx, c.o.Run, func(tx datastore.Tx) (netdriver.Held, error) {
		h, _, err := maybe(heldTable().Get(tx, endpointOwner(id)))
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
