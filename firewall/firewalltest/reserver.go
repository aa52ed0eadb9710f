package firewalltest

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/firewall"
)

// reserver is a firewall.Reserver under test, with the checks that facts repeat.
type reserver struct {
	t testing.TB
	firewall.Reserver
}

// RunReserver shows that a room is a firewall.Reserver. open gives one of a host where no port is in use, and which has both families.
func RunReserver(t *testing.T, open func(t testing.TB) firewall.Reserver) {
	for name, fact := range map[string]func(*testing.T, reserver){
		"any free": anyFree, "exact": exact, "conflicts": conflicts, "range": wholeRange, "bad range": badRange, "cancelled": reserveCancelled,
	} {
		t.Run(name, func(t *testing.T) { fact(t, reserver{t, open(t)}) })
	}
}

func (r reserver) take(proto firewall.Proto, host netip.Addr, first, last uint16) (firewall.Range, io.Closer) {
	r.t.Helper()
	got, held, err := r.Reserve(context.Background(), proto, host, firewall.Range{First: first, Last: last})
	if err != nil {
		r.t.Fatalf("reserve %d-%d/%s on %s: %v", first, last, proto, host, err)
	}
	r.t.Cleanup(func() { held.Close() })
	return got, held
}

func (r reserver) refuses(kind error, proto firewall.Proto, host netip.Addr, first, last uint16) {
	r.t.Helper()
	_, held, err := r.Reserve(context.Background(), proto, host, firewall.Range{First: first, Last: last})
	if err == nil {
		held.Close()
	}
	if !isKind(err, kind) {
		r.t.Errorf("reserve %d-%d/%s on %s: got %v, want %v", first, last, proto, host, err, kind)
	}
}

// anyFree: zero ports are one port that nobody has, every time another.
func anyFree(t *testing.T, r reserver) {
	seen := map[string]bool{}
	for range 50 {
		for _, proto := range []firewall.Proto{firewall.TCP, firewall.UDP} {
			got, _ := r.take(proto, netip.Addr{}, 0, 0)
			key := fmt.Sprint(proto, got)
			if got.Len() != 1 || got.First < 1024 || seen[key] {
				t.Errorf("got %s/%s", got, proto)
			}
			seen[key] = true
		}
	}
}

// exact: a port is held until it is given back, once for each protocol.
func exact(t *testing.T, r reserver) {
	got, held := r.take(firewall.TCP, netip.Addr{}, 8080, 8080)
	if want := (firewall.Range{First: 8080, Last: 8080}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	r.refuses(errdefs.ErrAlreadyExists, firewall.TCP, netip.Addr{}, 8080, 8080)
	r.take(firewall.UDP, netip.Addr{}, 8080, 8080)
	for range 2 {
		if err := held.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r.take(firewall.TCP, netip.Addr{}, 8080, 8080)
}

// conflicts: addresses that overlap cannot both have a port, others can.
func conflicts(t *testing.T, r reserver) {
	all4, all6, one4, other4, one6 := addr("0.0.0.0"), addr("::"), addr("127.0.0.1"), addr("127.0.0.2"), addr("::1")
	for i, c := range []struct {
		first, second netip.Addr
		overlap       bool
	}{
		{netip.Addr{}, all4, true}, {netip.Addr{}, all6, true}, {netip.Addr{}, one4, true}, {netip.Addr{}, one6, true},
		{all4, one4, true}, {one4, all4, true}, {one4, netip.Addr{}, true}, {one6, netip.Addr{}, true}, {one6, all6, true},
		{all4, all6, false}, {all4, one6, false}, {one4, other4, false}, {all6, one4, false},
	} {
		port := uint16(8100 + i)
		r.take(firewall.TCP, c.first, port, port)
		if c.overlap {
			r.refuses(errdefs.ErrAlreadyExists, firewall.TCP, c.second, port, port)
		} else {
			r.take(firewall.TCP, c.second, port, port)
		}
	}
}

// wholeRange: all of a range or nothing.
func wholeRange(t *testing.T, r reserver) {
	_, held := r.take(firewall.TCP, netip.Addr{}, 8205, 8205)
	r.refuses(errdefs.ErrAlreadyExists, firewall.TCP, netip.Addr{}, 8200, 8209)
	r.take(firewall.TCP, netip.Addr{}, 8200, 8204)
	held.Close()
	got, _ := r.take(firewall.TCP, netip.Addr{}, 8205, 8209)
	if got.Len() != 5 {
		t.Errorf("got %s", got)
	}
	r.take(firewall.UDP, netip.Addr{}, 65530, 65535)
}

func badRange(t *testing.T, r reserver) {
	r.refuses(errdefs.ErrInvalidArgument, firewall.TCP, netip.Addr{}, 9, 8)
	r.refuses(errdefs.ErrInvalidArgument, firewall.TCP, netip.Addr{}, 0, 8)
}

func reserveCancelled(t *testing.T, r reserver) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, held, err := r.Reserve(ctx, firewall.TCP, netip.Addr{}, firewall.Range{First: 8080, Last: 8080}); err == nil {
		held.Close()
		t.Error("no error")
	}
}
