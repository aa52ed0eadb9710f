package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	longestHostname = 64 // what the kernel's uname holds
	longestDomain   = 253
	longestLabel    = 63
)

// CheckDomain says whether a name can stand in DNS, in hosts and in resolv.conf: labels of at most 63 letters, digits, "-" and "_" that
// neither begin nor end with "-", with dots between, 253 bytes at most. A dot at the end is fine. Else InvalidArgument: a space or newline
// would make two entries of one.
func CheckDomain(name string) error {
	why := ""
	if name == "" || len(name) > longestDomain {
		why = "1 to 253 bytes are wanted"
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		switch {
		case label == "" || len(label) > longestLabel:
			why = "between its dots are 1 to 63 bytes"
		case label[0] == '-' || label[len(label)-1] == '-':
			why = `no part of it begins or ends with "-"`
		case strings.ContainsFunc(label, func(c rune) bool {
			return c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
		}):
			why = `it may have letters, digits, "-", "_" and dots`
		}
	}
	if why != "" {
		return fmt.Errorf("name %.80q: %s: %w", name, why, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Check refuses, as InvalidArgument, what would say something else in hosts, hostname or resolv.conf than it should.
func (n Names) Check() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...))
	}
	domain := func(what, name string) {
		if err := CheckDomain(name); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if n.Hostname != "" {
		domain("hostname", n.Hostname)
		if len(n.Hostname) > longestHostname {
			bad("hostname %.80q: at most %d bytes", n.Hostname, longestHostname)
		}
	}
	if n.Domainname != "" {
		domain("domain name", n.Domainname)
	}
	for _, a := range n.DNS {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" && CheckLinkName(a.Zone()) != nil {
			bad("DNS server %.80q: want the address of a server", a)
		}
	}
	for _, s := range n.Search {
		if s != "." {
			domain("search domain", s)
		}
	}
	for _, o := range n.Options {
		if o == "" || strings.ContainsFunc(o, func(c rune) bool { return c <= ' ' || c >= 0x7f }) || strings.ContainsAny(o[:1], "#;") {
			bad("resolver option %.80q: want one word", o)
		}
	}
	for _, h := range n.Hosts {
		domain("host", h.Name)
		if h.Address.Zone() != "" {
			bad("host %.80s: address %.80q: want one without a zone", h.Name, h.Address)
		}
	}
	return errors.Join(errs...)
}

// ParseHostEntry reads Docker's NAME:ADDRESS or NAME=ADDRESS, an IPv6 address with brackets or without. The address "host-gateway" is the
// host's. InvalidArgument says what is wrong.
func ParseHostEntry(s string) (HostEntry, error) {
	at := strings.IndexAny(s, ":=")
	if at < 0 {
		return HostEntry{}, fmt.Errorf("host %.80q: want NAME:ADDRESS: %w", s, errdefs.ErrInvalidArgument)
	}
	h, address := HostEntry{Name: s[:at]}, s[at+1:]
	if err := CheckDomain(h.Name); err != nil {
		return HostEntry{}, fmt.Errorf("host: %w", err)
	}
	if address == "host-gateway" {
		return h, nil
	}
	if inside, ok := strings.CutPrefix(address, "["); ok {
		address, ok = strings.CutSuffix(inside, "]")
		if !ok || !strings.Contains(address, ":") {
			return HostEntry{}, fmt.Errorf(`host %.80q: want an IPv6 address between "[" and "]": %w`, s, errdefs.ErrInvalidArgument)
		}
	}
	var err error
	if h.Address, err = netip.ParseAddr(address); err != nil || h.Address.Zone() != "" {
		return HostEntry{}, fmt.Errorf("host %.80q: want an address, or host-gateway: %w", s, errdefs.ErrInvalidArgument)
	}
	return h, nil
}

// String is h as ParseHostEntry reads it.
func (h HostEntry) String() string {
	switch {
	case !h.Address.IsValid():
		return h.Name + ":host-gateway"
	case h.Address.Is6():
		return h.Name + ":[" + h.Address.String() + "]"
	}
	return h.Name + ":" + h.Address.String()
}
