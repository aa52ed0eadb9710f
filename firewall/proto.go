package firewall

import (
	"fmt"
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
func (r Range) String() string {
	switch {
	case r == (Range{}):
		return ""
	case r.First == r.Last:
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
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
func (p Port) String() string {
	return fmt.Sprintf("%s/%s -> %s", hostPort(p.Host.String(), p.HostPorts), p.Proto, hostPort(p.Target.String(), p.Ports))
}

func hostPort(addr string, ports Range) string {
	if strings.Contains(addr, ":") {
		addr = "[" + addr + "]"
	}
	return addr + ":" + ports.String()
}
