package sealane

import (
	"context"
	"time"
)

// Idle waits until nothing is being mended or given back in the background; false when ctx ends first.
func (c *Controller) Idle(ctx context.Context) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		c.mender.mu.Lock()
		busy := c.mender.working || len(c.mender.due) > 0 || len(c.mender.apart) > 0
		c.mender.mu.Unlock()
		if waiting, _ := c.withdrawn.wait(ctx); !busy && !waiting {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}
