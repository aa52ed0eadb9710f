package firewall

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// String is the protocol's name as in 80/tcp; one without a name is its number.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return strconv.Itoa(int(p))
}

// ParseProto reads tcp, udp or sctp, in any case. Anything else is InvalidArgument.
func ParseProto(s string) (Proto, error) {
	for _, p := range []Proto{TCP, UDP, SCTP} {
		if strings.EqualFold(s, p.String()) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("protocol %q is not tcp, udp or sctp: %w", s, errdefs.ErrInvalidArgument)
}

// Len is the number of ports; the zero Range has none.
func (r Range) Len() int {
	if r == (Range{}) {
		return 0
	}
	return int(r.Last) - int(r.First) + 1
}

// Contains says whether the range has this port.
func (r Range) Contains(port uint16) bool { return r.First <= port && port <= r.Last && r != Range{} }

// String is 80 or 80-89; the zero Range is "".
func (r Range) String() string { return string(r.AppendTo(nil)) }

// AppendTo appends String.
func (r Range) AppendTo(b []byte) []byte {
	if r == (Range{}) {
		return b
	}
	b = strconv.AppendUint(b, uint64(r.First), 10)
	if r.First != r.Last {
		b = strconv.AppendUint(append(b, '-'), uint64(r.Last), 10)
	}
	return b
}

// AppendText implements encoding.TextAppender: String, or an error where ParseRange would not read it.
func (r Range) AppendText(b []byte) ([]byte, error) {
	if r != (Range{}) && (r.First == 0 || r.Last < r.First) {
		return b, fmt.Errorf("ports %d to %d are no range: %w", r.First, r.Last, errdefs.ErrInvalidArgument)
	}
	return r.AppendTo(b), nil
}

// MarshalText implements encoding.TextMarshaler.
func (r Range) MarshalText() ([]byte, error) { return r.AppendText(nil) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Range) UnmarshalText(text []byte) (err error) {
	if *r = (Range{}); len(text) > 0 {
		*r, err = ParseRange(string(text))
	}
	return err
}

// ParseRange reads 80 or 80-89, ports from 1 to 65535. Anything else is InvalidArgument.
func ParseRange(s string) (Range, error) {
	first, last, two := strings.Cut(s, "-")
	if !two {
		last = first
	}
	f, err := parsePort(first)
	if err != nil {
		return Range{}, err
	}
	l, err := parsePort(last)
	if err != nil {
		return Range{}, err
	}
	if l < f {
		return Range{}, fmt.Errorf("port range %q ends before it begins: %w", s, errdefs.ErrInvalidArgument)
	}
	return Range{f, l}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return 0, fmt.Errorf("port %q is not a number from 1 to 65535: %w", s, errdefs.ErrInvalidArgument)
	}
	return uint16(n), nil
}

// String is the port as nft and Docker would mix it: 0.0.0.0:8080-8081/tcp -> 10.1.0.2:80-81.
func (p Port) String() string { return string(p.appendTo(nil)) }

const arrow = " -> "

func (p Port) appendTo(b []byte) []byte {
	b = append(appendHostPort(b, p.Host, p.HostPorts), '/')
	return appendHostPort(append(append(b, p.Proto.String()...), arrow...), p.Target, p.Ports)
}

func appendHostPort(b []byte, a netip.Addr, ports Range) []byte {
	if a.Is6() {
		b = append(a.AppendTo(append(b, '[')), ']')
	} else {
		b = a.AppendTo(b)
	}
	return ports.AppendTo(append(b, ':'))
}

// What the text of a Port says behind its String.
const (
	atInterface = " at "
	respecting  = " respecting the host"
)

// AppendText implements encoding.TextAppender: String, then the interface, and whether the host's verdict applies. Records have many ports,
// and this is a quarter of the time and the space that the fields would take. It is an error where UnmarshalText would not read it.
func (p Port) AppendText(b []byte) ([]byte, error) {
	if err := p.validate(); err != nil {
		return b, fmt.Errorf("port %s: %w: %w", p, err, errdefs.ErrInvalidArgument)
	}
	if b = p.appendTo(b); p.Interface != "" {
		b = append(append(b, atInterface...), p.Interface...)
	}
	if p.RespectHost {
		b = append(b, respecting...)
	}
	return b, nil
}

// MarshalText implements encoding.TextMarshaler.
func (p Port) MarshalText() ([]byte, error) { return p.AppendText(nil) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Port) UnmarshalText(text []byte) error {
	read, err := parsePortText(string(text))
	if err != nil {
		return fmt.Errorf("published port %q: %w", text, err)
	}
	*p = read
	return nil
}

func parsePortText(s string) (p Port, err error) {
	s, p.RespectHost = strings.CutSuffix(s, respecting)
	s, p.Interface, _ = strings.Cut(s, atInterface)
	outer, inner, _ := strings.Cut(s, arrow)
	outer, proto, _ := strings.Cut(outer, "/")
	if p.Proto, err = ParseProto(proto); err != nil {
		return p, err
	}
	if p.Host, p.HostPorts, err = parseHostPort(outer); err != nil {
		return p, err
	}
	if p.Target, p.Ports, err = parseHostPort(inner); err != nil {
		return p, err
	}
	if err = p.validate(); err != nil {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return p, err
}

func parseHostPort(s string) (a netip.Addr, ports Range, err error) {
	i := max(strings.LastIndexByte(s, ':'), 0)
	if ports, err = ParseRange(strings.TrimPrefix(s[i:], ":")); err != nil {
		return a, ports, err
	}
	if a, err = netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s[:i], "["), "]")); err != nil {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return a, ports, err
}
