package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sealane/sealane/datastore"
)

// get reads. When a server gives no answer another one is asked.
func (s *Store) get(ctx context.Context, key string, options ...clientv3.OpOption) (resp *clientv3.GetResponse, err error) {
	const tries = 2
	for try := range tries {
		err = s.request(ctx, s.options.Timeout/tries, func(ctx context.Context, c *clientv3.Client) error {
			resp, err = c.Get(ctx, key, options...)
			return err
		})
		if try == tries-1 || !errdefs.IsUnavailable(err) {
			break
		}
	}
	return resp, err
}

// txn makes changes if the checks hold.
func (s *Store) txn(ctx context.Context, checks []clientv3.Cmp, ops []clientv3.Op) (ok bool, err error) {
	sent := false
	err = s.request(ctx, s.options.Timeout, func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Txn(ctx).If(checks...).Then(ops...).Commit()
		if err != nil {
			sent = !refused(err)
			return err
		}
		ok = resp.Succeeded
		return nil
	})
	if err != nil && sent {
		err = &datastore.Uncertain{Err: err}
	}
	return ok, err
}

// refused says of an error whether what was asked for was certainly not done.
func refused(err error) bool {
	switch code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.ResourceExhausted, codes.FailedPrecondition, codes.OutOfRange:
		return true
	}
	for _, text := range []string{"rror while dialing", "no address available", "no connection available", "etcdserver: no leader"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// request bounds one request. A server that has lost the others says so at once.
func (s *Store) request(ctx context.Context, limit time.Duration, do func(context.Context, *clientv3.Client) error) error {
	bounded, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), limit)
	defer cancel()
	client, err := s.connect(bounded)
	if err == nil {
		err = do(bounded, client)
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w: no answer yet: %w", s, errdefs.ErrAborted, ctx.Err())
	case bounded.Err() != nil:
		return fmt.Errorf("%s: %w: no answer in %v: are most of its servers down or cut off?", s, errdefs.ErrUnavailable, limit)
	}
	return s.explain(err)
}

// String names the servers, for errors.
func (s *Store) String() string { return "etcd at " + strings.Join(s.options.Endpoints, ",") }

// explain gives an error its kind and says what to do.
func (s *Store) explain(err error) error {
	kind, advice := error(errdefs.ErrUnavailable), ""
	switch code(err) {
	case codes.OutOfRange: // compacted, or, on a server that lags, not there yet
		return fmt.Errorf("%s: %w: %w", s, datastore.ErrOutdated, err)
	case codes.ResourceExhausted:
		kind = errdefs.ErrResourceExhausted
	case codes.PermissionDenied, codes.Unauthenticated:
		kind = errdefs.ErrPermissionDenied
	case codes.InvalidArgument:
		kind = errdefs.ErrInvalidArgument
		if errors.Is(err, rpctypes.ErrAuthFailed) || errors.Is(err, rpctypes.ErrUserEmpty) {
			kind = errdefs.ErrPermissionDenied
		}
	}
	if kind == error(errdefs.ErrPermissionDenied) {
		advice = fmt.Sprintf(": the user's role needs readwrite --prefix %s", s.layout.Root())
	}
	return fmt.Errorf("%s: %w: %w%s", s, kind, err, advice)
}

// code is what gRPC calls the error.
func code(err error) codes.Code {
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return known.Code()
	}
	return status.Code(err)
}
