package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/internal/nlmsg"
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
		changed, err = writeSysctl(n.openSysctl, s.Path(), s.Value)
		return err
	})
	return changed, err
}

// openSysctl opens a file below /proc/sys/net. The host's is the one that its administrator mounted, perhaps read-only.
func (n *Namespace) openSysctl(key string, flags int) (int, error) {
	if n.host {
		return openHostSysctl(key, flags)
	}
	return n.p.procfs.open(key, flags)
}

func openHostSysctl(key string, flags int) (int, error) {
	return unix.Open("/proc/sys/net/"+key, flags|unix.O_CLOEXEC, 0)
}

// keepAdvertisedRoutes lets the links whose default route came by a router advertisement go on listening to them: a host that forwards
// does not unless it is told to (accept_ra=2), and would lose its way out when the route ends.
func keepAdvertisedRoutes() error {
	advertised := &netlink.Route{Protocol: unix.RTPROT_RA}
	routes, err := nlmsg.Whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V6, advertised, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return fmt.Errorf("look for advertised routes: %w", err)
	}
	for _, r := range routes {
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			continue // it went with its routes
		}
		if _, err := writeSysctl(openHostSysctl, "ipv6/conf/"+l.Attrs().Name+"/accept_ra", "2"); err != nil {
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
func writeSysctl(open func(key string, flags int) (int, error), key, value string) (changed bool, err error) {
	if !filepath.IsLocal(key) {
		return false, fmt.Errorf("%w: sysctl %q is no key below net/", errdefs.ErrInvalidArgument, key)
	}
	now, err := readSysctl(open, key)
	if err == nil && slices.Equal(strings.Fields(now), strings.Fields(value)) {
		return false, nil
	}
	fd, err := open(key, unix.O_WRONLY)
	if err == nil {
		_, err = unix.Write(fd, []byte(value))
		unix.Close(fd)
	}
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
	return false, fmt.Errorf("set sysctl net/%s: %w", key, err)
}

func readSysctl(open func(key string, flags int) (int, error), key string) (string, error) {
	fd, err := open(key, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var buf [4096]byte // a page is what the kernel shows of one
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
