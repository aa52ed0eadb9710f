package nftables_test

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/firewall/firewalltest"
	"github.com/sealane/sealane/firewall/nftables"
	"github.com/sealane/sealane/internal/nstest"
)

func netListen(address string) (net.Listener, error) { return net.Listen("tcp", address) }

// say sends a datagram and returns the answer, which is waited for as long as that.
func say(c net.Conn, patience time.Duration) (string, error) {
	if _, err := c.Write([]byte("who am I")); err != nil {
		return "", err
	}
	c.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

func drain(t testing.TB, o *nftables.Opener) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := o.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestStaleUDP: a client that talks all the time reaches a port as soon as it is published, loses it when it is not any more, and reaches
// its next owner, over one socket.
func TestStaleUDP(t *testing.T) {
	for _, named := range []bool{false, true} {
		top := build(t, false)
		o, f := open(t, top.Host, "")
		firewalltest.Serve(t, top.Self, 80)
		firewalltest.Serve(t, top.Neighbour, 80)
		apply(t, f, firewall.Change{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{net1()}}})
		for _, a := range top.Addrs {
			everywhere := netip.IPv4Unspecified()
			if a.Host.Is6() {
				everywhere = netip.IPv6Unspecified()
			}
			if named {
				everywhere = a.Host
			}
			port := func(target netip.Addr) firewall.Terms {
				return firewall.Terms{Ports: []firewall.Port{{Interface: "sl-1", Proto: firewall.UDP, Host: everywhere, Target: target,
					HostPorts: firewall.Range{First: 5353, Last: 5353}, Ports: firewall.Range{First: 80, Last: 80}}}}
			}
			c, err := top.Outside.Dial("udp", netip.AddrPortFrom(a.Host, 5353).String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got, err := say(c, time.Second); err == nil {
				t.Fatalf("before it is published: answered as %s", got)
			}
			apply(t, f, firewall.Change{Owner: "ep/1", Want: port(a.Self)})
			drain(t, o)
			if _, err := say(c, time.Minute); err != nil {
				t.Errorf("%s: published: %v", a.Host, err)
			}
			apply(t, f, firewall.Change{Owner: "ep/1", Have: port(a.Self)}, firewall.Change{Owner: "ep/2", Want: port(a.Neighbour)})
			drain(t, o)
			if _, err := say(c, time.Minute); err != nil {
				t.Errorf("%s: moved: %v", a.Host, err)
			}
			if n := entries(top.Host, "src="+a.Neighbour.String()); n == 0 {
				t.Errorf("%s: the neighbour was not reached", a.Host)
			}
			apply(t, f, firewall.Change{Owner: "ep/2", Have: port(a.Neighbour)})
			drain(t, o)
			if got, err := say(c, time.Second); err == nil {
				t.Errorf("%s: withdrawn: answered as %s", a.Host, got)
			}
		}
	}
}

// entries counts what connection tracking of a host has with these words.
func entries(h *nstest.Host, words string) (n int) {
	for _, family := range []string{"ipv4", "ipv6"} {
		out, _ := h.Try("conntrack", "-L", "-f", family)
		for _, line := range strings.Split(out, "\n") {
			if strings.Contains(line, words+" ") {
				n++
			}
		}
	}
	return n
}

// TestForget: the flows of a withdrawn address end, whichever end it was; those of others go on.
func TestForget(t *testing.T) {
	top := build(t, false)
	o, f := open(t, top.Host, "")
	if err := o.Forget(context.Background(), []netip.Addr{addr("10.1.0.2")}); err != nil {
		t.Fatalf("with nothing to forget: %v", err)
	}
	apply(t, f, firewall.Change{Owner: "net/1", Want: firewall.Terms{Networks: []firewall.Network{net1()}}},
		firewall.Change{Owner: "ep/1", Want: published(top)})
	firewalltest.Serve(t, top.Self, 80)
	firewalltest.Serve(t, top.Outside, 80)
	talk := func() {
		for _, a := range top.Addrs {
			for _, proto := range []firewall.Proto{firewall.TCP, firewall.UDP} {
				firewalltest.Call(t, top.Outside, proto, netip.AddrPortFrom(a.Host, top.Any), a.Outside)
				firewalltest.Call(t, top.Self, proto, netip.AddrPortFrom(a.Outside, 80), a.Host)
				firewalltest.Call(t, top.Neighbour, proto, netip.AddrPortFrom(a.Outside, 80), a.Host)
			}
		}
	}
	talk()
	withdrawn := []netip.Addr{addr("10.1.0.2"), addr("fd00:1::2")}
	for _, a := range withdrawn {
		if entries(top.Host, "src="+a.String())+entries(top.Host, "dst="+a.String()) == 0 {
			t.Fatalf("no flows of %s to forget", a)
		}
	}
	others := entries(top.Host, "src=10.1.0.3")
	if err := o.Forget(context.Background(), withdrawn); err != nil {
		t.Fatal(err)
	}
	for _, a := range withdrawn {
		if n := entries(top.Host, "src="+a.String()) + entries(top.Host, "dst="+a.String()); n != 0 {
			t.Errorf("%d flows of %s are left", n, a)
		}
	}
	if n := entries(top.Host, "src=10.1.0.3"); n != others || n == 0 {
		t.Errorf("the neighbour had %d flows, now %d", others, n)
	}
	f.Close() // and with no firewall open
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := o.Forget(context.Background(), []netip.Addr{addr("10.1.0.3")}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := entries(top.Host, "src=10.1.0.3"); n != 0 {
		t.Errorf("%d flows of the neighbour are left", n)
	}
}
