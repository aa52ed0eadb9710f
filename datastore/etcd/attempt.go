package etcd

import (
	"context"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/sealane/sealane/datastore"
)

// attempt is a datastore.Attempt. All its reads are of the revision that the first one found.
type attempt struct {
	store    *Store
	revision int64 // 0: nothing was read yet
}

func (a *attempt) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	resp, err := a.read(ctx, a.store.layout.Key(key))
	if err != nil || len(resp.Kvs) == 0 {
		return nil, 0, err
	}
	return present(resp.Kvs[0].Value), uint64(resp.Kvs[0].ModRevision), nil
}

func (a *attempt) List(ctx context.Context, dir string) (entries []datastore.Entry, generation uint64, err error) {
	prefix := a.store.layout.Generation(dir)
	resp, err := a.read(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, err
	}
	for _, kv := range resp.Kvs {
		name := strings.TrimPrefix(string(kv.Key), prefix)
		if name == "" {
			generation = uint64(kv.ModRevision)
			continue
		}
		entries = append(entries, datastore.Entry{Name: name, Value: present(kv.Value)})
	}
	return entries, generation, nil
}

func (a *attempt) read(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	resp, err := a.store.get(ctx, key, append(options, clientv3.WithRev(a.revision))...)
	if err == nil && a.revision == 0 {
		a.revision = resp.Header.Revision
	}
	return resp, err
}

// Valid is so: all reads are of one revision, which was the last one when the first read asked.
func (a *attempt) Valid(context.Context, []datastore.Read) (bool, error) { return true, nil }

func (a *attempt) Commit(ctx context.Context, reads []datastore.Read, changes datastore.Changes) (bool, error) {
	layout := a.store.layout
	var checks []clientv3.Cmp
	for _, r := range reads {
		key := layout.Key(r.Name)
		if r.Dir {
			key = layout.Generation(r.Name)
		}
		checks = append(checks, clientv3.Compare(clientv3.ModRevision(key), "=", int64(r.Version)))
	}
	var ops []clientv3.Op
	for _, w := range changes.Writes {
		if w.Value == nil {
			ops = append(ops, clientv3.OpDelete(layout.Key(w.Key)))
		} else {
			ops = append(ops, clientv3.OpPut(layout.Key(w.Key), string(w.Value)))
		}
	}
	for _, dir := range changes.Touched {
		if !slices.Contains(changes.Emptied, dir) {
			ops = append(ops, a.store.move(dir))
		}
	}
	for _, dir := range changes.Emptied {
		ops = append(ops, clientv3.OpDelete(layout.Generation(dir)))
	}
	return a.store.txn(ctx, checks, ops)
}

// move gives a directory a new generation.
func (s *Store) move(dir string) clientv3.Op {
	return clientv3.OpPut(s.layout.Generation(dir), string(datastore.NewGeneration()))
}

// present is a value that is there; an empty one comes as nil.
func present(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}
