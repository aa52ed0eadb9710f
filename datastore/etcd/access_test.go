package etcd_test

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/etcd"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

// Who has the certificate and the password is let in, as far as its role goes, and nobody else.
func TestAccess(t *testing.T) {
	nstest.MustNotLeak(t)
	files := servertest.NewTLS(t)
	server := servertest.One(t, servertest.Etcd, servertest.Options{TLS: files}).Servers[0]
	client := files.Client(t, true)
	addUser(t, admin(t, server, client))
	const patience, certainty = 30 * time.Second, 2 * time.Second // for an answer, and for none
	try := func(o etcd.Options, timeout time.Duration) (list, write error) {
		o.Timeout = timeout
		s := open(t, server, o)
		list = s.View(t.Context(), func(tx datastore.Tx) error {
			for range tx.List("d") {
			}
			return nil
		})
		return list, s.Update(t.Context(), func(tx datastore.Tx) error { return tx.Put("d/k", []byte("1")) })
	}
	good := etcd.Options{TLS: client, User: "sealane", Password: "secret"}
	if list, write := try(good, patience); list != nil || write != nil {
		t.Fatalf("with all that it takes: %v and %v", list, write)
	}
	for name, o := range map[string]etcd.Options{
		"no user":          {TLS: client},
		"another password": {TLS: client, User: "sealane", Password: "guessed"},
		"another prefix":   {TLS: client, User: "sealane", Password: "secret", Prefix: "elsewhere"},
	} {
		o.Timeout = patience
		list, write := try(o, patience)
		if !errdefs.IsPermissionDenied(list) || !errdefs.IsPermissionDenied(write) || !strings.Contains(write.Error(), "readwrite --prefix") {
			t.Errorf("%s: got %v and %v, want PermissionDenied that says what the role needs", name, list, write)
		}
		if o.Password != "" && strings.Contains(write.Error(), o.Password) {
			t.Errorf("%s: the error shows the password: %v", name, write)
		}
		for _, err := range open(t, server, o).Watch(t.Context(), "d") {
			if !errdefs.IsPermissionDenied(err) {
				t.Errorf("%s: the watch says %v, want PermissionDenied", name, err)
			}
			break
		}
	}
	for name, o := range map[string]etcd.Options{
		"no TLS":         {},
		"no certificate": {TLS: files.Client(t, false)},
		"another CA":     {TLS: servertest.NewTLS(t).Client(t, true)},
	} {
		o.User, o.Password = good.User, good.Password
		if list, write := try(o, certainty); !errdefs.IsUnavailable(list) || !errdefs.IsUnavailable(write) {
			t.Errorf("%s: got %v and %v, want Unavailable", name, list, write)
		}
	}
}

// admin is a client as etcd's own tools are.
func admin(t *testing.T, server *servertest.Server, secure *tls.Config) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}, TLS: secure, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return server.Host.DialContext(ctx, "tcp", address)
		})}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func addUser(t *testing.T, c *clientv3.Client) {
	t.Helper()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	must(c.UserAdd(ctx, "root", "root"))
	must(c.UserGrantRole(ctx, "root", "root"))
	must(c.RoleAdd(ctx, "net"))
	must(c.RoleGrantPermission(ctx, "net", "sealane/", clientv3.GetPrefixRangeEnd("sealane/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	must(c.UserAdd(ctx, "sealane", "secret"))
	must(c.UserGrantRole(ctx, "sealane", "net"))
	must(c.AuthEnable(ctx))
}
