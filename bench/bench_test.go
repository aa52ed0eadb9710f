package main

import (
	"math"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTable(t *testing.T) {
	rows := []row{
		{
			work:  "attach",
			runs:  []values{{"floor": 1e-3, "sealane": 1.4e-3, "moby": 70e-3}, {"floor": 2e-3, "sealane": 3e-3, "moby": 60e-3}, {"floor": 1e-3, "sealane": 1.3e-3, "moby": 65e-3}},
			goals: []goal{atMostFloor(1.5), atLeastMoby(60)},
		},
		{work: "churn", unit: perSecond, runs: []values{{"floor": 600, "sealane": 450}}, goals: []goal{atLeastFloor(0.6), atLeastMoby(30)}},
		{work: "request", runs: []values{{"floor": 31e-9}}, goals: []goal{under(80e-9, "≤ 80 ns")}},
	}
	var out strings.Builder
	printTable(&out, rows)
	want := `
work     floor    sealane  miekg  moby      sealane:floor  faster than moby  floor than moby  goal           ok
attach   1.00 ms  1.40 ms  –      65.00 ms  1.40           50                65               ≤ 1.5 × floor  yes
                                                                                              ≥ 60 × moby    NO
churn    600/s    450/s    –      –         0.75           –                 –                ≥ 0.6 × floor  yes
                                                                                              ≥ 30 × moby    –
request  31.0 ns  –        –      –         –              –                 –                ≤ 80 ns        –
`
	if got := "\n" + out.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestMedian(t *testing.T) {
	if got := median(seconds([]time.Duration{3 * time.Second, time.Second, 2 * time.Second})); got != 2 {
		t.Errorf("odd: got %v, want 2", got)
	}
	if got := median([]float64{4, 1, 2, 3}); got != 2.5 {
		t.Errorf("even: got %v, want 2.5", got)
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("none: got %v, want NaN", got)
	}
}

func TestStealIsAPartOfTheTime(t *testing.T) {
	before, err := parseCPU("cpu  10 0 10 80 0 0 0 0 5 0\ncpu0 1 2 3\n")
	if err != nil {
		t.Fatal(err)
	}
	after, err := parseCPU("cpu  20 0 20 130 0 0 0 30 9 0\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := after.stealSince(before); got != 0.3 {
		t.Errorf("got %v, want 30 of 100 ticks", got)
	}
	if _, err := parseCPU("cpu 1 2 3\n"); err == nil {
		t.Error("a line without steal was taken")
	}
}

func TestBitmapGivesEachAddressOnce(t *testing.T) {
	a, err := newAllocator("floor")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[netip.Addr]bool)
	for range 1 << 16 {
		address, err := a.request()
		if err != nil || seen[address] || !netip.MustParsePrefix(ipamSubnet).Contains(address) {
			t.Fatalf("after %d: %v, %v", len(seen), address, err)
		}
		seen[address] = true
	}
	if _, err := a.request(); err == nil {
		t.Error("a full subnet gave an address")
	}
	back := netip.MustParseAddr("10.220.77.3")
	if err := a.release(back); err != nil {
		t.Fatal(err)
	}
	if got, err := a.request(); got != back || err != nil {
		t.Errorf("got %v, %v; want %v back", got, err, back)
	}
}

// The layouts are checked by a reader of the same attributes.
func TestVethIsOneMessage(t *testing.T) {
	var m message
	m.veth(pair{name: "sv1", index: 7, mtu: 1500, group: 3, master: 2, peer: "eth0", peerIndex: 100, space: 5, mac: net.HardwareAddr{2, 0x42, 10, 210, 0, 2}})
	if got := int(m.buf[0]) | int(m.buf[1])<<8; got != len(m.buf) {
		t.Errorf("the message says %d bytes and has %d", got, len(m.buf))
	}
	top := attributes(t, m.buf[unix.SizeofNlMsghdr+unix.SizeofIfInfomsg:])
	info := attributes(t, top[unix.IFLA_LINKINFO])
	peer := attributes(t, attributes(t, info[unix.IFLA_INFO_DATA])[1][unix.SizeofIfInfomsg:])
	for what, pair := range map[string][2]string{
		"name":      {string(top[unix.IFLA_IFNAME]), "sv1\x00"},
		"kind":      {string(info[unix.IFLA_INFO_KIND]), "veth\x00"},
		"peer":      {string(peer[unix.IFLA_IFNAME]), "eth0\x00"},
		"mac":       {string(peer[unix.IFLA_ADDRESS]), "\x02\x42\x0a\xd2\x00\x02"},
		"namespace": {string(peer[unix.IFLA_NET_NS_FD]), "\x05\x00\x00\x00"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: got %q, want %q", what, pair[0], pair[1])
		}
	}
}

func attributes(t *testing.T, p []byte) map[int][]byte {
	t.Helper()
	out := make(map[int][]byte)
	for len(p) >= unix.SizeofRtAttr {
		n := int(p[0]) | int(p[1])<<8
		if n < unix.SizeofRtAttr || n > len(p) {
			t.Fatalf("an attribute of %d bytes in %d", n, len(p))
		}
		out[int(p[2])|int(p[3])<<8] = p[unix.SizeofRtAttr:n]
		p = p[min((n+3)&^3, len(p)):]
	}
	return out
}
