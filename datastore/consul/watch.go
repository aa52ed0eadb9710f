package consul

import (
	"bytes"
	"context"
	"maps"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/sealane/sealane/datastore"
)

const (
	// idle is how many timeouts a request waits at the server, and so how late a server is noticed that was cut off with us.
	idle = 2
	// heed is how long a request waits that brings the directory when it ends, and so is to end seldom.
	heed = time.Minute
	// calm follows a request that ended for nothing. Consul ends those for a key that is absent at any write near it.
	calm = 50 * time.Millisecond
)

// follower is a datastore.Follower. It waits for the generation, of which every transaction makes a new one: that costs nothing while
// nothing happens, in directories large and small. Then it reads the directory, unless the generation tells by itself what is different.
//
// It waits at the server that is asked, and reads from the leader, which must still be it. Waiting at the leader, to which the server would
// hand the request on, nobody would be told for as long as the request lasts when that leader is cut off and another elected. Indexes are
// those of all servers, so it goes on where it was when another one is asked: one that lags waits until it is there.
type follower struct {
	store *Store
	dir   string

	known    map[string][]byte
	sessions bool
	seen     point  // generation of known
	index    uint64 // that the server answered with last
}

func (f *follower) Full(ctx context.Context) (map[string][]byte, error) {
	// The generation first: Consul refuses a key that may not be read, but leaves it out of a directory.
	generation, err := f.store.get(ctx, f.store.layout.Generation(f.dir), &api.QueryOptions{RequireConsistent: true})
	if err != nil {
		return nil, err
	}
	f.store.followed.at(f.dir, point{}) // what was known may be of another history
	if generation.meta.LastIndex < f.index {
		f.store.Forget()
	}
	f.index = generation.meta.LastIndex
	if err := f.read(ctx); err != nil {
		return nil, err
	}
	return maps.Clone(f.known), nil
}

func (f *follower) Next(ctx context.Context) (datastore.Batch, error) {
	moved, now, err := f.wait(ctx)
	if err != nil || !moved {
		return datastore.Batch{}, err
	}
	if now != nil {
		if g := parseGeneration(now.Value); g.After != "" && g.After == f.seen.is {
			return f.apply(g, now.ModifyIndex), nil
		}
	}
	before := f.known
	if err := f.read(ctx); err != nil {
		return datastore.Batch{}, err
	}
	return difference(before, f.known), nil
}

func (f *follower) read(ctx context.Context) error {
	d, err := f.store.directory(ctx, f.dir, &api.QueryOptions{RequireConsistent: true})
	if err != nil {
		return err
	}
	f.store.followed.at(f.dir, d.generation)
	f.known, f.seen, f.sessions = make(map[string][]byte, len(d.entries)), d.generation, d.sessions
	for _, e := range d.entries {
		f.known[e.Name] = e.Value
	}
	return nil
}

// apply takes over what a generation says that comes right after the one that is known.
func (f *follower) apply(g generation, index uint64) datastore.Batch {
	b := datastore.Batch{Put: map[string][]byte{}}
	for name, value := range g.Put {
		value = present(value)
		if old, ok := f.known[name]; !ok || !bytes.Equal(old, value) {
			b.Put[name] = bytes.Clone(value)
		}
		f.known[name] = value
	}
	for _, name := range g.Delete {
		if _, ok := f.known[name]; ok {
			b.Delete = append(b.Delete, name)
		}
		delete(f.known, name)
	}
	f.seen = point{g.Is, index}
	f.store.followed.at(f.dir, f.seen)
	return b
}

// wait returns when the directory may have changed, with its generation if there is one, and not moved when nothing happened for a while.
func (f *follower) wait(ctx context.Context) (moved bool, pair *api.KVPair, err error) {
	if f.sessions {
		moved, err = f.heed(ctx)
		return moved, nil, err
	}
	from := max(f.index, f.seen.index, 1)
	meta, err := f.store.linger(ctx, &api.QueryOptions{WaitIndex: from, WaitTime: idle * f.store.timeout, AllowStale: true},
		func(c *api.Client, q *api.QueryOptions) (meta *api.QueryMeta, err error) {
			pair, meta, err = c.KV().Get(f.store.layout.Generation(f.dir), q)
			return meta, err
		})
	if err != nil || meta == nil {
		return false, nil, err
	}
	if meta.LastIndex < f.index { // the server was restored: https://developer.hashicorp.com/consul/api-docs/features/blocking
		return false, nil, datastore.ErrOutdated
	}
	f.index = meta.LastIndex
	if pair != nil && pair.ModifyIndex != f.seen.index || pair == nil && f.seen.index != 0 {
		return true, pair, nil
	}
	if meta.LastIndex > from {
		rest(ctx, calm)
	}
	return false, nil, nil
}

// heed is wait for a directory with records that end with a session, which moves no generation.
func (f *follower) heed(ctx context.Context) (moved bool, err error) {
	meta, err := f.store.linger(ctx, &api.QueryOptions{WaitIndex: max(f.index, 1), WaitTime: heed, AllowStale: true},
		func(c *api.Client, q *api.QueryOptions) (meta *api.QueryMeta, err error) {
			_, meta, err = c.KV().Keys(f.store.layout.Generation(f.dir), "", q)
			return meta, err
		})
	if err != nil || meta == nil {
		return false, err
	}
	before := f.index
	if f.index = meta.LastIndex; f.index < before {
		return false, datastore.ErrOutdated
	}
	return f.index > before, nil
}

func difference(before, after map[string][]byte) datastore.Batch {
	b := datastore.Batch{Put: map[string][]byte{}}
	for name, value := range after {
		if old, ok := before[name]; !ok || !bytes.Equal(old, value) {
			b.Put[name] = bytes.Clone(value)
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			b.Delete = append(b.Delete, name)
		}
	}
	return b
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
