package sealane_test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox"
)

// A plugin that answers Join with a link of the host's, or of another endpoint, is refused and undone, and the link stays where it is; one that
// was made for the endpoint is moved.
func TestSrcName(t *testing.T) {
	w := newHosts(t)
	w.plugins = t.TempDir()
	var answer atomic.Value
	var left atomic.Int64
	l, err := net.Listen("unix", w.plugins+"/hostile.sock")
	if err != nil {
		t.Fatal(err)
	}
	plugin := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch verb := r.URL.Path[strings.LastIndexByte(r.URL.Path, '.')+1:]; verb {
		case "Activate":
			fmt.Fprint(rw, `{"Implements": ["NetworkDriver"]}`)
		case "GetCapabilities":
			fmt.Fprint(rw, `{"Scope": "local"}`)
		case "Join":
			if answer.Load() == "new1" {
				_, _ = w.host.Try("ip", "link", "add", "new1", "type", "veth", "peer", "name", "new2") // shown by what follows
			}
			fmt.Fprintf(rw, `{"InterfaceName": {"SrcName": %q, "DstPrefix": "eth"}}`, answer.Load())
		case "Leave":
			left.Add(1)
			fmt.Fprint(rw, `{}`)
		default:
			fmt.Fprint(rw, `{}`)
		}
	})}
	go plugin.Serve(l)
	t.Cleanup(func() { plugin.Close() })
	w.start()
	t.Cleanup(w.stop)
	w.host.Run("ip", "link", "add", "idle0", "type", "veth", "peer", "name", "idle1") // without an address, in nobody's use
	w.host.Run("ip", "link", "add", "br9", "type", "bridge")
	n := w.network(sealane.NetworkSpec{Name: "blue", Driver: "hostile"})
	other := w.container("other", nil, w.network(sealane.NetworkSpec{Name: "green"}))
	links := w.host.Run("ip", "-o", "link")
	theirs := strings.TrimSuffix(strings.Fields(links[strings.Index(links, ": sv")+2:])[0], ":")
	theirs, _, _ = strings.Cut(theirs, "@")
	up := strings.Fields(w.host.Run("ip", "-o", "route", "get", "192.0.2.1"))[2]
	ctx := t.Context()
	join := func(name string) error {
		answer.Store(name)
		s, err := w.CreateSandbox(ctx, sandbox.Spec{})
		if err != nil {
			t.Fatal(err)
		}
		e, err := n.CreateEndpoint(ctx, endpoint.Spec{For: s.ID()})
		if err == nil {
			err = e.Join(ctx, s)
		}
		nstest.Eventually(t, "the sandbox is deleted: its driver may be being told to let go", func() bool { return s.Delete(ctx) == nil })
		return err
	}
	for _, name := range []string{up, "idle0", "br9", theirs} {
		before := left.Load()
		if err := join(name); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "link "+name) {
			t.Errorf("a plugin answers %s: %v", name, err)
		}
		if left.Load() == before {
			t.Errorf("a plugin answers %s: it is not told to let go", name)
		}
	}
	for _, name := range []string{"lo", "nosuch0"} {
		if err := join(name); err == nil {
			t.Errorf("%s arrived", name)
		}
	}
	if now := w.host.Run("ip", "-o", "link"); now != links {
		t.Errorf("links were\n%s\nand are\n%s", links, now)
	}
	if err := join("new1"); err != nil {
		t.Errorf("a link made for the endpoint: %v", err)
	}
	if err := pings(other.as(), addr("192.0.2.1")); err != nil {
		t.Error(err)
	}
}
