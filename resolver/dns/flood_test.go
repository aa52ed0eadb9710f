package dns_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/resolver"
)

// TestFlood: who asks without waiting for answers, until its socket overflows, keeps no answers from another, and is answered again when it
// has come to its senses.
func TestFlood(t *testing.T) {
	w := newWorld(t, nil)
	var rested atomic.Bool
	w.r.Between(func() {
		if w.r.Resting() {
			rested.Store(true)
		}
	})
	w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
	view := resolver.View{Sandbox: "flooding", Zones: []endpoint.NetworkID{blue}}
	w.set(w.space(), view)
	view.Sandbox = "other"
	w.set(w.space(), view)
	c, err := w.inside["flooding"].Dial("udp", "127.0.0.11:53")
	if err != nil {
		t.Fatal(err)
	}
	flooding, err := question("web", mdns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				c.Write(flooding)
			}
		}
	})
	asked := 0
	nstest.Eventually(t, "an overflowing socket is left alone while another is answered", func() bool {
		w.answers("other", "web", "10.1.0.2")
		asked++
		return asked >= 200 && rested.Load()
	})
	close(stop)
	flood.Wait()
	c.Close()
	nstest.Eventually(t, "it is answered again", func() bool { // its first questions may still find no room
		c, err := w.inside["flooding"].Dial("udp", "127.0.0.11:53")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Second))
		conn := &mdns.Conn{Conn: c}
		if err := conn.WriteMsg(question("web", mdns.TypeA)); err != nil {
			return false
		}
		m, err := conn.ReadMsg()
		return err == nil && data(m) == "10.1.0.2"
	})
}
