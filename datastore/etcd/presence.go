package etcd

import (
	"context"
	"fmt"
	"time"

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

// hold has the key go with the lease, and keeps the lease.
func (s *Store) hold(ctx context.Context, key string, value []byte, lease clientv3.LeaseID) (<-chan *clientv3.LeaseKeepAliveResponse, error) {
	dir, _ := datastore.Split(key)
	put := clientv3.OpPut(s.layout.Key(key), string(value), clientv3.WithLease(lease))
	if _, err := s.txn(ctx, nil, []clientv3.Op{put, s.move(dir)}); err != nil {
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
