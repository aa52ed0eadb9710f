package nftables_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nstest"
)

// Of a tunnel only packets of peers come in, also when a flow was begun while its sender was one; other VNIs, other ports and other
// traffic on the port are nobody's affair.
func TestTunnelAdmitsPeers(t *testing.T) {
	host, peer, stranger := nstest.New(t, "host"), nstest.New(t, "peer"), nstest.New(t, "stranger")
	nstest.Connect(host, peer, prefixes("192.0.2.1/30", "2001:db8:1::1/64"), prefixes("192.0.2.2/30", "2001:db8:1::2/64"))
	nstest.Connect(host, stranger, prefixes("198.51.100.1/30", "2001:db8:2::1/64"), prefixes("198.51.100.2/30", "2001:db8:2::2/64"))
	_, f := open(t, host, "")
	terms := func(peers ...netip.Addr) firewall.Terms {
		return firewall.Terms{Tunnels: []firewall.Tunnel{{Port: 4789, VNI: 1000, Peers: peers}}}
	}
	both := terms(addr("192.0.2.2"), addr("2001:db8:1::2"))
	apply(t, f, firewall.Change{Owner: "net/1", Want: both})
	listen := map[uint16]net.PacketConn{4789: host.ListenPacket("udp", "[::]:4789"), 5789: host.ListenPacket("udp", "[::]:5789")}

	check := func(when string, from *nstest.Host, to string, port uint16, vni uint32, want bool) {
		t.Helper()
		target := netip.AddrPortFrom(addr(to), port)
		if got := arrives(t, from, target, listen[port], vni); got != want {
			t.Errorf("%s: VNI %d from %s to %s: arrived %v, want %v", when, vni, from.Name, target, got, want)
		}
	}
	for _, six := range []bool{false, true} {
		toPeer, toStranger := "192.0.2.1", "198.51.100.1"
		if six {
			toPeer, toStranger = "2001:db8:1::1", "2001:db8:2::1"
		}
		check("a peer", peer, toPeer, 4789, 1000, true)
		check("a stranger", stranger, toStranger, 4789, 1000, false)
		check("another VNI", stranger, toStranger, 4789, 1001, true)
		check("another port", stranger, toStranger, 5789, 1000, true)
	}
	apply(t, f, firewall.Change{Owner: "net/1", Have: both, Want: terms(addr("2001:db8:1::2"))})
	check("no peer any more", peer, "192.0.2.1", 4789, 1000, false)
	check("still a peer", peer, "2001:db8:1::1", 4789, 1000, true)
	apply(t, f, firewall.Change{Owner: "net/1", Have: terms(addr("2001:db8:1::2"))})
	check("no tunnel any more", stranger, "198.51.100.1", 4789, 1000, true)
}

// What a tunnel carries is not tracked by the host, in either direction; other packets to its port are, and what a peer sends others through
// the host.
func TestTunnelsAreNotTracked(t *testing.T) {
	host, peer, other := nstest.New(t, "host"), nstest.New(t, "peer"), nstest.New(t, "other")
	nstest.Connect(host, peer, prefixes("192.0.2.1/30", "2001:db8:1::1/64"), prefixes("192.0.2.2/30", "2001:db8:1::2/64"))
	nstest.Connect(host, other, prefixes("198.51.100.1/30", "2001:db8:2::1/64"), prefixes("198.51.100.2/30", "2001:db8:2::2/64"))
	host.Run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	peer.Run("ip", "route", "add", "default", "via", "192.0.2.1")
	peer.Run("ip", "route", "add", "default", "via", "2001:db8:1::1")
	_, f := open(t, host, "")
	apply(t, f, firewall.Change{Owner: "net/1", Want: firewall.Terms{Tunnels: []firewall.Tunnel{
		{Port: 4789, VNI: 1000, Peers: []netip.Addr{addr("192.0.2.2"), addr("2001:db8:1::2")}}}}})
	at := map[*nstest.Host]net.PacketConn{}
	for _, h := range []*nstest.Host{host, peer, other} {
		at[h] = h.ListenPacket("udp", "[::]:4789")
	}
	for i, c := range []struct {
		what     string
		from, to *nstest.Host
		addr     string
		vni      uint32
		tracked  bool
	}{
		{"from a peer", peer, host, "192.0.2.1", 1000, false},
		{"from a peer", peer, host, "2001:db8:1::1", 1000, false},
		{"to a peer", host, peer, "192.0.2.2", 1000, false},
		{"to a peer", host, peer, "2001:db8:1::2", 1000, false},
		{"another VNI", peer, host, "192.0.2.1", 1001, true},
		{"another VNI", host, peer, "2001:db8:1::2", 1001, true},
		{"through us", peer, other, "198.51.100.2", 1000, true},
		{"through us", peer, other, "2001:db8:2::2", 1000, true},
	} {
		port := fmt.Sprint(40000 + i)
		from := c.from.ListenPacket("udp", ":"+port)
		if _, err := from.WriteTo(vxlan(c.vni), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr(c.addr), 4789))); err != nil {
			t.Fatal(err)
		}
		at[c.to].SetReadDeadline(time.Now().Add(time.Minute))
		if _, _, err := at[c.to].ReadFrom(make([]byte, 64)); err != nil {
			t.Fatalf("%s, VNI %d: %v", c.what, c.vni, err)
		}
		if got := entries(host, "sport="+port) > 0; got != c.tracked {
			t.Errorf("%s, VNI %d to %s: tracked %v, want %v", c.what, c.vni, c.addr, got, c.tracked)
		}
	}
}

// vxlan is an empty packet of a tunnel.
func vxlan(vni uint32) []byte { return binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, vni<<8) }

// arrives sends a packet of a tunnel, always from one port, and one behind it that nobody keeps out, whose arrival tells that the first
// is not to come.
func arrives(t *testing.T, from *nstest.Host, to netip.AddrPort, at net.PacketConn, vni uint32) bool {
	t.Helper()
	local := "0.0.0.0:7"
	if to.Addr().Is6() {
		local = "[::]:7"
	}
	c := from.ListenPacket("udp", local)
	defer c.Close()
	for _, id := range []uint32{vni, 77} {
		if _, err := c.WriteTo(vxlan(id), net.UDPAddrFromAddrPort(to)); err != nil {
			t.Fatal(err)
		}
	}
	arrived := false
	for {
		var b [64]byte
		at.SetReadDeadline(time.Now().Add(time.Minute))
		n, _, err := at.ReadFrom(b[:])
		if err != nil || n != 8 {
			t.Fatalf("read %d bytes: %v", n, err)
		}
		if binary.BigEndian.Uint32(b[4:])>>8 == 77 {
			return arrived
		}
		arrived = true
	}
}
