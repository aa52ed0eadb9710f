package sandboxtest

import (
	"context"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox"
)

func testCreate(t *testing.T, e Env) {
	ctx, id := t.Context(), newID()
	first, err := e.Provider.Create(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if links := e.Links(first.Key()); len(links) != 0 {
		t.Errorf("a new namespace has links: %v", links)
	}
	again, err := e.Provider.Create(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if first.Key() != again.Key() || first.Cookie() != again.Cookie() || first.Key() == "" {
		t.Errorf("created twice: %q cookie %d, then %q cookie %d", first.Key(), first.Cookie(), again.Key(), again.Cookie())
	}
	for range 2 {
		if err := e.Provider.Remove(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Provider.Open(ctx, sandbox.Origin{Path: first.Key()}); !errdefs.IsNotFound(err) {
		t.Errorf("open what was removed: %v", err)
	}
	after, id2 := e.create(t)
	if after.Cookie() == first.Cookie() || id2 == id {
		t.Error("a new namespace has the cookie of an old one")
	}
	for _, bad := range []string{"", "../up", "a/b", "."} {
		if _, err := e.Provider.Create(ctx, bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("create %q: %v", bad, err)
		}
	}
	for range 2 {
		if err := after.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

func testCookie(t *testing.T, e Env) {
	a, _ := e.create(t)
	b, _ := e.create(t)
	host := e.host(t)
	if host.Key() != "" {
		t.Errorf("the host's key is %q", host.Key())
	}
	cookies := []uint64{a.Cookie(), b.Cookie(), host.Cookie()}
	for i, c := range cookies {
		if c == 0 || slices.Index(cookies, c) != i {
			t.Errorf("cookies %v", cookies)
		}
	}
	opened, err := e.Provider.Open(t.Context(), sandbox.Origin{Path: a.Key()})
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	if opened.Cookie() != a.Cookie() || opened.Key() != a.Key() {
		t.Errorf("opened by path: key %q cookie %d, want %q %d", opened.Key(), opened.Cookie(), a.Key(), a.Cookie())
	}
	theirs, err := e.Provider.Open(t.Context(), sandbox.Origin{Path: e.Path()})
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if slices.Contains(cookies, theirs.Cookie()) {
		t.Errorf("a namespace of somebody else's has the cookie %d of one of %v", theirs.Cookie(), cookies)
	}
}

func testOpenRefuses(t *testing.T, e Env) {
	for what, path := range e.Bad {
		if n, err := e.Provider.Open(t.Context(), sandbox.Origin{Path: path}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, %v", what, n, err)
		}
	}
	if len(e.Bad) == 0 {
		t.Error("the environment names no bad paths")
	}
	const noPID = 1<<22 + 1 // above the kernel's limit
	for _, o := range []sandbox.Origin{{Path: "/nowhere/at/all"}, {PID: noPID}} {
		if _, err := e.Provider.Open(t.Context(), o); !errdefs.IsNotFound(err) {
			t.Errorf("open %+v: %v", o, err)
		}
	}
	for _, o := range []sandbox.Origin{{}, {Late: true}, {Foreign: true}, {Share: "x"}} {
		if _, err := e.Provider.Open(t.Context(), o); !errdefs.IsInvalidArgument(err) {
			t.Errorf("open %+v: %v", o, err)
		}
	}
}

func testGone(t *testing.T, e Env) {
	watcher, ok := e.Provider.(sandbox.Gone)
	if !ok {
		t.Fatal("the room does not tell of namespaces that end")
	}
	stays, goes := e.Path(), e.Path()
	for _, path := range []string{stays, goes} {
		n, err := e.Provider.Open(t.Context(), sandbox.Origin{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	e.End(goes)
	for key := range watcher.Gone(ctx) {
		if key != goes {
			t.Errorf("told that %s has ended, and not %s", key, goes)
		}
		break
	}
	if ctx.Err() != nil {
		t.Error("nothing was told")
	}
	if _, err := e.Provider.Open(t.Context(), sandbox.Origin{Path: goes}); err == nil {
		t.Error("what has ended can be opened")
	}
}
