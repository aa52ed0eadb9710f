package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// becomeHost makes the fresh network and mount namespace of this process fit to act as a host: what is written below /run stays in
// memory and ends with the process.
func becomeHost() error {
	mounts := []struct {
		kind, at string
		flags    uintptr
	}{
		{"", "/", unix.MS_REC | unix.MS_PRIVATE},
		{"tmpfs", "/run", 0},
		{"sysfs", "/sys", 0}, // shows the links of this namespace
	}
	for _, m := range mounts {
		if err := unix.Mount(m.kind, m.at, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.at, err)
		}
	}
	return command("ip", "link", "set", "lo", "up")
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
