package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
)

// OpenAt opens a store on servers that it reaches by dial, in which one request takes a second at most, and closes it at cleanup.
type OpenAt func(t testing.TB, endpoints []string, prefix string, dial Dial) datastore.Store

// patience bounds what servers do in their own time: elect, end a session.
const patience = 90 * time.Second

// RunServers shows on real servers what a store makes of their troubles.
func RunServers(t *testing.T, kind servertest.Kind, open OpenAt) {
	t.Run("OneServer", func(t *testing.T) {
		nstest.MustNotLeak(t)
		server := servertest.One(t, kind, servertest.Options{}).Servers[0]
		for i, fact := range []struct {
			name string
			show func(*testing.T, *rig)
		}{
			{"LostReply", lostReply},
			{"LostRequest", lostRequest},
			{"SilentServer", silentServer},
			{"WatchSeesOutage", watchSeesOutage},
			{"WatchAfterRestore", watchAfterRestore},
			{"Presence", presence},
			{"PresenceOfOne", presenceOfOne},
			{"PresenceLost", presenceLost},
			{"GenerationsGo", generationsGo},
		} {
			t.Run(fact.name, func(t *testing.T) {
				r := &rig{server: server, wire: NewWire(server.Host.DialContext)}
				prefix := "fact/" + strconv.Itoa(i)
				r.a = open(t, []string{server.Endpoint()}, prefix, r.wire.Dial)
				r.b = open(t, []string{server.Endpoint()}, prefix, server.Host.DialContext)
				fact.show(t, r)
			})
		}
	})
	t.Run("LeaderKilled", func(t *testing.T) { leaderKilled(t, kind, open) })
	t.Run("CutOff", func(t *testing.T) { cutOff(t, kind, open) })
}

// rig is a server with two stores on the same data, the first over a wire.
type rig struct {
	server *servertest.Server
	wire   *Wire
	a, b   datastore.Store
}

// The commit is made and nobody says so.
func lostReply(t *testing.T, r *rig) {
	put(t, r.a, "d/k", "1")
	id := "ours"
	take := func(tx datastore.Tx) error {
		switch owner, err := tx.Get("name"); {
		case err == nil && string(owner) != id:
			return errTaken
		case err == nil:
			return nil // it was us, and we were not told
		case !errdefs.IsNotFound(err):
			return err
		}
		return putAll(tx, "name", id, "d/k", "2")
	}
	err := r.a.Update(timeout(t), func(tx datastore.Tx) error {
		if _, err := tx.Get("name"); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		r.wire.Mute()
		go func() {
			for range r.b.Watch(timeout(t), "d") { // the first batch may be of before
				if get(t, r.b, "name") != "" {
					break
				}
			}
			r.wire.Cut()
		}()
		return take(tx)
	})
	if !datastore.IsUncertain(err) || !errdefs.IsUnavailable(err) {
		t.Fatalf("got %v, want Uncertain of kind Unavailable", err)
	}
	want(t, "what was committed", get(t, r.b, "d/k"), "2")
	r.wire.Mend()
	update(t, r.a, take)
}

// The commit never leaves: that is certain.
func lostRequest(t *testing.T, r *rig) {
	err := r.a.Update(timeout(t), func(tx datastore.Tx) error {
		if _, err := tx.Get("d/k"); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		r.wire.Cut()
		return tx.Put("d/k", []byte("1"))
	})
	wantKind(t, "Update", err, errdefs.IsUnavailable)
	want(t, "what was committed", get(t, r.b, "d/k"), "")
	r.wire.Mend()
	put(t, r.a, "d/k", "2")
}

// A server that takes requests and answers none costs a deadline, not more.
func silentServer(t *testing.T, r *rig) {
	put(t, r.a, "d/k", "1")
	r.server.Freeze()
	defer r.server.Thaw()
	start := time.Now()
	err := r.a.View(timeout(t), func(tx datastore.Tx) error { _, err := tx.Get("d/k"); return err })
	wantKind(t, "View", err, errdefs.IsUnavailable)
	err = r.a.Update(timeout(t), func(tx datastore.Tx) error { return tx.Put("d/k", []byte("2")) })
	wantKind(t, "Update", err, errdefs.IsUnavailable)
	if d := time.Since(start); d > limit/2 {
		t.Fatalf("both took %v", d)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantKind(t, "View with less patience", r.a.View(short, func(tx datastore.Tx) error { _, err := tx.Get("d/k"); return err }), errdefs.IsAborted)
	r.server.Thaw()
	put(t, r.a, "d/k", "3")
}

// news is a watch in the background.
type news struct {
	t      testing.TB
	events chan news1
	view   map[string]string
}

type news1 struct {
	batch datastore.Batch
	err   error
}

func listen(t testing.TB, s datastore.Store, dir string) *news {
	ctx, cancel := context.WithCancel(context.Background())
	n := &news{t: t, events: make(chan news1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b, err := range s.Watch(ctx, dir) {
			select {
			case n.events <- news1{b, err}:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return n
}

// until takes what the watch says until ok; of errors Unavailable alone is good.
func (n *news) until(what string, ok func(news1) bool) {
	n.t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		select {
		case e := <-n.events:
			if e.err != nil && !errdefs.IsUnavailable(e.err) {
				n.t.Fatalf("%s: the watch says %v", what, e.err)
			}
			n.take(e)
			if ok(e) {
				return
			}
		case <-end.C:
			n.t.Fatalf("not after %v: %s; known: %v", patience, what, n.view)
		}
	}
}

func (n *news) take(e news1) {
	if e.err != nil {
		return
	}
	if e.batch.Full {
		n.view = map[string]string{}
	}
	for name, value := range e.batch.Put {
		n.view[name] = string(value)
	}
	for _, name := range e.batch.Delete {
		delete(n.view, name)
	}
}

// The server dies and comes back: the watch says so, and then all there is.
func watchSeesOutage(t *testing.T, r *rig) {
	put(t, r.b, "d/old", "1", "d/kept", "1")
	n := listen(t, r.a, "d")
	n.until("the directory", func(e news1) bool { return e.batch.Full })
	r.server.Kill()
	n.until("the outage", func(e news1) bool { return e.err != nil })
	err := r.b.View(timeout(t), func(tx datastore.Tx) error { _, err := tx.Get("d/kept"); return err })
	wantKind(t, "View", err, errdefs.IsUnavailable)
	r.server.Start()
	r.server.WaitReady()
	update(t, r.b, func(tx datastore.Tx) error { return errors.Join(tx.Delete("d/old"), tx.Put("d/new", []byte("1"))) })
	full := false
	n.until("all again", func(e news1) bool {
		full = full || e.batch.Full
		return full && n.view["new"] == "1" && n.view["old"] == ""
	})
	wantMap(t, "known", n.view, map[string]string{"kept": "1", "new": "1"})
}

// The server comes back with what it had long ago, and goes on from there, further than where the watch had been.
func watchAfterRestore(t *testing.T, r *rig) {
	put(t, r.b, "d/k", "old")
	r.server.Stop()
	restore := r.server.Backup()
	r.server.Start()
	r.server.WaitReady()
	n := listen(t, r.a, "d")
	for i := range 5 {
		put(t, r.b, "d/lost"+strconv.Itoa(i), "1", "d/k", "new")
	}
	n.until("what is lost then", func(news1) bool { return n.view["lost4"] == "1" && n.view["k"] == "new" })
	r.server.Stop()
	restore()
	r.server.Start()
	r.server.WaitReady()
	for i := range 10 {
		put(t, r.b, "d/found", strconv.Itoa(i))
	}
	n.until("what was restored", func(news1) bool { return n.view["found"] == "9" && n.view["lost4"] == "" })
	wantMap(t, "known", n.view, map[string]string{"k": "old", "found": "9"})
}

// Who announces itself is seen, takes the place of who it was before and of nobody else, and goes when it likes.
func presence(t *testing.T, r *rig) {
	n := listen(t, r.b, "alive")
	first, leaveFirst := announce(t, r.a, "one")
	defer leaveFirst()
	n.until("the first", func(news1) bool { return n.view["host"] == "one" })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := r.b.(datastore.Presence).Announce(ctx, "alive/host", []byte("two")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second one of another value: %v", err)
	}
	want(t, "the first, when the second was refused", get(t, r.b, "alive/host"), "one")
	_, leave := announce(t, r.b, "one")
	leaveFirst()
	<-first
	want(t, "the next life of the first, when that has left", get(t, r.a, "alive/host"), "one")
	leave()
	n.until("nobody", func(news1) bool { return n.view["host"] == "" })
	_, leave = announce(t, r.b, "two")
	n.until("the second, when nobody is there", func(news1) bool { return n.view["host"] == "two" })
	leave()
}

// Of those who announce themselves at one moment one does.
func presenceOfOne(t *testing.T, r *rig) {
	const all = 8
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	errs := make(chan error, all)
	for i := range all {
		s := []datastore.Store{r.a, r.b}[i%2]
		go func() {
			for {
				_, err := s.(datastore.Presence).Announce(ctx, "alive/host", []byte(strconv.Itoa(i)))
				if !errdefs.IsAborted(err) { // else somebody was quicker, who may be refused by now
					errs <- err
					return
				}
			}
		}()
	}
	there := 0
	for range all {
		if err := <-errs; err == nil {
			there++
		} else if !errdefs.IsAlreadyExists(err) {
			t.Error(err)
		}
	}
	want(t, "announced", there, 1)
}

func announce(t testing.TB, s datastore.Store, value string) (<-chan struct{}, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	lost, err := s.(datastore.Presence).Announce(ctx, "alive/host", []byte(value))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	return lost, func() { cancel(); <-lost }
}

// Who cannot reach the store any more is told, and is seen to be gone; what it owns stays.
func presenceLost(t *testing.T, r *rig) {
	put(t, r.a, "owned/x", "1")
	n := listen(t, r.b, "alive")
	lost, leave := announce(t, r.a, "one")
	defer leave()
	n.until("its presence", func(news1) bool { return n.view["host"] == "one" })
	r.wire.Cut()
	n.until("its absence", func(news1) bool { return n.view != nil && n.view["host"] == "" })
	select {
	case <-lost:
	case <-time.After(patience):
		t.Error("it is not told")
	}
	r.wire.Mend()
	want(t, "what it owns", get(t, r.b, "owned/x"), "1")
	_, again := announce(t, r.a, "back")
	again()
}

// Who lists a directory and leaves it empty leaves nothing of it, and others are not fooled.
func generationsGo(t *testing.T, r *rig) {
	put(t, r.a, "d/x", "1", "d/y", "1", "e", "1")
	runs := 0
	update(t, r.a, func(tx datastore.Tx) error {
		runs++
		n := len(listed(tx, "d"))
		if runs == 1 {
			update(t, r.b, func(tx datastore.Tx) error {
				for name := range tx.List("d") {
					if err := tx.Delete("d/" + name); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return tx.Put("count", []byte(strconv.Itoa(n)))
	})
	want(t, "runs", runs, 2)
	want(t, "counted", get(t, r.b, "count"), "0")
	put(t, r.b, "d/z", "1")
	wantMap(t, "the directory", list(t, r.a, "d"), map[string]string{"z": "1"})
}

// three are servers on a LAN, with a host for clients.
func three(t *testing.T, kind servertest.Kind) (*servertest.Cluster, *nstest.LAN, *nstest.Host) {
	client := nstest.New(t, "client")
	hosts := []*nstest.Host{nstest.New(t, "one"), nstest.New(t, "two"), nstest.New(t, "three")}
	lan := nstest.NewLAN(t, netip.MustParsePrefix("192.0.2.0/24"), append(hosts, client)...)
	var nodes []servertest.Node
	for _, h := range hosts {
		nodes = append(nodes, servertest.Node{Host: h, Addr: lan.Addr(h)})
	}
	return servertest.Start(t, kind, servertest.Options{}, nodes...), lan, client
}

// from lists the endpoints with one first, which a store on Consul asks before the others.
func from(c *servertest.Cluster, first *servertest.Server) []string {
	all := []string{first.Endpoint()}
	for _, s := range c.Servers {
		if s != first {
			all = append(all, s.Endpoint())
		}
	}
	return all
}

func other(c *servertest.Cluster, not ...*servertest.Server) *servertest.Server {
next:
	for _, s := range c.Servers {
		for _, n := range not {
			if s == n {
				continue next
			}
		}
		return s
	}
	return nil
}

// count adds a key under the number of those that are there, as often as it is told the outcome, and says which numbers were given.
func count(t *testing.T, s datastore.Store, who string, stop <-chan struct{}) (sure map[string]bool, err error) {
	sure = map[string]bool{}
	for i := 0; ; i++ {
		select {
		case <-stop:
			return sure, nil
		default:
		}
		key := fmt.Sprintf("n/%s%d", who, i)
		number := ""
		err := s.Update(timeout(t), func(tx datastore.Tx) error {
			if v, err := tx.Get(key); err == nil {
				number = string(v)
				return nil
			}
			v, err := tx.Get("last")
			if err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			last, _ := strconv.Atoi(string(v))
			number = strconv.Itoa(last + 1)
			return putAll(tx, key, number, "last", number)
		})
		switch {
		case err == nil:
			sure[number] = true
		case datastore.IsUncertain(err): // may be there, and then counts once
		case !errdefs.IsUnavailable(err) && !errdefs.IsAborted(err):
			return sure, err
		}
	}
}

// The leader dies under load, whom one store asked and another did not know: what was promised is there, no number was given twice, and it
// goes on.
func leaderKilled(t *testing.T, kind servertest.Kind, open OpenAt) {
	nstest.MustNotLeak(t)
	c, _, client := three(t, kind)
	leader := c.Leader()
	one := open(t, []string{other(c, leader).Endpoint()}, "", client.DialContext)
	s := open(t, from(c, leader), "", client.DialContext)
	n := listen(t, s, "n")
	stop, done := make(chan struct{}), make(chan struct{})
	results := make([]map[string]bool, 2)
	errs := make([]error, 2)
	go func() {
		defer close(done)
		together(t, func() error { results[0], errs[0] = count(t, s, "a", stop); return errs[0] },
			func() error { results[1], errs[1] = count(t, one, "b", stop); return errs[1] })
	}()
	n.until("some writes", func(news1) bool { return len(n.view) > 20 })
	began := time.Now()
	leader.Kill()
	c.Leader(leader)
	elected := time.Since(began)
	before := len(n.view)
	n.until("more writes", func(news1) bool { return len(n.view) > before+20 })
	t.Logf("the leader is killed: another one leads after %v, watches tell 20 more writes after %v", elected, time.Since(began))
	close(stop)
	<-done
	given := map[string]string{}
	all := list(t, s, "n")
	for key, number := range all {
		if given[number] != "" {
			t.Errorf("number %s was given to %s and %s", number, given[number], key)
		}
		given[number] = key
	}
	for _, sure := range results {
		for number := range sure {
			if given[number] == "" {
				t.Errorf("number %s was promised and is not there", number)
			}
		}
	}
	if len(n.view) != len(all) { // the last of more may have been the last of all
		n.until(fmt.Sprintf("all %v", all), func(news1) bool { return len(n.view) == len(all) })
	}
	leader.Start()
	leader.WaitReady()
}

// away is a store of a client that is cut off with a server.
type away struct {
	datastore.Store
	name string
	news *news
	cut  time.Time
}

// A server is cut off with clients beside it, of which one knows it alone and one knows all: they are told so, others go on, and they catch
// up when it is back, who knows all without waiting for it.
func cutOff(t *testing.T, kind servertest.Kind, open OpenAt) {
	nstest.MustNotLeak(t)
	c, lan, client := three(t, kind)
	cut := c.Leader()
	home := open(t, from(c, other(c, cut)), "", client.DialContext)
	put(t, home, "d/k", "1")
	clients := []*away{{name: "all"}, {name: "one"}}
	for i, endpoints := range [][]string{from(c, cut), {cut.Endpoint()}} {
		a := clients[i]
		a.Store = open(t, endpoints, "", cut.Host.DialContext)
		want(t, "seen by the other", get(t, a, "d/k"), "1")
		a.news = listen(t, a, "d")
		a.news.until("the directory", func(e news1) bool { return e.batch.Full })
	}
	lan.Cut(cut.Host)
	for _, a := range clients {
		a.cut = time.Now()
	}
	c.Leader(cut)
	for _, a := range clients {
		a.isTold(t)
	}
	start := time.Now()
	for {
		err := home.Update(timeout(t), func(tx datastore.Tx) error { return tx.Put("d/k", []byte("2")) })
		if err == nil {
			break
		}
		if !errdefs.IsUnavailable(err) || time.Since(start) > patience {
			t.Fatalf("Update at home: %v", err)
		}
	}
	lan.Heal()
	healed := time.Now()
	for _, a := range clients {
		a.news.until("what was written meanwhile", func(e news1) bool { return a.news.view["k"] == "2" })
		put(t, a, "d/k", "2")
		t.Logf("healed: who knows %s reads and writes after %v", a.name, time.Since(healed))
	}
}

// isTold asks for something until that fails.
func (a *away) isTold(t *testing.T) {
	for {
		err := a.View(timeout(t), func(tx datastore.Tx) error { _, err := tx.Get("d/k"); return err })
		if errdefs.IsUnavailable(err) {
			break
		}
		if err != nil || time.Since(a.cut) > patience { // it may lead by itself for a moment
			t.Fatalf("View at the server that is cut off: %v after %v", err, time.Since(a.cut))
		}
	}
	// Its outcome may be unknown: a server that holds it may find the others again.
	err := a.Update(timeout(t), func(tx datastore.Tx) error { return tx.Put("other/k", []byte("perhaps")) })
	wantKind(t, "Update at the server that is cut off", err, errdefs.IsUnavailable)
	a.news.until("its watch is told", func(e news1) bool { return e.err != nil })
	t.Logf("cut off: who knows %s, and its watch, is told after %v", a.name, time.Since(a.cut))
}
