package resolver

import (
	"net/netip"
	"slices"
	"strings"
)

// HostsLine is an address and what it is called, as a line of a hosts file.
func HostsLine(a netip.Addr, names ...string) string {
	return a.String() + "\t" + strings.Join(names, " ")
}

// Localhost are the lines that every hosts file begins with. Without IPv6 there are none of it.
func Localhost(ipv6 bool) []string {
	lines := []string{"127.0.0.1\tlocalhost"}
	if ipv6 {
		lines = append(lines, "::1\tlocalhost ip6-localhost ip6-loopback", "fe00::\tip6-localnet", "ff00::\tip6-mcastprefix",
			"ff02::1\tip6-allnodes", "ff02::2\tip6-allrouters")
	}
	return lines
}

// SelfNames are what a sandbox calls itself at its own addresses: the name with its domain, if it has one, and without.
func SelfNames(hostname, domainname string) []string {
	short, rest, dotted := strings.Cut(hostname, ".")
	switch {
	case domainname != "" && !dotted:
		return []string{hostname + "." + domainname, hostname}
	case dotted && rest != "":
		return []string{hostname, short}
	}
	return []string{hostname}
}

// MergeHosts is a hosts file without those lines that ours says, without their ends, we wrote, but for those of want, and with those of new
// at the end that are not there yet. What others wrote stays, in its place.
func MergeHosts(text string, ours func(line string) bool, want, new []string) string {
	missing := slices.Clone(new)
	var b strings.Builder
	for line := range strings.Lines(text) {
		bare := strings.TrimSuffix(line, "\n")
		if i := slices.Index(missing, bare); i >= 0 {
			missing = slices.Delete(missing, i, i+1)
		} else if ours(bare) && !slices.Contains(want, bare) {
			continue
		}
		b.WriteString(line)
	}
	if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") && len(missing) > 0 {
		b.WriteByte('\n')
	}
	for _, line := range missing {
		b.WriteString(line + "\n")
	}
	return b.String()
}
