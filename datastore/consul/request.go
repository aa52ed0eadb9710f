package consul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/consul/api"

	"github.com/sealane/sealane/datastore"
)

// directory is what one request tells of a directory.
type directory struct {
	entries    []datastore.Entry
	generation uint64 // 0: nothing was ever written in it, or nobody forgot to empty it
	sessions   bool   // a record goes when a session ends, and no transaction says so
}

func (s *Store) get(ctx context.Context, key string, q *api.QueryOptions) (pair *api.KVPair, meta *api.QueryMeta, err error) {
	err = s.request(ctx, q.WaitTime, func(ctx context.Context) error {
		pair, meta, err = s.client.KV().Get(key, q.WithContext(ctx))
		return err
	})
	return pair, meta, err
}

// directory reads the generation and the records below it in one request, so of one moment.
func (s *Store) directory(ctx context.Context, dir string, q *api.QueryOptions) (d directory, err error) {
	prefix := s.layout.Generation(dir)
	var pairs api.KVPairs
	if err = s.request(ctx, 0, func(ctx context.Context) error {
		pairs, _, err = s.client.KV().List(prefix, q.WithContext(ctx))
		return err
	}); err != nil {
		return d, err
	}
	for _, p := range pairs {
		name := strings.TrimPrefix(p.Key, prefix)
		if name == "" {
			d.generation = p.ModifyIndex
			continue
		}
		d.sessions = d.sessions || p.Session != ""
		d.entries = append(d.entries, datastore.Entry{Name: name, Value: present(p.Value)})
	}
	return d, nil
}

// index moves when anything below the prefix is written or deleted.
func (s *Store) index(ctx context.Context) (index uint64, err error) {
	err = s.request(ctx, 0, func(ctx context.Context) error {
		q := &api.QueryOptions{RequireConsistent: true}
		_, meta, err := s.client.KV().Keys(s.layout.Root(), "/", q.WithContext(ctx))
		if err == nil {
			index = meta.LastIndex
		}
		return err
	})
	return index, err
}

// led says of an answer that any server may give whether it is of one that has a leader.
func (s *Store) led(meta *api.QueryMeta) error {
	if meta.KnownLeader {
		return nil
	}
	return fmt.Errorf("consul at %s: %w: it knows no leader%s", s.address, errdefs.ErrUnavailable, leaderless)
}

// txn runs operations of which the first are checks. It is not ok when a check failed.
func (s *Store) txn(ctx context.Context, ops api.TxnOps, checks int) (ok bool, err error) {
	writes := len(ops) > checks
	sent := false
	var resp *api.TxnResponse
	err = s.request(ctx, 0, func(ctx context.Context) error {
		q := &api.QueryOptions{RequireConsistent: !writes}
		ok, resp, _, err = s.client.Txn().Txn(ops, q.WithContext(ctx))
		sent = err != nil && !refused(err)
		return err
	})
	if err != nil {
		if writes && sent {
			err = &datastore.Uncertain{Err: err}
		}
		return false, err
	}
	if ok {
		return true, nil
	}
	for _, e := range resp.Errors { // in the order of ops, all of which Consul tries: a check that failed explains what follows
		if strings.Contains(e.What, denied) {
			return false, s.explain(errors.New(e.What))
		}
	}
	if len(resp.Errors) > 0 && resp.Errors[0].OpIndex >= checks {
		return false, s.explain(errors.New(resp.Errors[0].What))
	}
	return false, nil
}

const (
	denied   = "ermission denied"
	leader   = "No cluster leader"
	unknown  = "ACL not found"
	overlong = "too large"
)

const leaderless = ": most of its servers are down or cut off"

// refused says of an error whether what was asked for was certainly not done.
func refused(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	for _, text := range []string{denied, leader, unknown, overlong} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// request bounds one request; one that waits at the server may take that much longer.
func (s *Store) request(ctx context.Context, wait time.Duration, do func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, s.timeout+wait+wait/16)
	defer cancel()
	err := do(bounded)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("consul at %s: %w: no answer yet: %w", s.address, errdefs.ErrAborted, ctx.Err())
	case bounded.Err() != nil:
		return fmt.Errorf("consul at %s: %w: no answer in %v: is it cut off from the other servers?", s.address, errdefs.ErrUnavailable, s.timeout)
	}
	return s.explain(err)
}

// explain gives an error its kind and says what to do.
func (s *Store) explain(err error) error {
	kind, advice := error(errdefs.ErrUnavailable), ""
	switch text := err.Error(); {
	case strings.Contains(text, denied), strings.Contains(text, unknown):
		kind = errdefs.ErrPermissionDenied
		advice = fmt.Sprintf(`: the token needs key_prefix %q { policy = "write" } and session_prefix "" { policy = "write" }`, s.layout.Root())
	case strings.Contains(text, overlong):
		kind, advice = errdefs.ErrInvalidArgument, ": is limits.kv_max_value_size or txn_max_req_len lowered there?"
	case strings.Contains(text, leader):
		advice = leaderless
	}
	return fmt.Errorf("consul at %s: %w: %s%s", s.address, kind, strings.TrimSpace(err.Error()), advice)
}
