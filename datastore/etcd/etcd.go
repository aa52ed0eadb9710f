// Package etcd keeps a datastore.Store in etcd, with go.etcd.io/etcd/client/v3. etcd 3.4 and newer will do.
//
// What etcd is asked is described at https://etcd.io/docs/v3.4/learning/api, what it keeps in docs/stores.md.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/sealane/sealane/datastore"
)

// Options of Open.
type Options struct {
	Endpoints []string      // host:port of the cluster's members, as many as are known
	Prefix    string        // below which keys all is kept; "" datastore.DefaultPrefix
	TLS       *tls.Config   // nil: plain
	User      string        // "": none. Its role needs `readwrite --prefix <prefix>/`
	Password  string        // of User
	Timeout   time.Duration // of one request, of which a call may need several; 0: 5 s

	// Dial opens connections; nil: from this process's own network namespace.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Store is a datastore.Store, and a datastore.Presence, in etcd.
type Store struct {
	datastore.Optimist
	layout  datastore.Layout
	options Options
	closed  chan struct{}
	close   func() error

	mu     sync.Mutex
	client *clientv3.Client // nil until it is needed
}

var (
	_ datastore.Store    = (*Store)(nil)
	_ datastore.Presence = (*Store)(nil)
)

const defaultTimeout = 5 * time.Second

// Open prepares a store. It does not connect: servers that are away are found out by the calls. InvalidArgument for a bad prefix or
// endpoint, or a user without a password.
func Open(o Options) (*Store, error) {
	layout, err := datastore.NewLayout(o.Prefix)
	for _, e := range o.Endpoints {
		_, _, bad := net.SplitHostPort(e)
		err = errors.Join(err, bad)
	}
	switch {
	case err != nil:
	case len(o.Endpoints) == 0:
		err = errors.New("no endpoint")
	case (o.User == "") != (o.Password == ""):
		err = errors.New("want a user and a password, or neither")
	}
	if err != nil {
		return nil, fmt.Errorf("open etcd: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	s := &Store{layout: layout, options: o, closed: make(chan struct{})}
	s.close = sync.OnceValue(s.shut)
	s.Begin = func(bool) datastore.Attempt { return &attempt{store: s} }
	s.Closed, s.Pause = s.closed, time.Millisecond
	return s, nil
}

// connect gives the client. The first call makes it, which with a user asks a server for a token and so may fail.
func (s *Store) connect(ctx context.Context) (*clientv3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
		return nil, context.Canceled
	default:
	}
	if s.client != nil {
		return s.client, nil
	}
	until, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	client, err := clientv3.New(clientv3.Config{
		Endpoints: s.options.Endpoints, TLS: s.options.TLS, Username: s.options.User, Password: s.options.Password, Logger: zap.NewNop(),
		DialTimeout: s.options.Timeout, Context: until,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second, PermitWithoutStream: true,
		DialOptions: []grpc.DialOption{
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return s.options.Dial(ctx, "tcp", address)
			}),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				MinConnectTimeout: s.options.Timeout,
			}),
		},
	})
	if err == nil && !stop() { // the client has ended with its maker
		err = errors.Join(ctx.Err(), client.Close())
	}
	if err != nil {
		cancel()
		return nil, err
	}
	s.client = client
	return client, nil
}

// Watch implements datastore.Store.
func (s *Store) Watch(ctx context.Context, dir string) iter.Seq2[datastore.Batch, error] {
	return datastore.Follow(ctx, s.closed, dir, &follower{store: s, dir: dir})
}

// Close implements datastore.Store. What was announced goes when its lease ends.
func (s *Store) Close() error { return s.close() }

func (s *Store) shut() error {
	close(s.closed)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		return nil
	}
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd: %w", err)
	}
	return nil
}
