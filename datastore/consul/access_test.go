package consul_test

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/consul"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

// Who has the certificate and the token is let in, nobody else, and nobody takes being refused for an empty store.
func TestAccess(t *testing.T) {
	nstest.MustNotLeak(t)
	files := servertest.NewTLS(t)
	server := servertest.One(t, servertest.Consul, servertest.Options{TLS: files, Token: "cafe0000-0000-0000-0000-000000000001"}).Servers[0]
	client := files.Client(t, true)
	const patience, certainty = 30 * time.Second, 2 * time.Second // for an answer, and for none
	try := func(o consul.Options, timeout time.Duration) (list, write error) {
		o.Timeout = timeout
		s := open(t, server, o)
		list = s.View(t.Context(), func(tx datastore.Tx) error {
			for range tx.List("d") {
			}
			return nil
		})
		return list, s.Update(t.Context(), func(tx datastore.Tx) error { return tx.Put("d/k", []byte("1")) })
	}
	// Without a leader the master token is not there yet.
	good := consul.Options{TLS: client, Token: "cafe0000-0000-0000-0000-000000000001"}
	nstest.Eventually(t, "the token is known", func() bool { list, write := try(good, patience); return list == nil && write == nil })

	for name, o := range map[string]consul.Options{
		"no token":      {TLS: client},
		"another token": {TLS: client, Token: "cafe0000-0000-0000-0000-000000000002"},
	} {
		o.Timeout = patience
		list, write := try(o, patience)
		if !errdefs.IsPermissionDenied(list) || !errdefs.IsPermissionDenied(write) || !strings.Contains(write.Error(), `key_prefix "sealane/"`) {
			t.Errorf("%s: got %v and %v, want PermissionDenied that says what the token needs", name, list, write)
		}
		if o.Token != "" && strings.Contains(write.Error(), o.Token) {
			t.Errorf("%s: the error shows the token: %v", name, write)
		}
		for _, err := range open(t, server, o).Watch(t.Context(), "d") {
			if !errdefs.IsPermissionDenied(err) {
				t.Errorf("%s: the watch says %v, want PermissionDenied", name, err)
			}
			break
		}
	}
	for name, o := range map[string]consul.Options{
		"no TLS":         {Token: good.Token},
		"no certificate": {Token: good.Token, TLS: files.Client(t, false)},
		"another CA":     {Token: good.Token, TLS: servertest.NewTLS(t).Client(t, true)},
	} {
		if list, write := try(o, certainty); !errdefs.IsUnavailable(list) || !errdefs.IsUnavailable(write) {
			t.Errorf("%s: got %v and %v, want Unavailable", name, list, write)
		}
	}
}
