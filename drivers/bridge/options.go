package bridge

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/labels"
	"github.com/sealane/sealane/sandbox"
)

// Options are what a bridge network can be told. The zero value is a network like Docker's.
type Options struct {
	Name         string        // of the device; "": sl- and the first 12 digits of the network's id
	MTU          int           // bytes; 0: the host's
	NoMasquerade bool          // what leaves keeps its source address
	NoICC        bool          // endpoints do not reach each other
	NoAddress4   bool          // the bridge gets no IPv4 address (Docker's inhibit_ipv4): another router has it
	Prefix       string        // of interface names in sandboxes; "": eth
	Binding      netip.Addr    // host address of ports published without one, IPv4; zero: all, of both families
	Mode4, Mode6 firewall.Mode // "": NAT
	SNAT4, SNAT6 netip.Addr    // source of what leaves; zero: masquerade
	Trusted      []string      // host interfaces from which endpoints are reached at their own address
}

// ParseOptions reads a network's options under Docker's names or ours. Unknown keys of Docker's bridge and keys without a dot, and bad
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
	return labels.Table[O]{Of: "driver bridge", Ours: []string{docker + "bridge."}, Keys: []labels.Key[O]{
		labels.Value("name", docker+"bridge.name", "an interface name of at most 15 bytes",
			func(o *O) *string { return &o.Name }, linkName, labels.Text),
		labels.Value("mtu", docker+"driver.mtu", "a number of bytes from 68 to 65535, or 0 for the host's",
			func(o *O) *int { return &o.MTU }, labels.MTU, labels.WriteInt),
		labels.Off("masquerade", docker+"bridge.enable_ip_masquerade", func(o *O) *bool { return &o.NoMasquerade }),
		labels.Off("icc", docker+"bridge.enable_icc", func(o *O) *bool { return &o.NoICC }),
		labels.On("inhibit_ipv4", docker+"bridge.inhibit_ipv4", func(o *O) *bool { return &o.NoAddress4 }),
		labels.Value("iface_prefix", docker+"container_iface_prefix", "the beginning of an interface name, at most 11 bytes",
			func(o *O) *string { return &o.Prefix }, linkPrefix, labels.Text),
		labels.Value("host_binding_ipv4", docker+"bridge.host_binding_ipv4", "an IPv4 address",
			func(o *O) *netip.Addr { return &o.Binding }, labels.Binding, labels.WriteAddr),
		labels.Value("gateway_mode_ipv4", docker+"bridge.gateway_mode_ipv4", modes, func(o *O) *firewall.Mode { return &o.Mode4 }, mode, modeText),
		labels.Value("gateway_mode_ipv6", docker+"bridge.gateway_mode_ipv6", modes, func(o *O) *firewall.Mode { return &o.Mode6 }, mode, modeText),
		labels.Value("host_ipv4", docker+"host_ipv4", "an IPv4 address", func(o *O) *netip.Addr { return &o.SNAT4 }, labels.OneHost(labels.IPv4), labels.WriteAddr),
		labels.Value("host_ipv6", docker+"host_ipv6", "an IPv6 address", func(o *O) *netip.Addr { return &o.SNAT6 }, labels.OneHost(labels.IPv6), labels.WriteAddr),
		labels.Value("trusted_host_interfaces", docker+"bridge.trusted_host_interfaces", "interface names parted by colons",
			func(o *O) *[]string { return &o.Trusted }, linkNames, func(names []string) string { return strings.Join(names, ":") }),
	}}
}

func linkName(s string) (string, error) { return s, sandbox.CheckLinkName(s) }

func linkPrefix(s string) (string, error) { return s, sandbox.CheckLinkPrefix(s) }

func linkNames(s string) ([]string, error) {
	names := strings.Split(s, ":")
	for _, name := range names {
		if err := sandbox.CheckLinkName(name); err != nil {
			return nil, err
		}
	}
	return names, nil
}

const modes = "nat, nat-unprotected, routed or isolated"

func mode(s string) (firewall.Mode, error) {
	m := firewall.Mode(s)
	if !slices.Contains([]firewall.Mode{firewall.NAT, firewall.NATUnprotected, firewall.Routed, firewall.Isolated}, m) {
		return "", fmt.Errorf("unknown mode")
	}
	return m, nil
}

func modeText(m firewall.Mode) string { return string(m) }

// checkEndpointOptions refuses options of ours that an endpoint would have: there are none.
func checkEndpointOptions(options map[string]string) error {
	_, err := labels.Table[struct{}]{Of: "an endpoint of driver bridge", Ours: []string{docker + "bridge."}}.Parse(options)
	return err
}
