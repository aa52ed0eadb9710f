package sealane_test

import (
	"context"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealane/sealane/datastore"
)

// unruly is a store whose watches do the worst that the contract of Watch lets them: what changed is not told, told twice, or told after
// what came later, and after such a gap, some time later, the whole directory is.
type unruly struct {
	datastore.Store
	datastore.Presence
	lost, doubled, reordered, full atomic.Int64
}

type told struct {
	datastore.Batch
	err error
}

func (u *unruly) Watch(ctx context.Context, dir string) iter.Seq2[datastore.Batch, error] {
	return func(yield func(datastore.Batch, error) bool) {
		for ctx.Err() == nil {
			if !u.watchUntilGap(ctx, dir, yield) {
				return
			}
			u.full.Add(1)
		}
	}
}

// watchUntilGap is true when the watch must begin anew.
func (u *unruly) watchUntilGap(ctx context.Context, dir string, yield func(datastore.Batch, error) bool) bool {
	ctx, cancel := context.WithCancel(ctx)
	all := make(chan told)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer close(all)
		for b, err := range u.Store.Watch(ctx, dir) {
			select {
			case all <- told{b, err}:
			case <-ctx.Done():
				return
			}
		}
	})
	var gap <-chan time.Time // when the whole directory is due
	var late *datastore.Batch
	for {
		select {
		case <-gap:
			return true
		case now, more := <-all:
			if !more {
				return false
			}
			deliver := []datastore.Batch{now.Batch}
			switch dice := rand.IntN(4); {
			case now.err != nil || now.Full:
			case late != nil:
				u.reordered.Add(1)
				deliver, late = append(deliver, *late), nil
			case dice == 0:
				u.lost.Add(1)
				deliver = nil
			case dice == 1:
				u.doubled.Add(1)
				deliver = append(deliver, now.Batch)
			case dice == 2:
				deliver, late = nil, &now.Batch
			}
			if gap == nil && (len(deliver) == 0 || len(deliver) == 2) {
				gap = time.After(rand.N(50 * time.Millisecond))
			}
			for _, b := range deliver {
				if !yield(b, now.err) {
					return false
				}
			}
		}
	}
}
