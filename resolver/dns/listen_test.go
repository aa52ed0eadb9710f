package dns_test

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	mdns "github.com/miekg/dns"
	"github.com/sealane/sealane/internal/holder"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/resolver/dns"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

func listener(at string, networks ...string) dns.Listener {
	return dns.Listener{At: netip.MustParseAddrPort(at), Networks: networks}
}

// A listener of the host answers for the networks named, and asks nobody.
func TestListen(t *testing.T) {
	w := newWorld(t, func(o *dns.Options) {
		o.Listeners = []dns.Listener{listener("0.0.0.0:5300", "blue", "later"), listener("127.0.0.1:5301"), listener("[::1]:5301")}
	})
	up := serve(t, w.host, "127.0.0.1:53", says(t, "192.0.2.1"))
	w.resolvConf(false, "127.0.0.1")
	w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
	if err := w.r.Listen(); err != nil {
		t.Fatal(err)
	}
	w.zone("9e", "green", published("2", "db", "10.2.0.2/24"))
	w.zone("1a", "later", published("3", "late", "10.3.0.2/24"))
	for _, c := range []struct{ at, name, want string }{
		{"127.0.0.1:5300", "web", "10.1.0.2"}, {"127.0.0.1:5300", "late.later", "10.3.0.2"}, {"127.0.0.1:5300", "db.green", ""},
		{"127.0.0.1:5300", "example.com", ""}, {"127.0.0.1:5301", "db", "10.2.0.2"}, {"127.0.0.1:5301", "example.com", ""}, {"[::1]:5301", "web", "10.1.0.2"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			conn, err := w.host.Dial(network, c.at)
			if err != nil {
				t.Fatal(err)
			}
			m := exchangeOn(t, &mdns.Conn{Conn: conn}, question(c.name, mdns.TypeA))
			if data(m) != c.want || c.want == "" && m.Rcode != mdns.RcodeRefused {
				t.Errorf("%s %s by %s: %v", c.at, c.name, network, m)
			}
			conn.Close()
		}
	}
	if up.asked.Load() != 0 {
		t.Error("somebody else was asked")
	}
}

// An answer comes from the address that was asked, though the way back may lead from another.
func TestListenEverywhere(t *testing.T) {
	w := newWorld(t, func(o *dns.Options) {
		o.Listeners = []dns.Listener{listener("0.0.0.0:5300", "blue"), listener("[::]:5301", "blue")}
	})
	client := nstest.New(t, "client")
	prefixes := func(all ...string) (out []netip.Prefix) {
		for _, p := range all {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	nstest.Connect(w.host, client, prefixes("192.0.2.1/24", "198.51.100.1/32", "2001:db8::1/64", "2001:db8:1::1/128"), prefixes("192.0.2.2/24", "2001:db8::2/64"))
	client.Route(netip.MustParsePrefix("198.51.100.1/32"), netip.MustParseAddr("192.0.2.1"))
	client.Route(netip.MustParsePrefix("2001:db8:1::1/128"), netip.MustParseAddr("2001:db8::1"))
	w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
	if err := w.r.Listen(); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"192.0.2.1:5300", "198.51.100.1:5300", "198.51.100.1:5301", "[2001:db8::1]:5301", "[2001:db8:1::1]:5301"} {
		conn, err := client.Dial("udp", at) // connected: nobody else's answer is heard
		if err != nil {
			t.Fatal(err)
		}
		for _, typ := range []uint16{mdns.TypeA, mdns.TypeANY} {
			nstest.Eventually(t, "an answer from "+at, func() bool { // neighbours that are not found yet lose a datagram
				co := &mdns.Conn{Conn: conn}
				co.SetDeadline(time.Now().Add(time.Second))
				if err := co.WriteMsg(question("web", typ)); err != nil {
					return false
				}
				m, err := co.ReadMsg()
				return err == nil && data(m) == "10.1.0.2"
			})
		}
		conn.Close()
	}
}

func TestListenersAreChecked(t *testing.T) {
	w := newWorld(t, nil)
	defer w.host.Listen("tcp", "127.0.0.1:5300").Close()
	for why, all := range map[string][]dns.Listener{
		"reach it":       {listener("0.0.0.0:5300")},
		"said twice":     {listener("127.0.0.1:5301"), listener("127.0.0.1:5301", "blue")},
		"already in use": {listener("127.0.0.1:5300")},
	} {
		_, err := dns.New(dns.Options{Host: w.host.Path(), Listeners: all})
		if err == nil || !strings.Contains(err.Error(), why) || why != "already in use" && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v, want %q", all, err, why)
		}
	}
}

// A question to a listener that comes while nobody is there, or before all names are told, is answered then. A listener that the next process
// does not want any more goes, and its address can be another's; without sandboxes none is kept.
func TestListenerIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolver.sock")
	at, all := listener("127.0.0.1:5300", "blue"), listener("0.0.0.0:5300", "blue")
	w := newWorld(t, func(o *dns.Options) { o.Keeper, o.Listeners = held(t, path), []dns.Listener{at} })
	next := func(l dns.Listener) {
		t.Helper()
		r, err := dns.New(dns.Options{Host: w.host.Path(), Etc: w.etc, Keeper: held(t, path), Listeners: []dns.Listener{l}})
		if err != nil {
			t.Fatal(err)
		}
		w.r = r
	}
	ns, view := w.space(), resolver.View{Sandbox: "a"}
	for _, l := range []dns.Listener{at, all} {
		w.set(ns, view)
		if err := w.r.Close(); err != nil {
			t.Fatal(err)
		}
		var conns []*mdns.Conn
		if l.At == at.At {
			for _, network := range []string{"udp", "tcp"} {
				c, err := w.host.Dial(network, "127.0.0.1:5300")
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				conns = append(conns, &mdns.Conn{Conn: c})
				if err := conns[len(conns)-1].WriteMsg(question("web", mdns.TypeA)); err != nil {
					t.Fatal(err)
				}
			}
		}
		next(l)
		w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
		if err := w.r.Listen(); err != nil {
			t.Fatal(err)
		}
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(time.Minute))
			if m, err := c.ReadMsg(); err != nil || data(m) != "10.1.0.2" {
				t.Errorf("asked while nobody was there: %v, %v", m, err)
			}
		}
	}
	if err := w.r.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := w.r.Sweep(t.Context(), []sandbox.ID{}); err != nil {
		t.Fatal(err)
	}
	if err := w.r.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := holder.NewProcess(path, "/proc/self/exe").Kept(); err != nil || len(left) != 0 {
		t.Errorf("the holder holds %v, %v", left, err)
	}
}

// late is a Keeper that never comes to letting go.
type late map[string][]int

func (k late) Kept() (map[string][]int, error) { return copied(k) }

func (k late) Keep(name string, fds ...int) error {
	all, err := copied(map[string][]int{name: fds})
	k[name] = all[name]
	return err
}

func (k late) Drop(string) error { return nil }

func copied(from map[string][]int) (map[string][]int, error) {
	all := map[string][]int{}
	for name, fds := range from {
		for _, fd := range fds {
			own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return nil, err
			}
			all[name] = append(all[name], own)
		}
	}
	return all, nil
}

// What a Keeper has still does not hear what a listener is asked that came in its place, and is not taken for one.
func TestListenerBesideRetired(t *testing.T) {
	keeper := late{}
	w := newWorld(t, func(o *dns.Options) {
		o.Keeper, o.Listeners = keeper, []dns.Listener{listener("127.0.0.1:5300", "blue")}
	})
	for _, at := range []string{"0.0.0.0:5300", "127.0.0.1:5300", "[::]:5300"} {
		if err := w.r.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		w.r, err = dns.New(dns.Options{Host: w.host.Path(), Etc: w.etc, Keeper: keeper, Listeners: []dns.Listener{listener(at, "blue")}})
		if err != nil {
			t.Fatal(err)
		}
		w.zone(blue, "blue", published("1", "web", "10.1.0.2/24"))
		if err := w.r.Listen(); err != nil {
			t.Fatal(err)
		}
		for _, network := range []string{"udp", "tcp"} {
			conn, err := w.host.Dial(network, "127.0.0.1:5300")
			if err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			if m := exchangeOn(t, &mdns.Conn{Conn: conn}, question("web", mdns.TypeA)); data(m) != "10.1.0.2" {
				t.Errorf("%s by %s: %v", at, network, m)
			}
			conn.Close()
		}
	}
	for _, fds := range keeper {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
}
