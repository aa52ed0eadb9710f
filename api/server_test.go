package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/internal/nstest"
)

// raw sends what no client of ours would.
func (d *daemon) raw(t *testing.T, method, path, body string) (status int, e Error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	reply, err := d.http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	if reply.StatusCode >= 400 {
		if err := json.Unmarshal(text, &e); err != nil || e.Kind == "" || e.Message == "" {
			t.Errorf("%s %s: error body %q: %v", method, path, text, err)
		}
		if reply.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %v", method, path, reply.Header)
		}
	}
	return reply.StatusCode, e
}

func TestBadRequests(t *testing.T) {
	d := start(t)
	for _, test := range []struct {
		method, path, body string
		status             int
		message            string
	}{
		{"POST", "/v1/networks/create", ``, 400, "it is empty; want a JSON object"},
		{"POST", "/v1/networks/create", `{`, 400, "the JSON object ends early"},
		{"POST", "/v1/networks/create", `{"Name":"x"}}`, 400, "invalid character '}'"},
		{"POST", "/v1/networks/create", `{"Name":"x"} {}`, 400, "something follows the JSON object"},
		{"POST", "/v1/networks/create", `{"Name":1}`, 400, "cannot unmarshal number"},
		{"POST", "/v1/networks/create", `[]`, 400, "cannot unmarshal array"},
		{"POST", "/v1/networks/create", `{"Name":"x","Attachable":true}`, 400, `unknown field "Attachable"`},
		{"POST", "/v1/networks/create", `{"Name":"x","IPAM":{"Config":[{"Subnet":"10.0.0.0/33"}]}}`, 400, "10.0.0.0/33"},
		{"POST", "/v1/networks/create", `{"Name":"` + strings.Repeat("x", maxBody) + `"}`, 400, "it is larger than 1048576 bytes"},
		{"POST", "/v1/networks/create", `{"Name":"a\nb"}`, 400, "a name is a letter or digit"},
		{"POST", "/v1/networks/create", `{"Name":"none"}`, 403, "predefined"},
		{"POST", "/v1/networks/create", `{"Name":"x","Driver":"odd"}`, 404, `"odd"`},
		{"POST", "/v1/networks/none/connect", `{"Container":"x","Link":"y"}`, 400, `unknown field "Link"`},
		{"POST", "/v1/networks/none/connect", `{"Container":"x"}`, 404, `sandbox "x"`},
		{"POST", "/v1/networks/nope/connect", `{"Container":"x"}`, 404, `network "nope"`},
		{"POST", "/v1/sandboxes/create", `{"Networks":[{"Network":"none","Colour":"blue"}]}`, 400, `unknown field "Colour"`},
		{"GET", "/v1/networks?filters=%7B", ``, 400, "want a JSON object of lists of strings"},
		{"GET", "/v1/networks?filters=%7B%22x%22%3A%5B%5D%7D", ``, 400, `filter "x"`},
		{"GET", "/v1/networks?colour=blue", ``, 400, `"colour"`},
		{"DELETE", "/v1/networks/x?force=perhaps", ``, 400, "true or false"},
		{"GET", "/v1/events?filters=%7B%22x%22%3A%5B%5D%7D", ``, 400, `filter "x"`},
		{"GET", "/v1/nothing", ``, 404, "no such route"},
		{"PUT", "/v1/networks", ``, 404, "no such route"},
		{"GET", "/v9/networks", ``, 404, "no such route"},
		{"GET", "/v1/networks/a%2Fb", ``, 404, `"a/b"`},
	} {
		status, e := d.raw(t, test.method, test.path, test.body)
		if status != test.status || !strings.Contains(e.Message, test.message) {
			t.Errorf("%s %s %.80s: %d %s: %s; want %d, …%s…", test.method, test.path, test.body, status, e.Kind, e.Message, test.status, test.message)
		}
	}
	if all := must[[]Network](t)(d.Networks(t.Context(), nil)); len(all) != 3 {
		t.Errorf("a bad request had an effect: %v", names(all))
	}
}

// References are data: none of them leads to another route.
func TestOddReferences(t *testing.T) {
	d, ctx := start(t), t.Context()
	for _, ref := range []string{".", "..", "a/b", "create", "prune", "%2e", "a b", "é", "?force=true", "\n", strings.Repeat("x", 300)} {
		if _, err := d.Network(ctx, ref); !errdefs.IsNotFound(err) {
			t.Errorf("network %q: %v", ref, err)
		}
		if err := d.RemoveSandbox(ctx, ref, true); !errdefs.IsNotFound(err) {
			t.Errorf("sandbox %q: %v", ref, err)
		}
	}
	if _, err := d.Network(ctx, ""); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no reference: %v", err)
	}
}

func TestAmbiguousReference(t *testing.T) {
	d, ctx := start(t), t.Context()
	for i := range 17 { // two of seventeen ids begin with the same digit
		d.sandbox(t, SandboxSpec{Name: "s" + string(rune('a'+i)), Networks: []NetworkJoin{{Network: "none"}}})
	}
	count := map[byte]int{}
	for _, s := range must[[]Sandbox](t)(d.Sandboxes(ctx, nil)) {
		count[s.ID[0]]++
	}
	for digit, n := range count {
		_, err := d.Sandbox(ctx, string(digit))
		if n > 1 && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "ids begin with")) || n == 1 && err != nil {
			t.Errorf("%d ids begin with %c: %v", n, digit, err)
		}
	}
}

func TestVersionAndHosts(t *testing.T) {
	d, ctx := start(t), t.Context()
	if v := must[Version](t)(d.Version(ctx)); v.Version != "1.2.3" || v.APIVersion != "v1" {
		t.Errorf("%+v", v)
	}
	if all := must[[]Host](t)(d.Hosts(ctx, nil)); len(all) != 1 || all[0].Name != "here" {
		t.Errorf("%+v", all)
	}
	for _, ref := range []string{"here", "0123", "0123456789abcdef"} {
		must[Host](t)(d.Host(ctx, ref))
	}
	if _, err := d.Host(ctx, "there"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := d.RemoveHost(ctx, "here"); !errdefs.IsFailedPrecondition(err) {
		t.Error(err)
	}
}

func TestEndpoints(t *testing.T) {
	d, ctx := start(t), t.Context()
	id := d.sandbox(t, SandboxSpec{Name: "web", Publish: []string{"80:80"}})
	d.sandbox(t, SandboxSpec{Name: "db", Networks: []NetworkJoin{{Network: "none"}}})
	all := must[[]Endpoint](t)(d.Endpoints(ctx, Filters{"sandbox": {"web"}}))
	if len(all) != 1 || all[0].SandboxID != id || all[0].Name != "web" || len(all[0].Addresses) != 1 || len(all[0].Ports) != 1 {
		t.Fatalf("%+v", all)
	}
	if e := must[Endpoint](t)(d.Endpoint(ctx, "web")); e.ID != all[0].ID {
		t.Errorf("%+v", e)
	}
	if err := d.RemoveEndpoint(ctx, "web", false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove a joined one: %v", err)
	}
	if err := d.RemoveEndpoint(ctx, all[0].ID[:10], true); err != nil {
		t.Error(err)
	}
	if s := must[Sandbox](t)(d.Sandbox(ctx, "web")); len(s.Networks) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestEvents(t *testing.T) {
	d := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	events, err := d.Events(ctx, Filters{"type": {"network"}, "event": {"create", "connect"}})
	if err != nil {
		t.Fatal(err)
	}
	blue := d.network(t, NetworkSpec{Name: "blue"})
	web := d.sandbox(t, SandboxSpec{Name: "web", Networks: []NetworkJoin{{Network: "blue"}}})
	var got []Event
	for e, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e); len(got) == 2 {
			break
		}
	}
	if e := got[0]; e.Action != "create" || e.Actor.ID != blue || e.Actor.Attributes["name"] != "blue" || time.Since(e.When()) > time.Minute {
		t.Errorf("%+v", e)
	}
	if e := got[1]; e.Action != "connect" || e.Actor.ID != blue || e.Actor.Attributes["container"] != web {
		t.Errorf("%+v", e)
	}
}

// A filter may name what it means in any way, before and after it is told in events.
func TestEventsOfOneSandbox(t *testing.T) {
	d, ctx := start(t), t.Context()
	events, err := d.Events(ctx, Filters{"sandbox": {"web"}})
	if err != nil {
		t.Fatal(err)
	}
	web := d.sandbox(t, SandboxSpec{Name: "web"})
	d.sandbox(t, SandboxSpec{Name: "db"})
	for _, name := range []string{"db", "web"} {
		if err := d.RemoveSandbox(ctx, name, false); err != nil {
			t.Fatal(err)
		}
	}
	var actions []string
	for e, err := range events {
		if err != nil {
			t.Fatal(err)
		}
		if e.Actor.ID != web && e.Actor.Attributes["container"] != web {
			t.Errorf("not of web: %+v", e)
		}
		actions = append(actions, e.Type+" "+e.Action)
		if e.Action == "destroy" {
			break
		}
	}
	if got := strings.Join(actions, ", "); got != "sandbox create, network connect, network disconnect, sandbox destroy" {
		t.Error(got)
	}
}

func TestEventsEndWithTheServer(t *testing.T) {
	d := start(t)
	events, err := d.Events(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	d.server.Close()
	for _, err := range events {
		if !errdefs.IsUnavailable(err) {
			t.Errorf("the stream ends with %v", err)
		}
	}
}

func TestNoDaemon(t *testing.T) {
	c := NewClient(filepath.Join(t.TempDir(), "api.sock"))
	_, err := c.Version(t.Context())
	if !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
}

// A daemon that accepts and says nothing does not hold a caller beyond its time.
func TestSilentDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = NewClient(socket).Version(ctx)
	if !errdefs.IsUnavailable(err) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// A call whose caller goes away is taken back.
func TestCallerGoesAway(t *testing.T) {
	d := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	d.kernel.Fault = func(op string) error {
		if strings.Contains(op, "host: ip link add") {
			call := d.last.Load().Context() // before the test asks for more
			cancel()
			<-call.Done() // it ends when the connection does
		}
		return nil
	}
	if _, err := d.CreateSandbox(ctx, SandboxSpec{Name: "web"}); !errdefs.IsUnavailable(err) {
		t.Errorf("create: %v", err)
	}
	nstest.Eventually(t, "nothing is left of it", func() bool { return len(must[[]Sandbox](t)(d.Sandboxes(t.Context(), nil))) == 0 })
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{}`, `{"Name":"x"}`, `{"Networks":[{"Network":"a","IPAMConfig":{"IPv4Address":"10.0.0.1"}}]}`, `{"x":1}`, `[`, `{"PID":1e9}`, "\x00"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, into := range []any{&NetworkSpec{}, &SandboxSpec{}, &Connection{}, &Disconnection{}, &PortChange{}, &NetworkChange{}} {
			err := decode(bytes.NewReader(body), into)
			if err != nil {
				if !errdefs.IsInvalidArgument(err) {
					t.Errorf("%q: %v", body, err)
				}
				continue
			}
			if s, ok := into.(*SandboxSpec); ok {
				if _, err := s.ports(); err != nil && !errdefs.IsInvalidArgument(err) {
					t.Errorf("%q: %v", body, err)
				}
				for _, n := range s.Networks {
					if _, err := n.EndpointConfig.spec(); err != nil && !errdefs.IsInvalidArgument(err) {
						t.Errorf("%q: %v", body, err)
					}
				}
			}
			text, err := json.Marshal(into)
			if err != nil {
				t.Fatalf("%q is read and cannot be written: %v", body, err)
			}
			if err := decode(bytes.NewReader(text), into); err != nil {
				t.Errorf("%q is written as %s: %v", body, text, err)
			}
		}
	})
}
