package main

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/sealane/sealane/api"
	"github.com/sealane/sealane/internal/nstest"
)

// TestNamesWhileKilled kills the daemon ten times while a container asks for another's name: every question is answered, those asked while no
// daemon was there by the next one.
func TestNamesWhileKilled(t *testing.T) {
	const times = 10
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
	asking, stop := context.WithCancel(ctx)
	var took []time.Duration
	var work sync.WaitGroup
	work.Go(func() { took = askAlways(asking, t, client, want) })
	var away []time.Duration
	for range times {
		began := time.Now()
		d.killNine()
		d.serve()
		away = append(away, time.Since(began))
	}
	stop()
	work.Wait()
	slices.Sort(took)
	if len(took) < times {
		t.Fatalf("%d questions were asked", len(took))
	}
	t.Logf("%d questions: all answered, p50 %v, the slowest after %v; the daemon was away for at most %v", len(took), took[len(took)/2],
		took[len(took)-1].Round(time.Millisecond), slices.Max(away).Round(time.Millisecond))
}

// askAlways asks for web until ctx ends and says what each answer took.
func askAlways(ctx context.Context, t *testing.T, from *nstest.Host, want string) (took []time.Duration) {
	c, err := from.Dial("udp", "127.0.0.11:53")
	if err != nil {
		t.Error(err)
		return nil
	}
	defer c.Close()
	conn := &dns.Conn{Conn: c}
	for ctx.Err() == nil {
		began := time.Now()
		c.SetDeadline(began.Add(time.Minute))
		if err := conn.WriteMsg(new(dns.Msg).SetQuestion("web.", dns.TypeA)); err != nil {
			t.Error(err)
			return took
		}
		m, err := conn.ReadMsg()
		if err != nil || len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != want {
			t.Errorf("%v, %v, want %s", m, err, want)
			return took
		}
		took = append(took, time.Since(began))
	}
	return took
}
