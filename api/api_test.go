package api

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/drivers"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/null"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/sandbox/sandboxtest"
)

// daemon is a Controller on fakes, served on a unix socket, with a client of it.
type daemon struct {
	*Client
	server *Server
	kernel *sandboxtest.Fake
	root   datastore.Store // networks
	socket string
	last   atomic.Pointer[http.Request] // that came in
}

func start(t *testing.T) *daemon {
	t.Helper()
	ctx := t.Context()
	d := &daemon{kernel: sandboxtest.NewFake(), root: datastore.NewMemory(), socket: filepath.Join(t.TempDir(), "api.sock")}
	pools, err := pool.New(pool.Options{HostID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctl, err := sealane.New(ctx, sealane.Options{
		Run: datastore.NewMemory(), Root: d.root, Drivers: drivers.All(),
		IPAM:   map[string]ipam.Driver{"default": pools, "null": null.New()},
		Spaces: d.kernel, Firewalls: &firewalltest.Fake{}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	d.server, err = NewServer(ctx, ctl, Options{
		Host: Host{ID: "0123456789abcdef", Name: "here", State: StateReady}, Version: Version{Version: "1.2.3"},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	web := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.last.Store(r)
		d.server.ServeHTTP(w, r)
	})}}
	web.Start()
	d.Client = NewClient(d.socket)
	t.Cleanup(func() {
		d.server.Close()
		d.Client.Close()
		web.Close()
		if err := ctl.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// must is the value of a call that has to succeed.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (d *daemon) network(t *testing.T, n NetworkSpec) string {
	t.Helper()
	return must[Created](t)(d.CreateNetwork(context.Background(), n)).ID
}

func (d *daemon) sandbox(t *testing.T, s SandboxSpec) string {
	t.Helper()
	return must[Created](t)(d.CreateSandbox(context.Background(), s)).ID
}
