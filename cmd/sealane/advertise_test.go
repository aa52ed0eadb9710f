package main

import (
	"testing"

	"github.com/containerd/errdefs"
)

func TestAdvertised(t *testing.T) {
	for _, c := range []struct{ flag, store, want string }{
		{"192.0.2.7", "", "192.0.2.7"},
		{"2001:db8::7", "", "2001:db8::7"},
		{"", "bolt", "invalid IP"},
		{"", "consul://127.0.0.1:8500", "invalid IP"}, // a store on this host says nothing of where others find us
	} {
		got, err := advertised(c.flag, c.store)
		if err != nil || got.String() != c.want {
			t.Errorf("--advertise %q --store %q: got %v, %v, want %s", c.flag, c.store, got, err, c.want)
		}
	}
	for _, flag := range []string{"nosuchlink0", "0.0.0.0", "127.0.0.1", "224.0.0.1", "fe80::1%lo"} {
		if got, err := advertised(flag, ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("--advertise %s: got %v, %v, want InvalidArgument", flag, got, err)
		}
	}
	if _, err := advertised("lo", ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("--advertise lo: %v, want FailedPrecondition", err)
	}
}
