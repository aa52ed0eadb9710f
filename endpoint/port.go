package endpoint

import (
	"fmt"
	"net/netip"
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
		return PortBinding{}, fmt.Errorf("port %q: %w", s, err)
	}
	return b, nil
}

func parsePort(s string) (b PortBinding, err error) {
	rest, proto, named := strings.Cut(s, "/")
	if !named {
		proto = "tcp"
	}
	if b.Proto, err = firewall.ParseProto(proto); err != nil {
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
		return b, fmt.Errorf("too many colons, want [IP:][HOST[-HOST]:]CTR[-CTR][/PROTO]: %w", errdefs.ErrInvalidArgument)
	}
	if host != "" && host != "0" {
		if b.HostPorts, err = firewall.ParseRange(host); err != nil {
			return b, fmt.Errorf("host %w", err)
		}
	}
	if b.Ports, err = firewall.ParseRange(container); err != nil {
		return b, fmt.Errorf("container %w", err)
	}
	if err := b.checkLengths(); err != nil {
		return b, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return b, nil
}

// checkLengths says, without a kind, that the ranges do not fit each other.
func (b PortBinding) checkLengths() error {
	if n, of := b.HostPorts.Len(), b.Ports.Len(); n != 0 && n != of && of != 1 {
		return fmt.Errorf("%d host ports for %d container ports, want as many or a single container port", n, of)
	}
	return nil
}

// cutAddress takes the host address, if there is one, off the front. A field of digits and dashes is a port.
func cutAddress(s string) (netip.Addr, string, error) {
	if bracketed, ok := strings.CutPrefix(s, "["); ok {
		inside, rest, closed := strings.Cut(bracketed, "]:")
		a, err := netip.ParseAddr(inside)
		if !closed || err != nil || !a.Is6() || a.Zone() != "" {
			return netip.Addr{}, "", fmt.Errorf(`want an IPv6 address between "[" and "]:": %w`, errdefs.ErrInvalidArgument)
		}
		return a.Unmap(), rest, nil
	}
	field, rest, more := strings.Cut(s, ":")
	if !more || strings.Trim(field, "0123456789-") == "" {
		return netip.Addr{}, s, nil
	}
	a, err := netip.ParseAddr(field)
	if err != nil {
		return netip.Addr{}, "", fmt.Errorf("%q is neither an IPv4 address nor a port, and an IPv6 address stands in brackets: %w", field, errdefs.ErrInvalidArgument)
	}
	return a, rest, nil
}

// String is b as ParsePort reads it, with the protocol always named: "127.0.0.1:8000-8009:80-89/tcp".
func (b PortBinding) String() string { return string(b.appendTo(nil)) }

func (b PortBinding) appendTo(to []byte) []byte {
	if b.Host.Is6() {
		to = append(b.Host.AppendTo(append(to, '[')), "]:"...)
	} else if b.Host.IsValid() {
		to = append(b.Host.AppendTo(to), ':')
	}
	if b.Host.IsValid() || b.HostPorts != (firewall.Range{}) {
		to = append(b.HostPorts.AppendTo(to), ':')
	}
	return append(append(b.Ports.AppendTo(to), '/'), b.Proto.String()...)
}

// AppendText implements encoding.TextAppender: String, or Check's error. Records have many bindings, and this is a quarter of the time
// and the space that the fields would take.
func (b PortBinding) AppendText(to []byte) ([]byte, error) {
	if err := b.Check(); err != nil {
		return to, err
	}
	return b.appendTo(to), nil
}

// MarshalText implements encoding.TextMarshaler.
func (b PortBinding) MarshalText() ([]byte, error) { return b.AppendText(nil) }

// UnmarshalText implements encoding.TextUnmarshaler by ParsePort.
func (b *PortBinding) UnmarshalText(text []byte) (err error) {
	*b, err = ParsePort(string(text))
	return err
}
