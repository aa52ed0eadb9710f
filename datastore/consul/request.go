package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/consul/api"

	"github.com/sealane/sealane/datastore"
)

// directory is what one request tells of a directory.
type directory struct {
	entries    []datastore.Entry
	generation point // index 0: nothing was ever written in it, or nobody forgot to empty it
	sessions   bool  // a record goes when a session ends, and no transaction says so
}

// found is a key, nil if it is absent, and what the server says of its answer.
type found struct {
	pair *api.KVPair
	meta *api.QueryMeta
}

func (s *Store) get(ctx context.Context, key string, q *api.QueryOptions) (found, error) {
	return read(ctx, s, func(ctx context.Context, c *api.Client) (f found, err error) {
		f.pair, f.meta, err = c.KV().Get(key, q.WithContext(ctx))
		return f, err
	})
}

// directory reads the generation and the records below it in one request, so of one moment.
func (s *Store) directory(ctx context.Context, dir string, q *api.QueryOptions) (d directory, err error) {
	prefix := s.layout.Generation(dir)
	pairs, err := read(ctx, s, func(ctx context.Context, c *api.Client) (api.KVPairs, error) {
		pairs, _, err := c.KV().List(prefix, q.WithContext(ctx))
		return pairs, err
	})
	if err != nil {
		return d, err
	}
	for _, p := range pairs {
		name := strings.TrimPrefix(p.Key, prefix)
		if name == "" {
			d.generation = point{parseGeneration(p.Value).Is, p.ModifyIndex}
			continue
		}
		d.sessions = d.sessions || p.Session != ""
		d.entries = append(d.entries, datastore.Entry{Name: name, Value: present(p.Value)})
	}
	return d, nil
}

// index moves when anything below the prefix is written or deleted.
func (s *Store) index(ctx context.Context) (uint64, error) {
	return read(ctx, s, func(ctx context.Context, c *api.Client) (uint64, error) {
		_, meta, err := c.KV().Keys(s.layout.Root(), "/", (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
		if err != nil {
			return 0, err
		}
		return meta.LastIndex, nil
	})
}

// outcome is what became of a transaction.
type outcome struct {
	ok   bool
	resp *api.TxnResponse
}

// check is whether operations that are checks all hold.
func (s *Store) check(ctx context.Context, ops api.TxnOps) (ok bool, err error) {
	o, err := read(ctx, s, func(ctx context.Context, c *api.Client) (o outcome, err error) {
		o.ok, o.resp, _, err = c.Txn().Txn(ops, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
		return o, err
	})
	if err != nil {
		return false, err
	}
	return s.verdict(o, len(ops))
}

// none is the number of the check that failed when none did.
const none = -1

// failed is the number of the first check that failed.
func (o outcome) failed() int {
	switch {
	case o.ok:
		return none
	case o.resp == nil || len(o.resp.Errors) == 0:
		return 0
	}
	return o.resp.Errors[0].OpIndex
}

// index is where what was written stands in the order of all writes; 0: nothing was.
func (o outcome) index() (index uint64) {
	if !o.ok {
		return 0
	}
	for _, r := range o.resp.Results {
		if r.KV != nil {
			index = max(index, r.KV.ModifyIndex)
		}
	}
	return index
}

// txn runs operations of which the first are checks, one of which may fail.
func (s *Store) txn(ctx context.Context, ops api.TxnOps, checks int) (o outcome, err error) {
	sent, err := s.write(ctx, func(ctx context.Context, c *api.Client) (err error) {
		o.ok, o.resp, _, err = c.Txn().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
		return err
	})
	switch {
	case sent:
		return o, &datastore.Uncertain{Err: err}
	case err != nil:
		return o, err
	}
	_, err = s.verdict(o, checks)
	return o, err
}

// verdict is ok when a transaction was done, and an error when it failed for another reason than a check.
func (s *Store) verdict(o outcome, checks int) (ok bool, err error) {
	if o.ok {
		return true, nil
	}
	for _, e := range o.resp.Errors { // in the order of ops, all of which Consul tries: a check that failed explains what follows
		if strings.Contains(e.What, denied) {
			return false, s.explain(errors.New(e.What))
		}
	}
	if len(o.resp.Errors) > 0 && o.resp.Errors[0].OpIndex >= checks {
		return false, s.explain(errors.New(o.resp.Errors[0].What))
	}
	return false, nil
}

// share is what each server has of a request's time before the next one is asked.
func (s *Store) share() time.Duration { return s.timeout / time.Duration(len(s.servers.clients)) }

// read asks for what may be asked for any number of times. A server that has not answered in its share of the time may do so still, but the
// next one is asked as well, and all at once when none answered the last time. Who answers first is asked from then on.
func read[T any](ctx context.Context, s *Store, do func(context.Context, *api.Client) (T, error)) (value T, err error) {
	type answer struct {
		who   int
		value T
		err   error
	}
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	row, headStart := s.servers.row(), s.share()
	if s.servers.silent.Load() {
		headStart = 0
	}
	answers := make(chan answer, len(row))
	next := time.NewTimer(0)
	defer next.Stop()
	for asked, failed := 0, 0; failed < len(row) && bounded.Err() == nil; {
		select {
		case <-next.C:
			who := row[asked]
			go func() {
				value, err := do(bounded, s.servers.clients[who])
				answers <- answer{who, value, err}
			}()
			if asked++; asked < len(row) {
				next.Reset(headStart)
			}
		case a := <-answers:
			if err = s.judge(ctx, bounded, a.err); !errdefs.IsUnavailable(err) {
				s.servers.answered(row[0], a.who)
				return a.value, err
			}
			if failed++; failed == asked && asked < len(row) {
				next.Reset(0)
			}
		case <-bounded.Done():
		}
	}
	if bounded.Err() != nil {
		err = s.judge(ctx, bounded, bounded.Err())
	}
	if ctx.Err() == nil {
		s.servers.silent.Store(true)
	}
	return value, err
}

// write asks for what must not be done twice. Another server is asked only when one certainly did nothing; sent means that nobody knows.
func (s *Store) write(ctx context.Context, do func(context.Context, *api.Client) error) (sent bool, err error) {
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for _, who := range s.servers.row() {
		var connected bool
		connected, err = s.ask(bounded, who, do)
		sent = err != nil && connected && !refused(err)
		if err = s.judge(ctx, bounded, err); !errdefs.IsUnavailable(err) {
			break
		}
		s.servers.leave(who)
		if sent || bounded.Err() != nil {
			break
		}
	}
	return sent, err
}

// linger asks who is asked now for an answer that comes when something happens, at the latest when q.WaitTime is over. The answer is nil
// when another one is asked meanwhile, and the error ErrOutdated when another one is to be asked.
func (s *Store) linger(ctx context.Context, q *api.QueryOptions, do func(*api.Client, *api.QueryOptions) (*api.QueryMeta, error)) (*api.QueryMeta, error) {
	who, moved := s.servers.now()
	bounded, cancel := context.WithTimeout(ctx, s.timeout+q.WaitTime+q.WaitTime/16)
	defer cancel()
	staying, cancel := context.WithCancel(bounded)
	defer cancel()
	go func() {
		select {
		case <-moved:
			cancel()
		case <-staying.Done():
		}
	}()
	var meta *api.QueryMeta
	_, err := s.ask(staying, who, func(ctx context.Context, c *api.Client) (err error) {
		if meta, err = do(c, q.WithContext(ctx)); err == nil && !meta.KnownLeader {
			err = errors.New("it knows no leader" + leaderless)
		}
		return err
	})
	switch {
	case err == nil:
		return meta, nil
	case staying.Err() != nil && bounded.Err() == nil:
		return nil, nil
	}
	if err = s.judge(ctx, bounded, err); errdefs.IsUnavailable(err) && s.servers.leave(who) {
		err = datastore.ErrOutdated
	}
	return nil, err
}

// ask asks one server, and gives up when there is no connection to it in its share of the time.
func (s *Store) ask(ctx context.Context, who int, do func(context.Context, *api.Client) error) (connected bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var there, late atomic.Bool
	timer := time.AfterFunc(s.share(), func() {
		if !there.Load() {
			late.Store(true)
			cancel()
		}
	})
	defer timer.Stop()
	trace := &httptrace.ClientTrace{
		GetConn: func(string) { there.Store(false) }, // again, when nothing could be written to the first
		GotConn: func(httptrace.GotConnInfo) { there.Store(true) },
	}
	err = do(httptrace.WithClientTrace(ctx, trace), s.servers.clients[who])
	if err != nil && late.Load() {
		err = fmt.Errorf("no connection to %s in %v", s.addresses[who], s.share())
	}
	return there.Load(), err
}

const (
	denied   = "ermission denied"
	leader   = "No cluster leader"
	unknown  = "ACL not found"
	overlong = "too large"
)

const leaderless = ": most of its servers are down or cut off"

// refused says of the error of a request that reached a server whether what was asked for was certainly not done.
func refused(err error) bool {
	for _, text := range []string{denied, leader, unknown, overlong} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// judge gives the error of a request its kind: the caller's patience may have ended, or the request's time.
func (s *Store) judge(caller, bounded context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case caller.Err() != nil:
		return fmt.Errorf("%s: %w: no answer yet: %w", s, errdefs.ErrAborted, caller.Err())
	case bounded.Err() != nil:
		return fmt.Errorf("%s: %w: no answer in %v: cut off from the other servers?", s, errdefs.ErrUnavailable, s.timeout)
	}
	return s.explain(err)
}

// String names the servers, for errors.
func (s *Store) String() string { return "consul at " + strings.Join(s.addresses, ",") }

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
	return fmt.Errorf("%s: %w: %s%s", s, kind, strings.TrimSpace(err.Error()), advice)
}
