package etcd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/sealane/sealane/datastore"
)

// look is how often a quiet watch asks whether there is still somebody at the other end, and the one it knows.
const look = 10 * time.Second

// follower is a datastore.Follower: a range read at a revision and the events after it.
type follower struct {
	store *Store
	dir   string

	revision int64 // up to which we know
	events   clientv3.WatchChan
	broken   chan struct{} // closed when the connection changes that events come over
	cancel   context.CancelFunc
}

func (f *follower) Full(ctx context.Context) (map[string][]byte, error) {
	if f.cancel != nil {
		f.cancel()
	}
	prefix := f.store.layout.Generation(f.dir)
	resp, err := f.store.get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	full := make(map[string][]byte, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		if name := strings.TrimPrefix(string(kv.Key), prefix); name != "" {
			full[name] = present(kv.Value)
		}
	}
	client, err := f.store.connect(ctx)
	if err != nil {
		return nil, err
	}
	if resp.Header.Revision < f.revision {
		f.store.Forget()
	}
	f.revision = resp.Header.Revision
	watching, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	f.cancel = cancel
	f.broken = make(chan struct{})
	go hang(watching, client.ActiveConnection(), f.broken)
	// From just after the generation, which is of interest to transactions only.
	f.events = client.Watch(watching, prefix+"\x00", clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithRev(f.revision+1))
	return full, nil
}

func (f *follower) Next(ctx context.Context) (datastore.Batch, error) {
	quiet := time.NewTimer(look)
	defer quiet.Stop()
	select {
	case resp, ok := <-f.events:
		if !ok {
			return datastore.Batch{}, fmt.Errorf("%s: %w: the watch ended", f.store, errdefs.ErrUnavailable)
		}
		if err := resp.Err(); err != nil {
			return datastore.Batch{}, f.store.explain(err)
		}
		select {
		case <-f.broken: // the event may have come over the next connection
			return datastore.Batch{}, datastore.ErrOutdated
		default:
			return f.batch(resp), nil
		}
	case <-f.broken:
		return datastore.Batch{}, datastore.ErrOutdated
	case <-quiet.C:
		return datastore.Batch{}, f.alive(ctx)
	case <-ctx.Done():
		return datastore.Batch{}, ctx.Err()
	}
}

func (f *follower) batch(resp clientv3.WatchResponse) datastore.Batch {
	f.revision = max(f.revision, resp.Header.Revision)
	prefix := f.store.layout.Generation(f.dir)
	last := map[string][]byte{}
	for _, e := range resp.Events {
		name := strings.TrimPrefix(string(e.Kv.Key), prefix)
		if last[name] = nil; e.Type == clientv3.EventTypePut {
			last[name] = present(e.Kv.Value)
		}
	}
	b := datastore.Batch{Put: map[string][]byte{}}
	for name, value := range last {
		if value == nil {
			b.Delete = append(b.Delete, name)
		} else {
			b.Put[name] = value
		}
	}
	return b
}

// hang closes broken when the connection is lost. The client would take the watch up again where it was, at a server that was restored from
// a backup as well, whose revisions mean something else.
func hang(ctx context.Context, conn *grpc.ClientConn, broken chan struct{}) {
	if conn.WaitForStateChange(ctx, connectivity.Ready) {
		close(broken)
	}
}

// alive looks whether the store is there, which the client does not tell a watch, and whether it is the one that we know: a server
// restored from a backup would let us wait for revisions that it has yet to come to.
func (f *follower) alive(ctx context.Context) error {
	resp, err := f.store.get(ctx, f.store.layout.Generation(f.dir), clientv3.WithKeysOnly())
	if err != nil {
		return err
	}
	if resp.Header.Revision < f.revision {
		return datastore.ErrOutdated
	}
	return nil
}
