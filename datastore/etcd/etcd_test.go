package etcd_test

import (
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/etcd"
	"github.com/sealane/sealane/datastore/storetest"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

func TestStore(t *testing.T) {
	nstest.MustNotLeak(t)
	server := servertest.One(t, servertest.Etcd, servertest.Options{}).Servers[0]
	var prefixes atomic.Int64
	storetest.Run(t, func(t testing.TB) (a, b datastore.Store) {
		prefix := "test/" + strconv.FormatInt(prefixes.Add(1), 10)
		return open(t, server, etcd.Options{Prefix: prefix}), open(t, server, etcd.Options{Prefix: prefix})
	})
}

func open(t testing.TB, server *servertest.Server, o etcd.Options) *etcd.Store {
	t.Helper()
	o.Endpoints = []string{server.Endpoint()}
	if o.Dial == nil {
		o.Dial = server.Host.DialContext
	}
	s, err := etcd.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
