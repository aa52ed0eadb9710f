package datastore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
)

// A Follower reads what happens in one directory of a store with other writers. It is used by one goroutine.
type Follower interface {
	// Full reads the directory, from where Next goes on.
	Full(ctx context.Context) (map[string][]byte, error)

	// Next waits for what changes after what was told last. It returns an empty Batch when nothing does for a while, and an error after
	// which Full must be called again: the store is away, or what happened meanwhile cannot be known.
	Next(ctx context.Context) (Batch, error)
}

const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = time.Second
)

// Follow is Store.Watch made of a Follower: it begins anew, fully, after every error, with pauses that grow to a second. The first error of
// a row is yielded, but for ErrOutdated. closed ends it with FailedPrecondition.
func Follow(ctx context.Context, closed <-chan struct{}, dir string, f Follower) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		if err := (&Footprint{ReadOnly: true}).List(dir); err != nil {
			yield(Batch{}, fmt.Errorf("watch %s: %w", dir, err))
			return
		}
		bound, cancel := bind(ctx, closed)
		defer cancel()
		var b Batch
		err := error(ErrOutdated)
		told := false
		for failures := 0; ; {
			if err != nil {
				b, err = full(bound, f)
			} else {
				b, err = f.Next(bound)
			}
			switch {
			case ctx.Err() != nil:
				return
			case over(closed):
				yield(Batch{}, fmt.Errorf("watch %s: %w: the store is closed", dir, errdefs.ErrFailedPrecondition))
				return
			case err == nil:
				failures, told = 0, false
				if (b.Full || len(b.Put)+len(b.Delete) > 0) && !yield(b, nil) {
					return
				}
			default:
				if !told && !errors.Is(err, ErrOutdated) {
					if told = true; !yield(Batch{}, fmt.Errorf("watch %s: %w", dir, err)) {
						return
					}
				}
				rest(bound, failures)
				failures++
			}
		}
	}
}

func full(ctx context.Context, f Follower) (Batch, error) {
	put, err := f.Full(ctx)
	return Batch{Full: true, Put: put}, err
}

// rest waits before the next try, less long than the one after it, and not in step with other hosts.
func rest(ctx context.Context, failures int) {
	longest := min(firstRetry<<min(failures, 10), lastRetry)
	t := time.NewTimer(longest/2 + rand.N(longest/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
