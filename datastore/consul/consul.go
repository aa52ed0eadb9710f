// Package consul keeps a datastore.Store in Consul's key-value store, with github.com/hashicorp/consul/api. Consul 1.8 and newer will do.
//
// What Consul is asked is described at https://developer.hashicorp.com/consul/api-docs, what it keeps in docs/stores.md.
package consul

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
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
	// Addresses are host:port of the agent on this host, which finds another server when one fails, or of the servers of one cluster, as
	// many as are known. One is asked, and another when it cannot be reached, knows no leader, or keeps us waiting for longer than its share of
	// Timeout.
	Addresses []string

	Prefix  string        // below which keys all is kept; "" datastore.DefaultPrefix
	TLS     *tls.Config   // nil: plain HTTP. Each server must prove the name or IP that it is called by in Addresses, unless ServerName is set
	Token   string        // of access control; "" the anonymous one. It needs `key_prefix "<prefix>/" { policy = "write" }` and session write
	Timeout time.Duration // of one request, of which a call may need several; 0: 5 s

	// Dial opens connections; nil: from this process's own network namespace.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Store is a datastore.Store, and a datastore.Presence, in Consul.
type Store struct {
	datastore.Optimist
	layout    datastore.Layout
	addresses []string
	servers   servers
	followed  followed
	timeout   time.Duration
	http      *http.Transport
	closed    chan struct{}
	close     func()
}

var (
	_ datastore.Store    = (*Store)(nil)
	_ datastore.Presence = (*Store)(nil)
)

const defaultTimeout = 5 * time.Second

// Open prepares a store. It does not connect: servers that are away are found out by the calls. InvalidArgument for a bad prefix or
// address.
func Open(o Options) (*Store, error) {
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	s := &Store{addresses: o.Addresses, timeout: o.Timeout, closed: make(chan struct{}), http: transport(o)}
	s.close = sync.OnceFunc(func() {
		close(s.closed)
		s.http.CloseIdleConnections()
	})
	var err error
	if s.layout, err = datastore.NewLayout(o.Prefix); err == nil {
		err = s.connect(o)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w: %w", s, errdefs.ErrInvalidArgument, err)
	}
	s.Begin = func(readOnly bool) datastore.Attempt { return &attempt{store: s, readOnly: readOnly} }
	s.Closed, s.Pause = s.closed, time.Millisecond
	return s, nil
}

// connect makes a client of each server.
func (s *Store) connect(o Options) error {
	scheme := "http"
	if o.TLS != nil {
		scheme = "https"
	}
	if len(o.Addresses) == 0 {
		return errors.New("no address")
	}
	s.servers.moved = make(chan struct{})
	for _, address := range o.Addresses {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return err
		}
		client, err := api.NewClient(&api.Config{Address: address, Scheme: scheme, Token: o.Token, HttpClient: &http.Client{Transport: s.http}})
		if err != nil {
			return err
		}
		s.servers.clients = append(s.servers.clients, client)
	}
	return nil
}

// transport keeps a connection for each watch, which waits in a request of its own, and notices in 15 s that its other end is gone. It goes on
// calling when the request has ended that it calls for.
func transport(o Options) *http.Transport {
	dial := o.Dial
	if dial == nil {
		d := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 5}}
		dial = d.DialContext
	}
	bounded := func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, o.Timeout)
		defer cancel()
		return dial(ctx, network, address)
	}
	return &http.Transport{DialContext: bounded, TLSClientConfig: o.TLS, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}
}

// Watch implements datastore.Store. What this Store and others that watch dir change there is told by itself; what others change, or two at
// once, brings the whole directory over the wire, so directories should be small.
func (s *Store) Watch(ctx context.Context, dir string) iter.Seq2[datastore.Batch, error] {
	return func(yield func(datastore.Batch, error) bool) {
		defer s.followed.at(dir, point{})
		datastore.Follow(ctx, s.closed, dir, &follower{store: s, dir: dir})(yield)
	}
}

// Close implements datastore.Store. What was announced is withdrawn by Consul when its session ends.
func (s *Store) Close() error {
	s.close()
	return nil
}
