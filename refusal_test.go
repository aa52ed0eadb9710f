package sealane_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// kinds are the kinds of error that a call can be refused with.
func kinds() map[string]func(error) bool {
	return map[string]func(error) bool{
		"InvalidArgument": errdefs.IsInvalidArgument, "NotFound": errdefs.IsNotFound, "AlreadyExists": errdefs.IsAlreadyExists,
		"FailedPrecondition": errdefs.IsFailedPrecondition, "OutOfRange": errdefs.IsOutOfRange, "Conflict": errdefs.IsConflict,
		"ResourceExhausted": errdefs.IsResourceExhausted,
	}
}

// refuses makes a call that must fail with a kind of error and without effect. The error is returned.
func refuses(t *testing.T, w *world, kind string, call func() error) error {
	t.Helper()
	before := w.everything()
	err := call()
	is := kinds()
	if err == nil || !is[kind](err) {
		t.Errorf("got %v, want %s", err, kind)
	}
	for other, has := range is {
		if other != kind && err != nil && has(err) {
			t.Errorf("%v is %s too", err, other)
		}
	}
	if err != nil && (strings.Contains(err.Error(), "\n") || len(err.Error()) > 600) {
		t.Errorf("the message is not a line: %q", err)
	}
	w.Idle(t.Context())
	if d := cmp.Diff(before, w.everything()); d != "" {
		t.Errorf("%v had effects (-before +after):\n%s", err, d)
	}
	return err
}

// everything is what the host contains and what the records say, with the count of addresses taken.
func (w *world) everything() []string {
	w.t.Helper()
	all := w.host.Inventory()
	put := func(what string, v any, err error) {
		if err != nil {
			w.t.Fatal(err)
		}
		var text bytes.Buffer
		if err := json.NewEncoder(&text).Encode(v); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, what+" "+text.String())
	}
	ctx := w.t.Context()
	for n, err := range w.Networks(ctx) {
		put("network", n, err)
		h, err := w.Network(ctx, string(n.ID))
		put("usage", fmt.Sprint(w.Usage(ctx, n)), err)
		for e, err := range h.Endpoints(ctx) {
			put("endpoint", e, err)
		}
	}
	for s, err := range w.Sandboxes(ctx) {
		put("sandbox", s, err)
	}
	ids, err := w.spaces.List(ctx)
	put("namespaces", len(ids), err)
	slices.Sort(all)
	return all
}
