package sealane_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/remote"
	"github.com/sealane/sealane/sandbox"
)

// quiet is a plugin that answers every verb with nothing, or accepts and never answers.
type quiet struct {
	silent atomic.Bool
	called func(verb string) // while a verb is being served; may be nil
}

func (q *quiet) listen(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: q}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
}

func (q *quiet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	if q.silent.Load() {
		<-r.Context().Done()
		return
	}
	switch r.URL.Path {
	case "/Plugin.Activate":
		io.WriteString(w, `{"Implements": ["NetworkDriver"]}`)
	case "/NetworkDriver.GetCapabilities":
		io.WriteString(w, `{"Scope": "local"}`)
	default:
		if q.called != nil {
			q.called(strings.TrimPrefix(r.URL.Path, "/NetworkDriver."))
		}
		io.WriteString(w, `{}`)
	}
}

// Five plugins with a hundred endpoints that accept and never answer hold up neither a start nor anybody else; their networks say so, and
// mend when they answer again.
func TestSilentPlugins(t *testing.T) {
	const plugins, endpoints = 5, 20
	ctx, dir, m := t.Context(), t.TempDir(), newMachine(t)
	m.plugins = remote.New(remote.Options{Sockets: dir})
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	defer func() { m.Close() }()
	var all []*quiet
	for i := range plugins {
		q := &quiet{}
		all = append(all, q)
		name := fmt.Sprint("p", i)
		q.listen(t, dir+"/"+name+".sock")
		n, err := m.CreateNetwork(ctx, sealane.NetworkSpec{Name: name, Driver: name})
		if err != nil {
			t.Fatal(err)
		}
		for j := range endpoints {
			s, err := m.CreateSandbox(ctx, sandbox.Spec{Name: fmt.Sprint(name, "-", j)})
			if err != nil {
				t.Fatal(err)
			}
			e, err := n.CreateEndpoint(ctx, endpoint.Spec{Name: fmt.Sprint("e", j), For: s.ID()})
			if err == nil {
				err = e.Join(ctx, s)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, q := range all {
		q.silent.Store(true)
	}
	m.Close()
	m.kernel.Crash()
	const patience = 10 * time.Second
	m.plugins = remote.New(remote.Options{Sockets: dir, Timeout: patience}) // as a daemon that starts: it knows of none that it is silent
	before := time.Now()
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	t.Logf("with %d endpoints of silent plugins a start takes %v", plugins*endpoints, time.Since(before))
	if took := time.Since(before); took > patience { // nobody waited for one
		t.Errorf("a start takes %v", took)
	}
	before = time.Now()
	blue, err := m.CreateNetwork(ctx, sealane.NetworkSpec{Name: "blue"})
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.CreateSandbox(ctx, sandbox.Spec{Name: "web"})
	if err != nil {
		t.Fatal(err)
	}
	e, err := blue.CreateEndpoint(ctx, endpoint.Spec{Name: "web"})
	if err == nil {
		err = e.Join(ctx, s)
	}
	if took := time.Since(before); err != nil || took > patience {
		t.Errorf("on another network: %v after %v", err, took)
	}
	problems := func() (shown int) {
		for n, err := range m.Networks(ctx) {
			if err == nil && strings.Contains(n.Problem, "plugin "+n.Driver) {
				shown++
			}
		}
		return shown
	}
	nstest.Eventually(t, "the networks of silent plugins are shown as such", func() bool { return problems() == plugins })
	for _, q := range all {
		q.silent.Store(false)
	}
	nstest.Eventually(t, "they mend", func() bool { return problems() == 0 })
}

// A plugin that calls back is served, but about what it is being called about: then it is told at once instead of waiting for itself.
func TestCallBack(t *testing.T) {
	ctx, dir, m := t.Context(), t.TempDir(), newMachine(t)
	m.plugins = remote.New(remote.Options{Sockets: dir})
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	defer func() { m.Close() }()
	q := &quiet{}
	own := map[string]error{}
	q.called = func(verb string) {
		if verb != "CreateEndpoint" && verb != "DeleteNetwork" {
			return
		}
		n, err := m.Network(context.Background(), "red")
		if err == nil {
			err = n.Delete(context.Background())
		}
		own[verb] = err
		other, err := m.CreateNetwork(context.Background(), sealane.NetworkSpec{Name: "other"})
		if err == nil {
			err = other.Delete(context.Background())
		}
		if err != nil {
			t.Errorf("%s calls back about another network: %v", verb, err)
		}
	}
	q.listen(t, dir+"/p.sock")
	red, err := m.CreateNetwork(ctx, sealane.NetworkSpec{Name: "red", Driver: "p"})
	if err != nil {
		t.Fatal(err)
	}
	e, err := red.CreateEndpoint(ctx, endpoint.Spec{Name: "e"})
	if err == nil {
		err = e.Delete(ctx)
	}
	if err == nil {
		err = red.Delete(ctx)
	}
	if err != nil {
		t.Error(err)
	}
	for verb, err := range own {
		if !errdefs.IsConflict(err) {
			t.Errorf("%s calls back about its own network: %v", verb, err)
		}
	}
	if len(own) != 2 {
		t.Errorf("called back in %v", own)
	}
}

// A plugin that takes its time about one endpoint holds up neither others of its network nor what else is in the sandbox.
func TestSlowJoinHoldsUpNobody(t *testing.T) {
	ctx, dir, m := t.Context(), t.TempDir(), newMachine(t)
	m.plugins = remote.New(remote.Options{Sockets: dir, Timeout: time.Hour})
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	defer func() { m.Close() }()
	asked, answer := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	q := &quiet{called: func(verb string) {
		if verb == "Join" && held.CompareAndSwap(false, true) {
			close(asked)
			<-answer
		}
	}}
	q.listen(t, dir+"/p.sock")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	join := func(n sealane.Network, name string, s sandbox.Sandbox) error {
		e, err := n.CreateEndpoint(ctx, endpoint.Spec{Name: name})
		if err == nil {
			err = e.Join(ctx, s)
		}
		return err
	}
	red, err := m.CreateNetwork(ctx, sealane.NetworkSpec{Name: "red", Driver: "p"})
	must(err)
	blue, err := m.CreateNetwork(ctx, sealane.NetworkSpec{Name: "blue"})
	must(err)
	web, err := m.CreateSandbox(ctx, sandbox.Spec{Name: "web"})
	must(err)
	other, err := m.CreateSandbox(ctx, sandbox.Spec{Name: "other"})
	must(err)
	slow := make(chan error, 1)
	go func() { slow <- join(red, "slow", web) }()
	<-asked
	must(join(red, "quick", other))
	must(join(blue, "beside", web))
	select {
	case err := <-slow:
		t.Errorf("the plugin has not answered yet, and the join ended with %v", err)
	default:
	}
	close(answer)
	must(<-slow)
}
