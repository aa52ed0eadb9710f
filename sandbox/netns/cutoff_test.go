package netns_test

import (
	"net"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/nstest"
)

// Nothing passes a link that was given up, while it waits to go with its namespace, and even if somebody in there raises its end anew.
func TestNothingPassesWhatWasGivenUp(t *testing.T) {
	y := newYard(t, 0)
	a, neighbour := y.attach(), y.attach()
	in := nstest.At(t, "a", a.ns.Key()) // it lives on
	next := nstest.At(t, "neighbour", neighbour.ns.Key())
	ears := map[string]net.PacketConn{}
	mouths := map[string]net.Conn{}
	for name, h := range map[string]*nstest.Host{a.inner.Routes[0].Via.String(): y.h, neighbour.inner.Links[0].Addrs[0].Addr().String(): next} {
		addr := net.JoinHostPort(name, "7001")
		ears[name] = h.ListenPacket("udp", addr)
		defer ears[name].Close()
		conn, err := in.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		mouths[name] = conn
	}
	say := func(name string, patience time.Duration) bool {
		mouths[name].Write([]byte("x")) // refused when the link is gone
		ears[name].SetReadDeadline(time.Now().Add(patience))
		_, _, err := ears[name].ReadFrom(make([]byte, 1))
		return err == nil
	}
	for name := range ears {
		if !say(name, time.Minute) {
			t.Fatalf("%s hears nothing while the link is there", name)
		}
	}
	y.detach(a)
	for _, args := range [][]string{nil, {"link", "set", "eth0", "down"}, {"link", "set", "eth0", "up"}} {
		if args != nil {
			in.Try("ip", args...) // it may be gone
		}
		for name := range ears {
			if say(name, 100*time.Millisecond) {
				t.Errorf("%s hears what was given up (%v)", name, args)
			}
		}
	}
	y.detach(neighbour)
}
