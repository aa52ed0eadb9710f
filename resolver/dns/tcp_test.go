package dns_test

import (
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/resolver"
	"golang.org/x/sys/unix"
)

// TestNoDescriptors: a connection that cannot be taken for want of a descriptor waits, and its socket is left alone instead of being tried all
// the time; who asks by UDP is answered meanwhile, and the connection when there are descriptors again.
func TestNoDescriptors(t *testing.T) {
	w := newWorld(t, nil)
	w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
	w.set(w.space(), resolver.View{Sandbox: "a", Zones: []endpoint.NetworkID{blue}})
	var rested atomic.Bool
	w.r.Between(func() {
		if w.r.Resting() {
			rested.Store(true)
		}
	})
	udp, err := w.inside["a"].Dial("udp", "127.0.0.11:53")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	allow := func(n uint64) error {
		return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: limit.Max})
	}
	defer allow(limit.Cur)
	var tcp net.Conn
	w.inside["a"].Do(func() (err error) {
		d := net.Dialer{Control: func(string, string, syscall.RawConn) error { return allow(0) }} // it has its own by now
		tcp, err = d.Dial("tcp", "127.0.0.11:53")
		return err
	})
	defer tcp.Close()
	q := question("web", mdns.TypeA)
	tcp.SetDeadline(time.Now().Add(time.Minute))
	if err := (&mdns.Conn{Conn: tcp}).WriteMsg(q); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, "the connection is left alone while others are answered", func() bool {
		if m := exchangeOn(t, &mdns.Conn{Conn: udp}, q); data(m) != "10.1.0.2" {
			t.Fatal(m)
		}
		return rested.Load()
	})
	if err := allow(limit.Cur); err != nil {
		t.Fatal(err)
	}
	if m, err := (&mdns.Conn{Conn: tcp}).ReadMsg(); err != nil || data(m) != "10.1.0.2" {
		t.Errorf("%v, %v", m, err)
	}
}
