package main

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sealane/sealane/api"
)

// TestNamesWhileKilled kills the daemon again and again while containers ask for another's name, several questions at a time: each is sent once
// and answered, those asked while no daemon was there, and those that the last one had seen, by the next.
func TestNamesWhileKilled(t *testing.T) {
	const times, askers = 20, 4
	host, _ := hosts(t)
	host.MustReturn()
	d := newVictim(t, host)
	d.serve()
	ctx := t.Context()
	d.must(d.CreateNetwork(ctx, api.NetworkSpec{Name: "blue"}))
	for _, name := range []string{"web", "client"} {
		d.must(d.CreateSandbox(ctx, api.SandboxSpec{Name: name, Networks: []api.NetworkJoin{{Network: "blue"}}}))
	}
	t.Cleanup(func() { d.removeAll("blue") })
	want, client := d.sandbox("web").Networks["blue"].IPAddress.String(), d.inside("client")
	stop, conns, took := make(chan struct{}), make([]net.Conn, askers), make([][]time.Duration, askers)
	var work sync.WaitGroup
	for n := range askers {
		var err error
		if conns[n], err = client.Dial("udp", "127.0.0.11:53"); err != nil {
			t.Fatal(err)
		}
		work.Go(func() { took[n] = askAlways(t, conns[n], stop, want) })
	}
	hangUp := func() {
		for _, c := range conns {
			c.Close()
		}
	}
	defer work.Wait()
	defer hangUp()
	var away []time.Duration
	for range times {
		began := time.Now()
		d.killNine()
		d.serve()
		away = append(away, time.Since(began))
	}
	close(stop)
	lost := time.AfterFunc(time.Minute, hangUp) // the daemon is there: what is not answered now never is
	work.Wait()
	lost.Stop()
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	if len(all) < times {
		t.Fatalf("%d questions were answered", len(all))
	}
	t.Logf("%d questions: all answered, p50 %v, the slowest after %v; the daemon was away for at most %v", len(all), all[len(all)/2],
		all[len(all)-1].Round(time.Millisecond), slices.Max(away).Round(time.Millisecond))
}

// askAlways asks for web until it is to stop, each question once, and says what each answer took.
func askAlways(t *testing.T, c net.Conn, stop chan struct{}, want string) (took []time.Duration) {
	conn := &dns.Conn{Conn: c}
	for {
		select {
		case <-stop:
			return took
		default:
		}
		began, q := time.Now(), new(dns.Msg).SetQuestion("web.", dns.TypeA)
		if err := conn.WriteMsg(q); err != nil {
			t.Error(err)
			return took
		}
		for {
			m, err := conn.ReadMsg()
			if err != nil || len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != want {
				t.Errorf("%v, %v, want %s", m, err, want)
				return took
			}
			if m.Id == q.Id { // and not once more the answer to an earlier one, which a kill had kept in the socket
				break
			}
		}
		took = append(took, time.Since(began))
	}
}
