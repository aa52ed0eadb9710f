package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/sandbox"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sysctl writes a value in the namespace and says whether it was another.
func (n *Namespace) sysctl(s sandbox.Sysctl) (changed bool, err error) {
	err = nsthread.Do(n.path(), func() (err error) {
		if n.host && s.Path() == "ipv6/conf/all/forwarding" && s.Value == "1" {
			if err := keepAdvertisedRoutes(); err != nil {
				return err
			}
		}
		changed, err = writeSysctl(s.Path(), s.Value)
		return err
	})
	return changed, err
}

// keepAdvertisedRoutes lets the links whose default route came by a router advertisement go on listening to them: a host that forwards
// does not unless it is told to (accept_ra=2), and would lose its way out when the route ends.
func keepAdvertisedRoutes() error {
	advertised := &netlink.Route{Protocol: unix.RTPROT_RA}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V6, advertised, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("look for advertised routes: %w", err)
	}
	for _, r := range routes {
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue // it went with its routes
		}
		if _, err := writeSysctl("ipv6/conf/"+l.Attrs().Name+"/accept_ra", "2"); err != nil {
			return err
		}
	}
	return nil
}

// path is the file of the namespace, the host's included.
func (n *Namespace) path() string {
	if n.host {
		return n.p.host
	}
	return n.key
}

// writeSysctl writes a key below net/ in the namespace of the thread, unless it has the value: where /proc/sys is read-only, what is
// right already is no error.
func writeSysctl(key, value string) (changed bool, err error) {
	if !filepath.IsLocal(key) {
		return false, fmt.Errorf("%w: sysctl %q is no key below net/", errdefs.ErrInvalidArgument, key)
	}
	file := "/proc/sys/net/" + key
	now, err := os.ReadFile(file)
	if err == nil && strings.Join(strings.Fields(string(now)), " ") == strings.Join(strings.Fields(value), " ") {
		return false, nil
	}
	err = os.WriteFile(file, []byte(value), 0)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("%w: there is no sysctl net/%s", errdefs.ErrNotFound, key)
	case errors.Is(err, unix.EROFS):
		return false, fmt.Errorf("%w: /proc/sys is read-only: set net/%s to %q on the host, or give us a writable /proc/sys", errdefs.ErrFailedPrecondition, key, value)
	case errors.Is(err, unix.EINVAL):
		return false, fmt.Errorf("%w: sysctl net/%s cannot be %q", errdefs.ErrInvalidArgument, key, value)
	}
	return false, err
}
