package resolver

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sealane/sealane/sandbox"
)

// Where a host says which servers it asks. With systemd-resolved the first names its own listener, which is of no use in another
// namespace, and the second what that asks.
const (
	HostConf = "/etc/resolv.conf"
	StubConf = "/run/systemd/resolve/resolv.conf"
)

// Address is where a sandbox asks the resolver, port 53 of UDP and TCP. Every namespace has 127/8, one without IPv4 networks too.
func Address() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

// ResolvConf is what a resolv.conf says: see resolv.conf(5).
type ResolvConf struct {
	Servers []netip.Addr // in order; a link-local one may have a zone
	Search  []string     // of the last search or domain line
	Options []string     // of all options lines
	Other   []string     // lines of other keywords, such as sortlist, as they are
}

// ParseResolvConf reads a file as the C library does: what it does not understand says nothing.
func ParseResolvConf(text []byte) ResolvConf {
	var r ResolvConf
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0][0] == '#' || words[0][0] == ';' || !printable(line) {
			continue
		}
		for i, w := range words {
			if w[0] == '#' || w[0] == ';' {
				words = words[:i]
				break
			}
		}
		switch key, values := words[0], words[1:]; key {
		case "nameserver":
			if len(values) > 0 {
				if a, err := netip.ParseAddr(values[0]); err == nil {
					r.Servers = append(r.Servers, a)
				}
			}
		case "search", "domain":
			r.Search = values
		case "options":
			r.Options = append(r.Options, values...)
		default:
			r.Other = append(r.Other, strings.Join(words, " "))
		}
	}
	return r
}

// printable says that a line has nothing in it that ends a line, or a string, for somebody.
func printable(line string) bool {
	return !strings.ContainsFunc(strings.TrimRight(line, "\r\n"), func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// Stub says that all servers are systemd-resolved's own listener: the host's file is then StubConf.
func (r ResolvConf) Stub() bool {
	return len(r.Servers) > 0 && !slices.ContainsFunc(r.Servers, func(a netip.Addr) bool {
		return a != netip.AddrFrom4([4]byte{127, 0, 0, 53}) && a != netip.AddrFrom4([4]byte{127, 0, 0, 54})
	})
}

// With is r with a sandbox's own settings, each of which replaces all of its kind: servers, search domains (a single "." leaves none) and
// options.
func (r ResolvConf) With(n sandbox.Names) ResolvConf {
	if len(n.DNS) > 0 {
		r.Servers = n.DNS
	}
	if len(n.Search) > 0 {
		r.Search = n.Search
	}
	if len(n.Options) > 0 {
		r.Options = n.Options
	}
	if slices.Equal(r.Search, []string{"."}) {
		r.Search = nil
	}
	return r
}

// Embedded is r for a sandbox that asks the resolver, which asks the others. Names without a dot are tried as they are: they are those of
// containers.
func (r ResolvConf) Embedded() ResolvConf {
	const key = "ndots:"
	var options []string
	found := false
	for _, o := range r.Options {
		if value, is := strings.CutPrefix(o, key); is {
			if n, err := strconv.Atoi(value); err != nil || n < 0 {
				continue
			}
			found = true
		}
		options = append(options, o)
	}
	if !found {
		options = append(options, key+"0")
	}
	r.Servers, r.Options = []netip.Addr{Address()}, options
	return r
}

// Direct is r for a sandbox that asks the host's servers itself. It cannot reach those on the host's loopback or links, nor, without IPv6,
// those of IPv6. When none are left it is given public ones, as Docker does.
func (r ResolvConf) Direct(ipv6 bool) ResolvConf {
	var servers []netip.Addr
	for _, a := range r.Servers {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() && (ipv6 || a.Unmap().Is4()) {
			servers = append(servers, a)
		}
	}
	if len(servers) == 0 {
		servers = []netip.Addr{netip.AddrFrom4([4]byte{8, 8, 8, 8}), netip.AddrFrom4([4]byte{8, 8, 4, 4})}
		if ipv6 {
			servers = append(servers, netip.MustParseAddr("2001:4860:4860::8888"), netip.MustParseAddr("2001:4860:4860::8844"))
		}
	}
	r.Servers = servers
	return r
}

// Text is the file. comments are lines for who reads it.
func (r ResolvConf) Text(comments ...string) string {
	var b bytes.Buffer
	for _, a := range r.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	for _, l := range []struct {
		key    string
		values []string
	}{{"search", r.Search}, {"options", r.Options}} {
		if len(l.values) > 0 {
			fmt.Fprintf(&b, "%s %s\n", l.key, strings.Join(l.values, " "))
		}
	}
	for _, line := range r.Other {
		b.WriteString(line + "\n")
	}
	if len(comments) > 0 {
		b.WriteByte('\n')
	}
	for _, c := range comments {
		fmt.Fprintf(&b, "# %s\n", c)
	}
	return b.String()
}
