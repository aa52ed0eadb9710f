package netns_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/sandbox"
	"github.com/sealane/sealane/sandbox/netns"
	"golang.org/x/sys/unix"
)

// floor is the least netlink work that gives a new namespace a link on a bridge: the namespace, not bind-mounted, the fused veth, and one
// batch inside. It returns what must be closed for the namespace to end.
func floor(tb testing.TB, host *nlmsg.Socket, bridge uint32, n int) *nlmsg.Socket {
	var inside *nlmsg.Socket
	var fd int
	err := nsthread.New(func() (err error) {
		if fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		inside, err = nlmsg.Open("", unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(fd)
	link := func(b *nlmsg.Batch, typ, flags uint16, index, ifFlags uint32) {
		var h [unix.SizeofIfInfomsg]byte
		binary.NativeEndian.PutUint32(h[4:], index)
		binary.NativeEndian.PutUint32(h[8:], ifFlags)
		binary.NativeEndian.PutUint32(h[12:], ifFlags)
		if typ != 0 {
			b.Begin(typ, flags)
		}
		b.Raw(h[:]...)
	}
	var b nlmsg.Batch
	mac := []byte{2, 0x42, 10, 0, byte(n >> 8), byte(n)}
	link(&b, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, 0, unix.IFF_UP)
	b.String(unix.IFLA_IFNAME, fmt.Sprintf("fl%d", n))
	b.Uint32(unix.IFLA_MASTER, bridge)
	b.Uint32(unix.IFLA_NUM_TX_QUEUES, 1)
	b.Uint32(unix.IFLA_NUM_RX_QUEUES, 1)
	b.Nest(unix.IFLA_LINKINFO)
	b.String(unix.IFLA_INFO_KIND, "veth")
	b.Nest(unix.IFLA_INFO_DATA)
	b.Nest(1)
	link(&b, 0, 0, 0, 0)
	b.String(unix.IFLA_IFNAME, "eth0")
	b.Attr(unix.IFLA_ADDRESS, mac)
	b.Uint32(unix.IFLA_NUM_TX_QUEUES, 1)
	b.Uint32(unix.IFLA_NUM_RX_QUEUES, 1)
	b.Uint32(unix.IFLA_NET_NS_FD, uint32(fd))
	b.EndNest()
	b.EndNest()
	b.EndNest()
	b.End()
	if err := host.Do(&b, nil); err != nil {
		tb.Fatal(err)
	}
	b.Reset()
	link(&b, unix.RTM_NEWLINK, 0, 1, unix.IFF_UP)
	b.End()
	link(&b, unix.RTM_NEWLINK, 0, 2, unix.IFF_UP)
	b.End()
	b.Begin(unix.RTM_NEWADDR, unix.NLM_F_CREATE)
	b.Raw(unix.AF_INET, 16, 0, 0, 2, 0, 0, 0)
	b.Attr(unix.IFA_LOCAL, []byte{10, 0, byte(n >> 8), byte(n)})
	b.End()
	b.Begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_ACK)
	b.Raw(unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, 0, unix.RTN_UNICAST, 0, 0, 0, 0)
	b.Attr(unix.RTA_GATEWAY, []byte{10, 0, 0, 1})
	b.Uint32(unix.RTA_OIF, 2)
	b.End()
	if err := inside.Do(&b, nil); err != nil {
		tb.Fatal(err)
	}
	return inside
}

// yard is a host with a bridge for benchmarks.
type yard struct {
	tb     testing.TB
	h      *nstest.Host
	p      *netns.Provider
	host   sandbox.Namespace
	raw    *nlmsg.Socket
	bridge uint32
	next   int
}

func newYard(tb testing.TB, ready int) *yard {
	h := nstest.New(tb, "h")
	p := provider(tb, h, ready)
	y := &yard{tb: tb, h: h, p: p, next: 2}
	y.host = must(p.Open(context.Background(), sandbox.Origin{Host: true}))(tb)
	must(y.host.Apply(context.Background(), "net/1", sandbox.Config{}, bridge()))(tb)
	y.raw = must(nlmsg.Open(h.Path(), unix.NETLINK_ROUTE))(tb, closed[*nlmsg.Socket])
	y.bridge = uint32(must(h.Netlink().LinkByName(bridgeName))(tb).Attrs().Index)
	return y
}

// attached is one endpoint in its own namespace.
type attached struct {
	id    string
	ns    sandbox.Namespace
	outer sandbox.Config
	inner sandbox.Config
}

func (y *yard) attach() attached {
	ctx := context.Background()
	y.next++
	a := attached{id: id()}
	a.ns = must(y.p.Create(ctx, a.id))(y.tb)
	outer, inner := endpoint(y.next, a.ns.Key())
	a.outer = must(y.host.Apply(ctx, outer.Links[0].Owner, sandbox.Config{}, outer))(y.tb)
	a.inner = must(a.ns.Apply(ctx, "sb/"+a.id, sandbox.Config{}, inner))(y.tb)
	return a
}

func (y *yard) detach(a attached) {
	ctx := context.Background()
	must(y.host.Apply(ctx, a.outer.Links[0].Owner, a.outer, sandbox.Config{}))(y.tb)
	if err := y.p.Remove(ctx, a.id); err != nil {
		y.tb.Fatal(err)
	}
	a.ns.Close()
}

func (y *yard) drain() {
	if err := y.p.Drain(context.Background()); err != nil {
		y.tb.Fatal(err)
	}
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkAttach compares an attach and a detach with the floor, alternating in rounds of ten.
func BenchmarkAttach(b *testing.B) {
	for _, ready := range []int{0, 12} {
		b.Run(fmt.Sprintf("ready=%d", ready), func(b *testing.B) {
			y := newYard(b, ready)
			var least, ours, away []time.Duration
			b.ResetTimer()
			for n := 0; n < b.N; n += 10 {
				var floors []*nlmsg.Socket
				for range 10 {
					y.next++
					t := time.Now()
					floors = append(floors, floor(b, y.raw, y.bridge, y.next))
					least = append(least, time.Since(t))
				}
				for _, s := range floors {
					s.Close()
				}
				nstest.Eventually(b, "floor's links gone", func() bool { return y.links() < 20 })
				y.fill(ready)
				var all []attached
				for range 10 {
					t := time.Now()
					all = append(all, y.attach())
					ours = append(ours, time.Since(t))
				}
				for _, a := range all {
					t := time.Now()
					y.detach(a)
					away = append(away, time.Since(t))
				}
				y.drain()
			}
			f, o, d := median(least), median(ours), median(away)
			b.ReportMetric(float64(f.Microseconds()), "floor-µs")
			b.ReportMetric(float64(o.Microseconds()), "attach-µs")
			b.ReportMetric(float64(d.Microseconds()), "detach-µs")
			b.ReportMetric(float64(o)/float64(f), "x-floor")
		})
	}
}

func (y *yard) links() int {
	n := 0
	var b nlmsg.Batch
	b.Begin(unix.RTM_GETLINK, unix.NLM_F_DUMP|unix.NLM_F_ACK)
	b.Raw(make([]byte, unix.SizeofIfInfomsg)...)
	b.End()
	if err := y.raw.Do(&b, func(uint16, []byte) { n++ }); err != nil {
		y.tb.Fatal(err)
	}
	return n
}

// fill waits until the pool is full.
func (y *yard) fill(ready int) {
	nstest.Eventually(y.tb, "pool full", func() bool { return y.p.Kept() == ready })
}

// BenchmarkDetachBurst takes 200 endpoints away and waits until nothing of them is left.
func BenchmarkDetachBurst(b *testing.B) {
	const burst = 200
	y := newYard(b, 0)
	var least, ours, call []time.Duration
	for range b.N {
		y.next = 2 // all of the last burst are gone, and there are 65,000 numbers
		floors := make([]*nlmsg.Socket, burst)
		for i := range floors {
			y.next++
			floors[i] = floor(b, y.raw, y.bridge, y.next)
		}
		t := time.Now()
		for _, s := range floors {
			s.Close()
		}
		nstest.Eventually(b, "floor's links gone", func() bool { return y.links() == 2 })
		least = append(least, time.Since(t))
		all := make([]attached, burst)
		for i := range all {
			all[i] = y.attach()
		}
		t = time.Now()
		for _, a := range all {
			t := time.Now()
			y.detach(a)
			call = append(call, time.Since(t))
		}
		y.drain()
		ours = append(ours, time.Since(t))
		if n := y.links(); n != 2 {
			b.Fatalf("%d links after Drain", n)
		}
	}
	b.ReportMetric(float64(median(least).Microseconds())/burst, "floor-µs/link")
	b.ReportMetric(float64(median(ours).Microseconds())/burst, "drained-µs/link")
	b.ReportMetric(float64(median(call).Microseconds()), "call-µs")
}
