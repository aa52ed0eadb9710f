package consul

import (
	"context"
	"slices"

	"github.com/hashicorp/consul/api"

	"github.com/sealane/sealane/datastore"
)

// maxOps is how many operations Consul takes in one transaction (1.8; more later). An Update of datastore.MaxKeys needs 60 at most.
const maxOps = 64

// attempt is a datastore.Attempt. Consul has no snapshots: what was read is checked, in the end, at one moment.
type attempt struct {
	store    *Store
	readOnly bool
}

func (a *attempt) Get(ctx context.Context, key string) ([]byte, uint64, error) {
	f, err := a.store.get(ctx, a.store.layout.Key(key), &api.QueryOptions{RequireConsistent: a.readOnly})
	if err != nil || f.pair == nil {
		return nil, 0, err
	}
	return present(f.pair.Value), f.pair.ModifyIndex, nil
}

func (a *attempt) List(ctx context.Context, dir string) ([]datastore.Entry, uint64, error) {
	d, err := a.store.directory(ctx, dir, &api.QueryOptions{RequireConsistent: a.readOnly})
	if err != nil {
		return nil, 0, err
	}
	return d.entries, d.generation.index, nil
}

// Valid asks for nothing when there was one read, which was a moment by itself, and found something: where nothing is found Consul may
// have hidden it, and tells the check that it may not look.
func (a *attempt) Valid(ctx context.Context, reads []datastore.Read) (bool, error) {
	if len(reads) == 0 || a.readOnly && len(reads) == 1 && reads[0].Version != 0 {
		return true, nil
	}
	checks := a.checks(reads)
	if len(checks) <= maxOps {
		return a.store.check(ctx, checks)
	}
	// Several checks hold at one moment if nothing at all was changed from before the first until after the last.
	before, err := a.store.index(ctx)
	if err != nil {
		return false, err
	}
	for part := range slices.Chunk(checks, maxOps) {
		if ok, err := a.store.check(ctx, part); !ok || err != nil {
			return false, err
		}
	}
	after, err := a.store.index(ctx)
	return before == after, err
}

// Commit has watches told what changes in directories that this store follows, unless another host writes there at the same time.
func (a *attempt) Commit(ctx context.Context, reads []datastore.Read, changes datastore.Changes) (bool, error) {
	after := a.store.followed.after(changes)
	checks := a.checks(reads)
	if len(checks)+len(after)+len(changes.Writes)+len(changes.Touched)+len(changes.Emptied) > maxOps {
		after = nil
	}
	failed, err := a.commit(ctx, checks, changes, after)
	if err == nil && failed >= len(checks) {
		failed, err = a.commit(ctx, checks, changes, nil)
	}
	return err == nil && failed == none, err
}

// commit makes all changes, each directory's right after the generation that is given for it, or says which check failed.
func (a *attempt) commit(ctx context.Context, checks api.TxnOps, changes datastore.Changes, after map[string]*point) (failed int, err error) {
	s, ops := a.store, slices.Clone(checks)
	for dir, p := range after {
		ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVCheckIndex, Key: s.layout.Generation(dir), Index: p.index}})
	}
	all := len(ops)
	for _, w := range changes.Writes {
		op := &api.KVTxnOp{Verb: api.KVSet, Key: s.layout.Key(w.Key), Value: w.Value}
		if w.Value == nil {
			op.Verb = api.KVDelete
		}
		ops = append(ops, &api.TxnOp{KV: op})
	}
	moved := map[string]generation{}
	for _, dir := range changes.Touched {
		if !slices.Contains(changes.Emptied, dir) {
			moved[dir] = next(dir, changes.Writes, after[dir])
			ops = append(ops, s.move(dir, moved[dir]))
		}
	}
	for _, dir := range changes.Emptied {
		ops = append(ops, &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVDelete, Key: s.layout.Generation(dir)}})
	}
	o, err := s.txn(ctx, ops, all)
	for dir, g := range moved {
		s.followed.wrote(dir, point{g.Is, o.index()})
	}
	return o.failed(), err
}

// checks are the operations that fail when a read is not so any more.
func (a *attempt) checks(reads []datastore.Read) api.TxnOps {
	var ops api.TxnOps
	for _, r := range reads {
		op := &api.KVTxnOp{Verb: api.KVCheckIndex, Key: a.store.layout.Key(r.Name), Index: r.Version}
		if r.Dir {
			op.Key = a.store.layout.Generation(r.Name)
		}
		if r.Version == 0 {
			op.Verb = api.KVCheckNotExists
		}
		ops = append(ops, &api.TxnOp{KV: op})
	}
	return ops
}

// present is a value that is there; JSON gives an empty one as nil.
func present(value []byte) []byte {
	if value == nil {
		return []byte{}
	}
	return value
}
