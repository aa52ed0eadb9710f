package endpoint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox"
)

// InterfaceSysctls are s.Sysctls as an Attachment has them, sorted by key. Docker's form is taken, net.ipv4.conf.IFNAME.log_martians,
// and the same with slashes. Keys must be below net.ipv4, net.ipv6 or net.mpls and name the interface as IFNAME, because the
// endpoint's own interface is all that it may set; else InvalidArgument.
func (s Spec) InterfaceSysctls() ([]sandbox.Sysctl, error) {
	var all []sandbox.Sysctl
	for key, value := range s.Sysctls {
		path := key
		if !strings.Contains(key, "/") {
			path = strings.ReplaceAll(key, ".", "/")
		}
		parts := strings.Split(path, "/")
		bad := len(parts) < 4 || parts[0] != "net" || !slices.Contains([]string{"ipv4", "ipv6", "mpls"}, parts[1]) ||
			!slices.Contains(parts[2:], "IFNAME") || slices.ContainsFunc(parts, func(p string) bool { return strings.Trim(p, ".") == "" })
		if bad || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return nil, fmt.Errorf("sysctl %q: want net.ipv4.…, net.ipv6.… or net.mpls.… with IFNAME for the interface: %w", key, errdefs.ErrInvalidArgument)
		}
		if value == "" || strings.ContainsAny(value, "\n\x00") {
			return nil, fmt.Errorf("sysctl %s: value %q: want one line: %w", key, value, errdefs.ErrInvalidArgument)
		}
		all = append(all, sandbox.Sysctl{Key: strings.TrimPrefix(path, "net/"), Value: value})
	}
	slices.SortFunc(all, func(a, b sandbox.Sysctl) int { return cmp.Compare(a.Key, b.Key) })
	return all, nil
}
