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
	"golang.org/x/sys/unix"
)

// sysctl writes a value in the namespace and says whether it was another.
func (n *Namespace) sysctl(s sandbox.Sysctl) (changed bool, err error) {
	err = nsthread.Do(n.path(), func() (err error) {
		changed, err = writeSysctl(s.Path(), s.Value)
		return err
	})
	return changed, err
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
