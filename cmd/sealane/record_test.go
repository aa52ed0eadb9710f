package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var (
	record   = flag.String("record", "", "write what an engine says to its plugin, and what that answers, to this file (package docker replays it)")
	recorded = flag.String("recorded", newest, "the engine that is recorded: one that make servers unpacks, or \"\", which is the one on the PATH")
)

// TestRecord has an engine go through testdata/engine/record/record.txt with somebody between it and its plugin who writes everything down.
// Commands of its own, beside those of TestEngine:
//
//	listen         stand between the engine and the plugin of a daemon with --plugin-dir plugins
//	scenario NAME  what follows is called so
func TestRecord(t *testing.T) {
	if *record == "" {
		t.Skip("only with -record FILE")
	}
	tape := &tape{}
	runEngine(t, *recorded, testscript.Params{Files: []string{"testdata/engine/record/record.txt"}}, map[string]func(*testscript.TestScript, bool, []string){
		"listen":   tape.listen,
		"scenario": func(_ *testscript.TestScript, _ bool, args []string) { tape.begin(args[0]) },
	})
	t.Cleanup(func() {
		if err := os.WriteFile(*record, tape.text.Bytes(), 0o644); err != nil {
			t.Error(err)
		}
	})
}

// tape is a transcript: an object a line, of which the first says whose it is.
type tape struct {
	mu       sync.Mutex
	scenario string
	dir      string // the script's, which is not written down
	text     bytes.Buffer
}

func (r *tape) begin(scenario string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scenario = scenario
}

func (r *tape) listen(ts *testscript.TestScript, _ bool, _ []string) {
	r.dir = ts.MkAbs(".") + "/"
	r.mu.Lock()
	defer r.mu.Unlock()
	ts.Check(json.NewEncoder(&r.text).Encode(map[string]string{"engine": ts.Getenv("IS")}))
	l, err := net.Listen("unix", ts.Getenv("PLUGINS")+"/sealane.sock")
	ts.Check(err)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "plugin"})
	proxy.Transport = &http.Transport{DialContext: dialer(ts.MkAbs("plugins/sealane.sock")), DisableKeepAlives: true}
	proxy.ModifyResponse = r.note
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			return
		}
		q.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		q.Body, _ = q.GetBody()
		proxy.ServeHTTP(w, q)
	})}
	go server.Serve(l)
	ts.Defer(func() { _ = server.Close() })
}

// note writes down an answer and what it is to.
func (r *tape) note(reply *http.Response) error {
	said, err := io.ReadAll(reply.Body)
	if err != nil {
		return err
	}
	reply.Body = io.NopCloser(bytes.NewReader(said))
	body, err := reply.Request.GetBody()
	if err != nil {
		return err
	}
	asked, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	asked = bytes.ReplaceAll(asked, []byte(r.dir), nil)
	return json.NewEncoder(&r.text).Encode(struct {
		Scenario string          `json:"scenario"`
		Path     string          `json:"path"`
		Req      json.RawMessage `json:"req"`
		Resp     json.RawMessage `json:"resp"`
	}{r.scenario, reply.Request.URL.Path, orNull(asked), orNull(said)})
}

func orNull(text []byte) json.RawMessage {
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return json.RawMessage("null")
	}
	return text
}
