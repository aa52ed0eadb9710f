package nftables_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/nstest"
)

func TestReserver(t *testing.T) {
	nstest.MustNotLeak(t)
	firewalltest.RunReserver(t, func(t testing.TB) firewall.Reserver {
		o, err := nftables.New(nftables.Options{Host: nstest.New(t, "h").Path()})
		if err != nil {
			t.Fatal(err)
		}
		return o
	})
}

// TestReserveAgainstProcesses: what others listen at is taken, and they cannot take what is held.
func TestReserveAgainstProcesses(t *testing.T) {
	h := nstest.New(t, "h")
	o, _ := open(t, h, "")
	ctx, one := context.Background(), firewall.Range{First: 8080, Last: 8080}
	l := h.Listen("tcp", "127.0.0.1:8080")
	_, _, err := o.Reserve(ctx, firewall.TCP, netip.Addr{}, one)
	if !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "8080/tcp") {
		t.Errorf("got %v, want AlreadyExists with the port", err)
	}
	l.Close()
	_, held, err := o.Reserve(ctx, firewall.TCP, netip.Addr{}, one)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	h.Do(func() error {
		for _, address := range []string{"127.0.0.1:8080", "[::]:8080"} {
			if l, err := netListen(address); err == nil {
				l.Close()
				t.Errorf("%s could be listened at", address)
			}
		}
		return nil
	})
	if _, _, err = o.Reserve(ctx, firewall.TCP, addr("192.0.2.1"), one); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("an address of somebody else: got %v, want FailedPrecondition", err)
	}
	if _, _, err = o.Reserve(ctx, firewall.Proto(250), netip.Addr{}, one); !errdefs.IsNotImplemented(err) {
		t.Errorf("a protocol without sockets: got %v, want NotImplemented", err)
	}
}

// TestReserveLeavesReserved: a port that the administrator reserved is not picked.
func TestReserveLeavesReserved(t *testing.T) {
	h := nstest.New(t, "h")
	o, _ := open(t, h, "")
	h.Sysctl("ipv4.ip_local_port_range", "40000 40005")
	h.Sysctl("ipv4.ip_local_reserved_ports", "40000,40002")
	got := map[uint16]bool{}
	for range 4 {
		r, held, err := o.Reserve(context.Background(), firewall.TCP, netip.Addr{}, firewall.Range{})
		if err != nil {
			t.Fatal(err)
		}
		defer held.Close()
		got[r.First] = true
	}
	if !got[40001] || !got[40003] || !got[40004] || !got[40005] {
		t.Errorf("got %v, want all that are not reserved", got)
	}
	if _, _, err := o.Reserve(context.Background(), firewall.TCP, netip.Addr{}, firewall.Range{}); !errdefs.IsResourceExhausted(err) {
		t.Errorf("none is left: got %v, want ResourceExhausted", err)
	}
}
