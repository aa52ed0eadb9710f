package endpoint

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/firewall"
)

// ParsePort reads Docker's syntax of a published port: [IP:][HOST[-HOST]:]CTR[-CTR][/tcp|udp|sctp], an IPv6 address in brackets,
// and IP::CTR as well. No host port, or 0, is any free one. Ranges of one length go pairwise; of a host range before a single container
// port the first free one is taken. The error is InvalidArgument and says what is wrong.
func ParsePort(s string) (PortBinding, error) {
	b, err := parsePort(s)
	if err != nil {
		return PortBinding{}, fmt.Errorf("port %q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	return b, nil
}

func parsePort(s string) (b PortBinding, err error) {
	rest, proto, named := strings.Cut(s, "/")
	if !named {
		proto = "tcp"
	}
	if b.Proto, err = parseProto(proto); err != nil {
		return b, err
	}
	if b.Host, rest, err = cutAddress(rest); err != nil {
		return b, err
	}
	host, container, two := strings.Cut(rest, ":")
	if !two {
		host, container = "", rest
	}
	if strings.Contains(container, ":") {
		return b, fmt.Errorf("too many colons: want [IP:][HOST[-HOST]:]CTR[-CTR], an IPv6 address in brackets")
	}
	if host != "" && host != "0" {
		if b.HostPorts, err = parseRange("host", host); err != nil {
			return b, err
		}
	}
	if b.Ports, err = parseRange("container", container); err != nil {
		return b, err
	}
	return b, b.checkLengths()
}

func parseProto(s string) (firewall.Proto, error) {
	switch strings.ToLower(s) {
	case "tcp":
		return firewall.TCP, nil
	case "udp":
		return firewall.UDP, nil
	case "sctp":
		return firewall.SCTP, nil
	}
	return 0, fmt.Errorf("protocol %q is none of tcp, udp, sctp", s)
}

// cutAddress takes the host address, if there is one, off the front. A field of digits and dashes is a port.
func cutAddress(s string) (netip.Addr, string, error) {
	if bracketed, ok := strings.CutPrefix(s, "["); ok {
		inside, rest, closed := strings.Cut(bracketed, "]:")
		if !closed {
			return netip.Addr{}, "", fmt.Errorf(`"[" without "]:" after it`)
		}
		a, err := netip.ParseAddr(inside)
		if err != nil || !a.Is6() || a.Zone() != "" {
			return netip.Addr{}, "", fmt.Errorf("%q is no IPv6 address", inside)
		}
		return a.Unmap(), rest, nil
	}
	field, rest, more := strings.Cut(s, ":")
	if !more || strings.Trim(field, "0123456789-") == "" {
		return netip.Addr{}, s, nil
	}
	a, err := netip.ParseAddr(field)
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("%q is neither an IPv4 address nor a port; an IPv6 address stands in brackets", field)
	}
	return a, rest, nil
}

func parseRange(side, s string) (firewall.Range, error) {
	first, last, two := strings.Cut(s, "-")
	if !two {
		last = first
	}
	var r firewall.Range
	for _, end := range []struct {
		text string
		port *uint16
	}{{first, &r.First}, {last, &r.Last}} {
		n, err := strconv.ParseUint(end.text, 10, 16)
		if err != nil || n == 0 {
			return r, fmt.Errorf("%s port %q is no number from 1 to 65535", side, end.text)
		}
		*end.port = uint16(n)
	}
	if r.First > r.Last {
		return r, fmt.Errorf("%s range %s runs backwards", side, s)
	}
	return r, nil
}

func (b PortBinding) checkLengths() error {
	ports := int(b.Ports.Last) - int(b.Ports.First) + 1
	host := int(b.HostPorts.Last) - int(b.HostPorts.First) + 1
	if b.HostPorts == (firewall.Range{}) || host == ports || ports == 1 {
		return nil
	}
	return fmt.Errorf("%d host ports for %d container ports: want as many, or a single container port", host, ports)
}

// String is b as ParsePort reads it, with the protocol always named: "127.0.0.1:8000-8009:80-89/tcp".
func (b PortBinding) String() string {
	var s strings.Builder
	if b.Host.Is6() {
		fmt.Fprintf(&s, "[%s]:", b.Host)
	} else if b.Host.IsValid() {
		fmt.Fprintf(&s, "%s:", b.Host)
	}
	if b.HostPorts != (firewall.Range{}) {
		s.WriteString(ports(b.HostPorts) + ":")
	} else if b.Host.IsValid() {
		s.WriteByte(':')
	}
	return s.String() + ports(b.Ports) + "/" + protoName(b.Proto)
}

func ports(r firewall.Range) string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

func protoName(p firewall.Proto) string {
	switch p {
	case firewall.TCP:
		return "tcp"
	case firewall.UDP:
		return "udp"
	case firewall.SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}
