package consul

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/consul/api"

	"github.com/sealane/sealane/datastore"
)

// ttl is the shortest that Consul takes. It ends a session between one and two of them after it was renewed last.
const ttl = 10 * time.Second

// Announce implements datastore.Presence with a session of Consul's.
func (s *Store) Announce(ctx context.Context, key string, value []byte) (<-chan struct{}, error) {
	foot := datastore.Footprint{}
	if err := foot.Write(key, present(value)); err != nil {
		return nil, err
	}
	if err := s.Ended(); err != nil {
		return nil, fmt.Errorf("announce %s: %w", key, err)
	}
	// A session too many, made when an answer was lost, ends by itself.
	session, err := read(ctx, s, func(ctx context.Context, c *api.Client) (id string, err error) {
		// Without a delay, or the next who holds the key would have to wait.
		entry := &api.SessionEntry{Name: "sealane", Behavior: api.SessionBehaviorDelete, TTL: ttl.String(), LockDelay: time.Nanosecond}
		id, _, err = c.Session().CreateNoChecks(entry, (&api.WriteOptions{}).WithContext(ctx))
		return id, err
	})
	if err == nil {
		err = s.hold(ctx, key, value, session)
	}
	if err != nil {
		return nil, fmt.Errorf("announce %s: %w", key, err)
	}
	lost := make(chan struct{})
	go s.renew(ctx, session, lost)
	return lost, nil
}

// hold has the key go with the session. What another session held with the same value is taken from it: it was ours, of an earlier run.
func (s *Store) hold(ctx context.Context, key string, value []byte, session string) error {
	dir, _ := datastore.Split(key)
	at := s.layout.Key(key)
	f, err := s.get(ctx, at, &api.QueryOptions{RequireConsistent: true})
	pair, o := f.pair, outcome{}
	switch {
	case err != nil:
	case pair == nil:
		o, err = s.txn(ctx, api.TxnOps{
			{KV: &api.KVTxnOp{Verb: api.KVCheckNotExists, Key: at}},
			{KV: &api.KVTxnOp{Verb: api.KVLock, Key: at, Value: value, Session: session}},
			s.move(dir, next(dir, nil, nil)),
		}, 1)
	case pair.Session != "" && !bytes.Equal(pair.Value, value):
		err = fmt.Errorf("%w: %s is there", errdefs.ErrAlreadyExists, pair.Value)
	default:
		o, err = s.txn(ctx, api.TxnOps{
			{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: at, Index: pair.ModifyIndex}},
			{KV: &api.KVTxnOp{Verb: api.KVDelete, Key: at}},
			{KV: &api.KVTxnOp{Verb: api.KVLock, Key: at, Value: value, Session: session}},
			s.move(dir, next(dir, nil, nil)),
		}, 1)
	}
	if err == nil && !o.ok {
		err = fmt.Errorf("%w: somebody announced it at this moment", errdefs.ErrAborted)
	}
	if err != nil {
		s.destroy(session)
	}
	return err
}

// renew keeps a session until ctx or the store ends; then it ends the session. lost is closed when Consul must be thought to have done so.
func (s *Store) renew(ctx context.Context, session string, lost chan struct{}) {
	defer s.destroy(session)
	defer close(lost)
	tick := time.NewTicker(ttl / 4)
	defer tick.Stop()
	for last := time.Now(); time.Since(last) < ttl; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		case <-s.closed:
			return
		}
		asked := time.Now()
		entry, err := read(ctx, s, func(ctx context.Context, c *api.Client) (*api.SessionEntry, error) {
			entry, _, err := c.Session().Renew(session, (&api.WriteOptions{}).WithContext(ctx))
			return entry, err
		})
		switch {
		case err != nil:
		case entry == nil:
			return
		default:
			last = asked
		}
	}
}

// destroy ends a session at once; one that Consul does not hear of ends by itself.
func (s *Store) destroy(session string) {
	_, _ = read(context.Background(), s, func(ctx context.Context, c *api.Client) (*api.WriteMeta, error) {
		return c.Session().Destroy(session, (&api.WriteOptions{}).WithContext(ctx))
	})
}
