package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// becomeHost makes the fresh network and mount namespace of this process fit to act as a host: what is written below /run stays in
// memory and ends with the process. An engine needs the control groups, which a sysfs of our own hides.
func becomeHost(groups bool) error {
	const at, aside = "/sys/fs/cgroup", "/run/cgroup"
	type mount struct {
		from, at, kind string
		flags          uintptr
	}
	mounts := []mount{{"", "/", "", unix.MS_REC | unix.MS_PRIVATE}, {"tmpfs", "/run", "tmpfs", 0}}
	if groups {
		mounts = append(mounts, mount{at, aside, "", unix.MS_BIND | unix.MS_REC})
	}
	mounts = append(mounts, mount{"sysfs", "/sys", "sysfs", 0}) // shows the links of this namespace
	if groups {
		mounts = append(mounts, mount{aside, at, "", unix.MS_BIND | unix.MS_REC})
	}
	for _, m := range mounts {
		if m.at == aside {
			if err := os.Mkdir(aside, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount(m.from, m.at, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err)
		}
	}
	return netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo"}})
}

// command runs a program of the set-up, never in the time that is measured.
func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// sysctl writes a value below net in the namespace of the calling thread.
func sysctl(key, value string) error {
	return os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0)
}
