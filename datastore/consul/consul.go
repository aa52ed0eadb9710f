// Package consul keeps a datastore.Store in Consul's key-value store, with github.com/hashicorp/consul/api. Consul 1.8 and newer will do.
//
// What Consul is asked is described at https://developer.hashicorp.com/consul/api-docs, what it keeps in docs/stores.md.
package consul

import (
	"context"
	"crypto/tls"
	"fmt"
	"iter"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/consul/api"

	"github.com/sealane/sealane/datastore"
)

// Options of Open.
type Options struct {
	Address string        // host:port of a server or, better, of the agent on this host
	Prefix  string        // below which keys all is kept; "" datastore.DefaultPrefix
	TLS     *tls.Config   // nil: plain HTTP
	Token   string        // of access control; "" the anonymous one. It needs `key_prefix "<prefix>/" { policy = "write" }` and session write
	Timeout time.Duration // of one request, of which a call may need several; 0: 5 s

	// Dial opens connections; nil: from this process's own network namespace.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Store is a datastore.Store, and a datastore.Presence, in Consul.
type Store struct {
	datastore.Optimist
	layout  datastore.Layout
	address string
	timeout time.Duration
	client  *api.Client
	http    *http.Transport
	closed  chan struct{}
	close   func()
}

var (
	_ datastore.Store    = (*Store)(nil)
	_ datastore.Presence = (*Store)(nil)
)

const defaultTimeout = 5 * time.Second

// Open prepares a store. It does not connect: a server that is away is found out by the calls. InvalidArgument for a bad prefix or
// address.
func Open(o Options) (*Store, error) {
	layout, err := datastore.NewLayout(o.Prefix)
	if err == nil {
		_, _, err = net.SplitHostPort(o.Address)
	}
	if err != nil {
		return nil, fmt.Errorf("open consul %s: %w: %w", o.Address, errdefs.ErrInvalidArgument, err)
	}
	s := &Store{layout: layout, address: o.Address, timeout: o.Timeout, closed: make(chan struct{}), http: transport(o)}
	if s.timeout == 0 {
		s.timeout = defaultTimeout
	}
	s.close = sync.OnceFunc(func() {
		close(s.closed)
		s.http.CloseIdleConnections()
	})
	config := &api.Config{Address: o.Address, Scheme: "http", Token: o.Token, HttpClient: &http.Client{Transport: s.http}}
	if o.TLS != nil {
		config.Scheme = "https"
	}
	if s.client, err = api.NewClient(config); err != nil {
		return nil, fmt.Errorf("open consul %s: %w: %w", o.Address, errdefs.ErrInvalidArgument, err)
	}
	s.Begin = func(readOnly bool) datastore.Attempt { return &attempt{store: s, readOnly: readOnly} }
	s.Closed, s.Pause = s.closed, time.Millisecond
	return s, nil
}

// transport keeps a connection for each watch, which waits in a request of its own, and notices in 15 s that its other end is gone.
func transport(o Options) *http.Transport {
	dial := o.Dial
	if dial == nil {
		d := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 5}}
		dial = d.DialContext
	}
	return &http.Transport{DialContext: dial, TLSClientConfig: o.TLS, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}
}

// Watch implements datastore.Store. Every change brings the whole directory over the wire, so directories should be small.
func (s *Store) Watch(ctx context.Context, dir string) iter.Seq2[datastore.Batch, error] {
	return datastore.Follow(ctx, s.closed, dir, &follower{store: s, dir: dir})
}

// Close implements datastore.Store. What was announced is withdrawn by Consul when its session ends.
func (s *Store) Close() error {
	s.close()
	return nil
}
