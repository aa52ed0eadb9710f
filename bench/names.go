package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/docker/docker/libnetwork"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/resolver"
)

// names is a subject that answers for one name: web, at 10.1.0.2. The floor is a loop that reads, patches the number and writes constant
// bytes; miekg is the plain server of github.com/miekg/dns.
type names struct {
	Subject // attaches nothing
	at      netip.AddrPort
	space   string // path of the namespace from which it is asked; "": its own
	rooms   rooms  // of ours
	told    int    // names besides web
	closers []func() error
}

// Asker is a subject that is asked for names.
type Asker interface {
	// Ask has so many questions answered, with so many outstanding. each is what single ones took when one is outstanding.
	Ask(questions, outstanding int) (each []time.Duration, total time.Duration, err error)
}

const askedName = "web."

func newNames(subject string) (Subject, error) {
	n := &names{at: netip.MustParseAddrPort("127.0.0.11:53")}
	var err error
	switch subject {
	case "floor":
		err = n.bare()
	case "miekg":
		err = n.plain()
	case "moby":
		err = n.moby()
	case "sealane":
		err = n.ours()
	default:
		err = fmt.Errorf("%s answers no names", subject)
	}
	return n, err
}

func (n *names) Close() error {
	var errs []error
	for _, c := range n.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

func answerTo(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(10, 1, 0, 2)}}
	return m
}

func ask() *dns.Msg { return new(dns.Msg).SetQuestion(askedName, dns.TypeA) }

func (n *names) sockaddr() *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: n.at.Addr().As4(), Port: int(n.at.Port())}
}

// beside is where a second bare loop answers who floods.
var beside = [4]byte{127, 0, 0, 12}

func (n *names) bare() error {
	second := n.sockaddr()
	second.Addr = beside
	return errors.Join(bareLoop(n.sockaddr()), bareLoop(second))
}

// bareLoop answers anything that comes with constant bytes, but for the number.
func bareLoop(at *unix.SockaddrInet4) error {
	answer, err := answerTo(ask()).Pack()
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, at); err != nil {
		return err
	}
	go func() {
		runtime.LockOSThread()
		buf := make([]byte, 512)
		for {
			_, from, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return
			}
			copy(answer, buf[:2])
			unix.Sendto(fd, answer, 0, from)
		}
	}()
	return nil
}

func (n *names) plain() error {
	conn, err := net.ListenPacket("udp4", n.at.String())
	if err != nil {
		return err
	}
	s := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { w.WriteMsg(answerTo(q)) })}
	go s.ActivateAndServe()
	n.closers = append(n.closers, s.Shutdown)
	return nil
}

func (n *names) moby() error {
	r := libnetwork.NewResolver("127.0.0.11", false, oneName{})
	r.SetupFunc(0)()
	if err := r.Start(); err != nil {
		return err
	}
	n.closers = append(n.closers, func() error { r.Stop(); return nil })
	return nil
}

// oneName is what libnetwork's resolver asks.
type oneName struct{}

func (oneName) ResolveName(_ context.Context, _ string, ipType int) ([]net.IP, bool) {
	return []net.IP{net.IPv4(10, 1, 0, 2)}, true
}
func (oneName) ResolveIP(context.Context, string) string                      { return "" }
func (oneName) ResolveService(context.Context, string) ([]*net.SRV, []net.IP) { return nil, nil }
func (oneName) ExecFunc(f func()) error                                       { f(); return nil }
func (oneName) NdotsSet() bool                                                { return false }
func (oneName) HandleQueryResp(string, net.IP)                                {}

func (n *names) ours() (err error) {
	if n.rooms, err = newRooms(0); err != nil {
		return err
	}
	n.closers = append(n.closers, n.rooms.resolver.Close, n.rooms.spaces.Close, dismiss)
	web := endpoint.Published{ID: "1", Name: "web", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.0.2/24")}}
	if err := n.rooms.resolver.SetZone(context.Background(), "b1", resolver.Change{Name: "blue", Put: []endpoint.Published{web}}); err != nil {
		return err
	}
	ns, _, err := n.rooms.give("5b")
	if err != nil {
		return err
	}
	n.space = ns.Key()
	n.closers = append(n.closers, ns.Close)
	return nil
}

// namesRows asks each subject for a name that it knows.
func namesRows(b *bench) (measure, error) {
	children, err := b.start(Mode{Names: true}, "floor", "sealane", "miekg", "moby")
	if err != nil {
		return nil, err
	}
	const questions = 10000
	return func() (rows []row, err error) {
		middle := make(map[string][]float64)
		for _, outstanding := range []int{1, 8, 32} {
			rate := make(values)
			for range b.rounds {
				for _, c := range children {
					r, err := c.do(order{Do: "ask", N: questions, G: outstanding})
					if err != nil {
						return nil, err
					}
					rate[c.name] = max(rate[c.name], questions/r.Total.Seconds())
					middle[c.name] = append(middle[c.name], seconds(r.Each)...)
				}
			}
			rows = append(rows, row{work: fmt.Sprintf("names a second, %d outstanding", outstanding), unit: perSecond, runs: []values{rate},
				goals: []goal{atLeastFloor(0.7), atLeastMoby(3)}})
		}
		return append(rows, row{work: "a name, one outstanding", runs: []values{medians(middle)}, goals: []goal{atMostFloor(1.4)}}), nil
	}, nil
}
