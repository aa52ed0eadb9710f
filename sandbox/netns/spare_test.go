package netns_test

import (
	"fmt"
	"testing"

	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox/netns"
	"golang.org/x/sys/unix"
)

// TestSocket: a socket is in the namespace that was asked for, whether it was made with it or later, and none of those made with it keeps one
// alive that was removed, or outlives the Provider.
func TestSocket(t *testing.T) {
	udp := netns.Kind{Domain: unix.AF_INET, Type: unix.SOCK_DGRAM}
	h := nstest.New(t, "host")
	p, err := netns.New(netns.Options{Host: h.Path(), Run: t.TempDir(), Instance: "spare", Sockets: []netns.Kind{udp, udp}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx := t.Context()
	for n := range 20 { // more than it keeps sockets of
		id := fmt.Sprintf("%064x", n)
		ns, err := p.Create(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Remove(ctx, id)
		defer ns.Close()
		if n%3 == 0 {
			continue
		}
		for range 3 {
			fd, err := p.Socket(ns.Key(), udp)
			if err != nil {
				t.Fatal(err)
			}
			const soNetnsCookie = 71
			if got, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, soNetnsCookie); err != nil || got != ns.Cookie() {
				t.Errorf("socket of namespace %d, want %d (%v)", got, ns.Cookie(), err)
			}
			unix.Close(fd)
		}
	}
	id := fmt.Sprintf("%064x", 1<<20)
	ns, err := p.Create(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Remove(ctx, id); err != nil {
		t.Error(err)
	}
	if fd, err := p.Socket(ns.Key(), udp); err == nil {
		t.Error("a namespace that was removed still has sockets")
		unix.Close(fd)
	}
	ns.Close()
}
