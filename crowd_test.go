package sealane_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"github.com/sealane/sealane"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/servertest"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

var (
	moves   = flag.Int("moves", 30, "how often an endpoint of TestFiveHosts goes to another host")
	crowdOn = flag.String("crowdon", "etcd", "the store of TestFiveHosts: etcd or consul")
)

// newFleet is n hosts with real rooms on one underlay, each with its own client of the store.
func newFleet(t *testing.T, n int, client func(host int) datastore.Store) (fleet []*world) {
	t.Helper()
	var hosts []*nstest.Host
	for i := range n {
		h := nstest.New(t, fmt.Sprint("h", i+1))
		h.Sysctl("ipv6/conf/default/addr_gen_mode", "1")
		hosts = append(hosts, h)
	}
	lan := nstest.NewLAN(t, prefix("192.0.2.0/24"), hosts...)
	for i, h := range hosts {
		w := &world{t: t, host: h, outside: h, dir: runDir(t), etc: t.TempDir(), shares: &sharing{client(i), h.Name, lan.Addr(h)}}
		w.conf("")
		h.MustReturn()
		w.start()
		t.Cleanup(w.stop)
		fleet = append(fleet, w)
	}
	return fleet
}

// resident is an endpoint and where it is.
type resident struct {
	name      string
	on        *domain
	at        int // of the fleet
	addresses []netip.Prefix
	mac       net.HardwareAddr
	box       *container
	heard     sync.Map // text to true: what was sent to its port
}

// domain is a network and who is on it.
type domain struct {
	sealane.Network
	name      string
	residents []*resident
}

// settleAt makes the resident on a host, with the addresses that it has had.
func (r *resident) settleAt(fleet []*world, at int) error {
	w := fleet[at]
	ctx := w.t.Context()
	n, err := w.Network(ctx, r.on.name)
	if err != nil {
		return err
	}
	box, err := w.CreateSandbox(ctx, sandbox.Spec{Name: r.name})
	if err != nil {
		return err
	}
	ep, err := n.CreateEndpoint(ctx, endpoint.Spec{Name: r.name, For: box.ID(), Addresses: r.addresses})
	if err != nil {
		return errors.Join(err, box.Delete(ctx))
	}
	if err := ep.Join(ctx, box); err != nil {
		return errors.Join(err, box.Delete(ctx))
	}
	info, err := ep.Info(ctx)
	if r.addresses != nil && !slices.Equal(r.addresses, info.Addresses) {
		return fmt.Errorf("%s came to have %v, want %v", r.name, info.Addresses, r.addresses)
	}
	r.at, r.box, r.addresses, r.mac = at, &container{Sandbox: box, world: w, endpoints: []endpoint.Endpoint{ep}}, info.Addresses, info.MAC
	return err
}

// move is an end on one host and a beginning on another.
func (r *resident) move(fleet []*world) error {
	if err := r.box.Delete(fleet[0].t.Context()); err != nil {
		return err
	}
	to := (r.at + 1 + rand.IntN(len(fleet)-1)) % len(fleet)
	if err := r.settleAt(fleet, to); err != nil {
		return fmt.Errorf("%s from %s to %s: %w", r.name, fleet[r.at].host.Name, fleet[to].host.Name, err)
	}
	return nil
}

// wanted is what the kernel of a host must have of a network, by where everybody is, and found what it has. Both are "forward MAC TUNNEL",
// "port MAC" and "neighbour ADDRESS MAC".
func (d *domain) wanted(fleet []*world, at int) (lines []string) {
	if !slices.ContainsFunc(d.residents, func(r *resident) bool { return r.at == at }) {
		return nil // it has nothing to do with the network
	}
	for _, r := range d.residents {
		if r.at == at {
			continue
		}
		lines = append(lines, fmt.Sprintf("forward %s %s", r.mac, fleet[r.at].shares.tunnel), fmt.Sprintf("port %s", r.mac))
		for _, a := range r.addresses {
			lines = append(lines, fmt.Sprintf("neighbour %s %s", a.Addr(), r.mac))
		}
	}
	slices.Sort(lines)
	return lines
}

// found reads the kernel, by nobody's code of ours. Neighbours that the kernel found out by itself need not be there, but must be right.
func (d *domain) found(w *world) (lines, learnt []string) {
	path := filepath.Join(w.dir, "netns", string(d.ID()))
	out, err := exec.Command("nsenter", "--net="+path, "sh", "-c", "bridge fdb show dev sx0 && ip neigh show dev br0").CombinedOutput()
	if _, gone := os.Stat(path); gone != nil {
		return nil, nil
	}
	if err != nil {
		return []string{err.Error() + string(out)}, nil
	}
	for l := range strings.Lines(string(out)) {
		f := strings.Fields(l)
		switch {
		case f[1] == "dst" && slices.Contains(f, "self"):
			lines = append(lines, "forward "+f[0]+" "+f[2])
		case strings.Contains(l, "master br0 static"):
			lines = append(lines, "port "+f[0])
		case f[1] == "lladdr" && slices.Contains(f, "PERMANENT"):
			lines = append(lines, "neighbour "+f[0]+" "+f[2])
		case f[1] == "lladdr":
			learnt = append(learnt, "neighbour "+f[0]+" "+f[2])
		case !slices.Contains(f, "permanent") && !slices.Contains(f, "FAILED") && !slices.Contains(f, "INCOMPLETE"):
			lines = append(lines, "strange: "+l)
		}
	}
	slices.Sort(lines)
	return lines, learnt
}

// isRight waits until the kernel of every host has of the network what it must, then says what it has that is wrong; "" nothing.
func (d *domain) isRight(fleet []*world) (wrong string) {
	truth := map[string]string{}
	for _, r := range d.residents {
		for _, a := range r.addresses {
			truth[a.Addr().String()] = r.mac.String()
		}
	}
	for at, w := range fleet {
		lines, learnt := d.found(w)
		if diff := cmp.Diff(d.wanted(fleet, at), lines); diff != "" {
			wrong += fmt.Sprintf("%s on %s (-want +got):\n%s", d.name, w.host.Name, diff)
		}
		for _, l := range learnt {
			if f := strings.Fields(l); truth[f[1]] != "" && truth[f[1]] != f[2] {
				wrong += fmt.Sprintf("%s on %s: %s, want %s\n", d.name, w.host.Name, l, truth[f[1]])
			}
		}
	}
	return wrong
}

// converges waits until the kernels of all hosts are right, and says how long it waited.
func (d *domain) converges(t *testing.T, fleet []*world) time.Duration {
	t.Helper()
	began, wrong := time.Now(), ""
	defer func() {
		if wrong != "" {
			t.Error(wrong)
		}
	}()
	nstest.Eventually(t, "the kernels of all hosts are as they must be", func() bool { wrong = d.isRight(fleet); return wrong == "" })
	return time.Since(began)
}

// opens has the resident listen, and answer with its name what it is sent.
func (r *resident) opens() {
	conn := r.box.as().ListenPacket("udp", "[::]:7")
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			r.heard.Store(string(buf[:n]), true)
			conn.WriteTo([]byte(r.name), from)
		}
	}()
}

// calls sends one datagram to every address of others and returns who answers, once all friends have; a moment longer, so that who
// must not answer has time to.
func (r *resident) calls(others []*resident) (answered map[string]bool) {
	const patience, moment = 10 * time.Second, 100 * time.Millisecond
	conn := r.box.as().ListenPacket("udp", "[::]:0")
	defer conn.Close()
	answered = map[string]bool{}
	buf := make([]byte, 100)
	hear := func(until time.Time) {
		conn.SetReadDeadline(until)
		for {
			n, from, err := conn.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			if err == nil {
				answered[string(buf[:n])+" "+from.(*net.UDPAddr).AddrPort().Addr().Unmap().String()] = true
			}
		}
	}
	friends := 0
	for end := time.Now().Add(patience); time.Now().Before(end); {
		friends = 0
		for _, o := range others {
			for _, a := range o.addresses {
				if answered[o.name+" "+a.Addr().String()] {
					continue
				}
				if o.on == r.on {
					friends++
				}
				conn.WriteTo([]byte(r.name), net.UDPAddrFromAddrPort(netip.AddrPortFrom(a.Addr(), 7))) // a refusal is an answer too
			}
		}
		hear(time.Now().Add(moment))
		if friends == 0 {
			break
		}
	}
	return answered
}

// resolves asks for a name, and returns the addresses.
func resolves(conn net.Conn, name string) (addresses []string, err error) {
	client := dns.Client{Timeout: 10 * time.Second}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		reply, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype), &dns.Conn{Conn: conn})
		if err != nil {
			return nil, err
		}
		if text := answers(reply); text != "" && reply.Rcode == dns.RcodeSuccess {
			addresses = append(addresses, text)
		}
	}
	return addresses, nil
}

// meet has everybody call everybody, by address and by name: who is on one network is reached and known, who is on another is neither.
func meet(t *testing.T, domains []*domain) (pairs int) {
	t.Helper()
	var all []*resident
	for _, d := range domains {
		all = append(all, d.residents...)
	}
	for _, r := range all {
		r.heard.Clear()
	}
	for _, d := range domains {
		var wg sync.WaitGroup
		for _, r := range d.residents {
			wg.Go(func() { r.meets(t, all) })
		}
		wg.Wait()
		for _, r := range d.residents { // all namespaces of a machine have one neighbour table, of 1,024 entries, and hosts have one each
			wg.Go(func() { r.box.as().Run("sh", "-c", "ip -4 neigh flush all; ip -6 neigh flush all") })
		}
		wg.Wait()
	}
	for _, r := range all { // a datagram whose answer was stopped on the way has come too far
		r.heard.Range(func(from, _ any) bool {
			if domain, _, _ := strings.Cut(from.(string), "-"); domain != r.on.name {
				t.Errorf("%s hears %s", r.name, from)
			}
			return true
		})
	}
	return len(all) * (len(all) - 1)
}

func (r *resident) meets(t *testing.T, all []*resident) {
	others := slices.DeleteFunc(slices.Clone(all), func(o *resident) bool { return o == r })
	answered := r.calls(others)
	names, err := r.box.as().Dial("udp", "127.0.0.11:53")
	if err != nil {
		t.Error(err)
		return
	}
	defer names.Close()
	for _, o := range others {
		known, err := resolves(names, o.name)
		if err != nil {
			t.Errorf("%s asks for %s: %v", r.name, o.name, err)
			continue
		}
		var want []string
		for _, a := range o.addresses {
			if got := answered[o.name+" "+a.Addr().String()]; got != (o.on == r.on) {
				t.Errorf("%s reaches %s at %s: %v, want %v", r.name, o.name, a, got, o.on == r.on)
			}
			if o.on == r.on {
				want = append(want, a.Addr().String())
			}
		}
		if !slices.Equal(known, want) {
			t.Errorf("%s finds %s at %v, want %v", r.name, o.name, known, want)
		}
	}
}

// Five hosts, 20 endpoints on each, ten networks of both families: every pair of one network meets by address and by name, and no other
// pair. Then endpoints go from host to host, several networks at once, with the watches of all hosts unruly: after each round no kernel
// has a forwarding or neighbour entry that is wrong, too many or missing, and in the end everybody meets again.
func TestFiveHosts(t *testing.T) {
	const hosts, networks, each = 5, 10, 2 // endpoints of a network on a host
	nstest.MustNotLeak(t)
	server := servertest.One(t, servertest.Kind(*crowdOn), servertest.Options{})
	var stores []*unruly
	fleet := newFleet(t, hosts, func(int) datastore.Store {
		s := openAt(t, server, 0, "fleet")
		stores = append(stores, &unruly{Store: s, Presence: s.(datastore.Presence)})
		return stores[len(stores)-1]
	})
	domains := make([]*domain, networks)
	var all []*resident
	began := time.Now()
	for i := range domains {
		d := &domain{name: fmt.Sprint("n", i)}
		d.Network = fleet[i%hosts].network(sealane.NetworkSpec{Name: d.name, Driver: "overlay", Scope: netdriver.Global, IPv6: true,
			IPAM: subnets(fmt.Sprintf("10.20.%d.0/24", i), fmt.Sprintf("fd00:20:%d::/64", i))})
		domains[i] = d
		for k := range hosts * each {
			d.residents = append(d.residents, &resident{name: fmt.Sprintf("%s-%d", d.name, k), on: d})
		}
		all = append(all, d.residents...)
	}
	var wg sync.WaitGroup
	for at := range fleet {
		wg.Go(func() {
			for _, d := range domains {
				for _, r := range d.residents[at*each : (at+1)*each] {
					if err := r.settleAt(fleet, at); err != nil {
						t.Errorf("%s: %v", fleet[at].host.Name, err)
					}
				}
			}
		})
	}
	wg.Wait()
	defer leave(t, fleet, all)
	if t.Failed() {
		return
	}
	for _, d := range domains {
		d.converges(t, fleet)
	}
	t.Logf("%d endpoints are there in %v", len(all), time.Since(began).Round(time.Millisecond))
	for _, r := range all {
		r.opens()
	}
	began = time.Now()
	t.Logf("%d pairs meet or do not in %v", meet(t, domains), time.Since(began).Round(time.Millisecond))
	if t.Failed() {
		return
	}
	wander(t, fleet, domains)
	for _, r := range all {
		if r.box.host == nil { // it has moved
			r.opens()
		}
	}
	meet(t, domains)
	for i, u := range stores {
		t.Logf("%s: %d batches lost, %d doubled, %d reordered, %d times all was told again", fleet[i].host.Name, u.lost.Load(), u.doubled.Load(),
			u.reordered.Load(), u.full.Load())
	}
}

// leave deletes everybody.
func leave(t *testing.T, fleet []*world, all []*resident) {
	var wg sync.WaitGroup
	for at := range fleet {
		wg.Go(func() {
			for _, r := range all {
				if r.at != at || r.box == nil {
					continue
				}
				if err := r.box.Delete(context.Background()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// wander makes the moves: in each round every network has one to three, of one endpoint or of several.
func wander(t *testing.T, fleet []*world, domains []*domain) {
	t.Helper()
	began, done := time.Now(), 0
	var waits []time.Duration
	for done < *moves && !t.Failed() {
		var wg sync.WaitGroup
		var made atomic.Int64
		for _, d := range domains {
			wg.Go(func() {
				for range 1 + rand.IntN(3) {
					if err := d.residents[rand.IntN(len(d.residents))].move(fleet); err != nil {
						t.Error(err)
						return
					}
					made.Add(1)
				}
			})
		}
		wg.Wait()
		if done += int(made.Load()); t.Failed() {
			return
		}
		for _, d := range domains {
			waits = append(waits, d.converges(t, fleet))
		}
	}
	for _, w := range fleet {
		w.rest()
	}
	for _, d := range domains { // and so it stays
		if wrong := d.isRight(fleet); wrong != "" {
			t.Error(wrong)
		}
	}
	t.Logf("%d moves in %v; afterwards the kernels are right within %v", done, time.Since(began).Round(time.Millisecond), slices.Max(waits).Round(time.Millisecond))
}
