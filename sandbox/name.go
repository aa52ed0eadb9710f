package sandbox

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// CheckLinkName says whether the kernel takes name for a link and a path below /proc/sys/net/*/conf means that link by it. Else
// InvalidArgument. "lo", which every namespace has, is no name for another.
func CheckLinkName(name string) error {
	why := ""
	switch {
	case name == "":
		why = "it is empty"
	case len(name) > 15:
		why = "it is longer than 15 bytes"
	case name == "." || name == ".." || name == "all" || name == "default" || name == "lo":
		why = "it is reserved"
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(`/:%`, r) }):
		why = `only printable ASCII without spaces, "/", ":" and "%" will do`
	default:
		return nil
	}
	return fmt.Errorf("interface name %q: %s: %w", name, why, errdefs.ErrInvalidArgument)
}

// CheckLinkPrefix is CheckLinkName for what begins the names of a sandbox's interfaces: there must be room for a number below 1,024, since a
// bridge has no more ports.
func CheckLinkPrefix(prefix string) error { return CheckLinkName(prefix + "1023") }
