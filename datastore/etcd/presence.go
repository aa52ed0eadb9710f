package etcd

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sealane/sealane/datastore"
)

// ttl is how long after the last renewal a lease ends.
const ttl = 10 * time.Second

// Announce implements datastore.Presence with a lease.
func (s *Store) Announce(ctx context.Context, key string, value []byte) (<-chan struct{}, error) {
	foot := datastore.Footprint{}
	if err := foot.Write(key, present(value)); err != nil {
		return nil, err
	}
	if err := s.Ended(); err != nil {
		return nil, fmt.Errorf("announce %s: %w", key, err)
	}
	var lease clientv3.LeaseID
	err := s.request(ctx, s.options.Timeout, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Grant(ctx, int64(ttl/time.Second))
		if err == nil {
			lease = resp.ID
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("announce %s: %w", key, err)
	}
	renewing, cancel := context.WithCancel(ctx)
	renewals, err := s.hold(renewing, key, value, lease)
	if err != nil {
		cancel()
		s.revoke(lease)
		return nil, fmt.Errorf("announce %s: %w", key, err)
	}
	lost := make(chan struct{})
	go func() {
		defer s.revoke(lease)
		defer close(lost)
		defer cancel()
		for {
			select {
			case _, ok := <-renewals: // the client closes it when the lease must be thought to have ended
				if !ok {
					return
				}
			case <-s.closed:
				return
			}
		}
	}()
	return lost, nil
}

// hold has the key go with the lease, and keeps the lease. What another lease holds with the same value is taken from it: it was ours, of
// an earlier run.
func (s *Store) hold(ctx context.Context, key string, value []byte, lease clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	dir, _ := datastore.Split(key)
	at := s.layout.Key(key)
	held, err := s.get(ctx, at)
	if err != nil {
		return nil, err
	}
	was := int64(0)
	for _, kv := range held.Kvs {
		if was = kv.ModRevision; kv.Lease != 0 && !bytes.Equal(kv.Value, value) {
			return nil, fmt.Errorf("%w: %s is there", errdefs.ErrAlreadyExists, kv.Value)
		}
	}
	ok, err := s.txn(ctx, []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(at), "=", was)},
		[]clientv3.Op{clientv3.OpPut(at, string(value), clientv3.WithLease(lease)), s.move(dir)})
	if err == nil && !ok {
		err = fmt.Errorf("%w: somebody announced it at this moment", errdefs.ErrAborted)
	}
	if err != nil {
		return nil, err
	}
	client, err := s.connect(ctx)
	if err != nil {
		return nil, s.explain(err)
	}
	renewals, err := client.KeepAlive(ctx, lease)
	if err != nil {
		return nil, s.explain(err)
	}
	return renewals, nil
}

// revoke ends a lease at once; one that etcd does not hear of ends by itself.
func (s *Store) revoke(lease clientv3.LeaseID) {
	_ = s.request(context.Background(), s.options.Timeout, func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Revoke(ctx, lease)
		return err
	})
}
