package storetest

import (
	"context"
	"fmt"
	"time"

	"github.com/sealane/sealane/datastore"
)

// Echo is a key that one client of a store writes and another watches: what a store itself takes to tell of a change. It is used by one
// goroutine.
type Echo struct {
	store datastore.Store
	heard chan string
	count int
}

// NewEcho watches until ctx ends.
func NewEcho(ctx context.Context, writer, watcher datastore.Store) (*Echo, error) {
	e := &Echo{store: writer, heard: make(chan string, 16)}
	go func() {
		defer close(e.heard)
		for batch, err := range watcher.Watch(ctx, "echo") {
			if err == nil {
				e.heard <- string(batch.Put["key"])
			}
		}
	}()
	if _, ok := <-e.heard; !ok { // what is there at first
		return nil, context.Cause(ctx)
	}
	return e, nil
}

// Took is how long the next write takes to be told of.
func (e *Echo) Took(ctx context.Context) (time.Duration, error) {
	e.count++
	value := fmt.Sprint(e.count)
	begin := time.Now()
	if err := e.store.Update(ctx, func(tx datastore.Tx) error { return tx.Put("echo/key", []byte(value)) }); err != nil {
		return 0, err
	}
	for heard := range e.heard {
		if heard == value {
			return time.Since(begin), nil
		}
	}
	return 0, context.Cause(ctx)
}
