package overlay

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/sealane/sealane/internal/labels"
	"github.com/sealane/sealane/sandbox"
)

// Options are what an overlay network can be told. The zero value is a network like any other.
type Options struct {
	VNI                Range        // which VXLAN network identifier it may have; zero: 256-1000
	Port               int          // of UDP, for VXLAN; 0: 4789
	MTU                int          // bytes, at most; 0: what the underlay carries
	Flood              bool         // what is for many or for all goes to the other hosts too, by a packet to each (RFC 7348, section 4.2, without a multicast group)
	Prefix             string       // of interface names in sandboxes; "": eth
	Binding            netip.Addr   // host address of ports published without one, IPv4; zero: all, of both families
	SNAT4, SNAT6       netip.Addr   // source of what leaves; zero: masquerade
	Transit4, Transit6 netip.Prefix // pools for the link between host and network, of which a network takes the pair of addresses with the number of its VNI; a /31 or /127 is that pair. Zero: 169.254.64.0/18, fd73:6561:6c61::/64
}

// Range is an interval of VNIs, both ends included.
type Range struct{ First, Last uint32 }

// String is 256 or 256-1000; "" for the zero Range.
func (r Range) String() string {
	switch {
	case r == Range{}:
		return ""
	case r.First == r.Last:
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

const maxVNI = 1<<24 - 1 // RFC 7348, section 5

func (o Options) vnis() Range {
	if o.VNI == (Range{}) {
		return Range{256, 1000}
	}
	return o.VNI
}

func (o Options) port() uint16 {
	const vxlan = 4789 // RFC 7348, section 5
	if o.Port == 0 {
		return vxlan
	}
	return uint16(o.Port)
}

// ParseOptions reads a network's options under Docker's names or ours. Unknown keys of Docker's overlay and keys without a dot, and bad
// values, are InvalidArgument; other keys are not for us and pass.
func ParseOptions(options map[string]string) (Options, error) {
	if len(options) == 0 { // as of most networks, whose every endpoint asks
		return Options{}, nil
	}
	return table().Parse(options)
}

// Labels are options as ParseOptions reads them, defaults left out.
func (o Options) Labels() map[string]string { return table().Format(o) }

const docker = "com.docker.network."

func table() labels.Table[Options] {
	type O = Options
	return labels.Table[O]{Of: "driver overlay", Ours: []string{docker + "driver.overlay."}, Keys: []labels.Key[O]{
		labels.Value("vni", docker+"driver.overlay.vxlanid_list", "a number from 1 to 16777215 or a range a-b",
			func(o *O) *Range { return &o.VNI }, readVNIs, Range.String),
		labels.Value("port", "", "a port number from 1 to 65535", func(o *O) *int { return &o.Port }, readPort, labels.WriteInt),
		labels.Value("mtu", docker+"driver.mtu", "a number of bytes from 68 to 65535, or 0 for what the underlay carries",
			func(o *O) *int { return &o.MTU }, labels.MTU, labels.WriteInt),
		labels.On("flood", "", func(o *O) *bool { return &o.Flood }),
		labels.Value("iface_prefix", docker+"container_iface_prefix", "the beginning of an interface name, at most 11 bytes",
			func(o *O) *string { return &o.Prefix }, readPrefix, labels.Text),
		labels.Value("host_binding_ipv4", docker+"bridge.host_binding_ipv4", "an IPv4 address",
			func(o *O) *netip.Addr { return &o.Binding }, labels.Binding, labels.WriteAddr),
		labels.Value("host_ipv4", docker+"host_ipv4", "an IPv4 address", func(o *O) *netip.Addr { return &o.SNAT4 },
			labels.OneHost(labels.IPv4), labels.WriteAddr),
		labels.Value("host_ipv6", docker+"host_ipv6", "an IPv6 address", func(o *O) *netip.Addr { return &o.SNAT6 },
			labels.OneHost(labels.IPv6), labels.WriteAddr),
		labels.Value("transit_ipv4", "", "an IPv4 prefix of at most 31 bits", func(o *O) *netip.Prefix { return &o.Transit4 }, readPool4, writePool),
		labels.Value("transit_ipv6", "", "an IPv6 prefix of at most 127 bits", func(o *O) *netip.Prefix { return &o.Transit6 }, readPool6, writePool),
	}}
}

func readVNIs(s string) (Range, error) {
	first, last, two := strings.Cut(s, "-")
	if !two {
		last = first
	}
	a, errA := strconv.ParseUint(first, 10, 24)
	b, errB := strconv.ParseUint(last, 10, 24)
	if errA != nil || errB != nil || a == 0 || b < a || b > maxVNI {
		return Range{}, fmt.Errorf("out of range")
	}
	return Range{uint32(a), uint32(b)}, nil
}

func readPort(s string) (int, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err == nil && port == 0 {
		err = fmt.Errorf("out of range")
	}
	return int(port), err
}

func readPrefix(s string) (string, error) { return s, sandbox.CheckLinkPrefix(s) }

func readPool4(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err == nil && (!p.Addr().Is4() || p.Bits() > 31) {
		err = fmt.Errorf("not a pool of IPv4")
	}
	return p.Masked(), err
}

func readPool6(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err == nil && (!p.Addr().Is6() || p.Addr().Is4In6() || p.Bits() > 127 || p.Addr().IsLinkLocalUnicast()) {
		err = fmt.Errorf("not a pool of IPv6")
	}
	return p.Masked(), err
}

func writePool(p netip.Prefix) string {
	if !p.IsValid() {
		return ""
	}
	return p.String()
}

// checkEndpointOptions refuses options of ours that an endpoint would have: there are none.
func checkEndpointOptions(options map[string]string) error {
	_, err := labels.Table[struct{}]{Of: "an endpoint of driver overlay", Ours: []string{docker + "driver.overlay."}}.Parse(options)
	return err
}
