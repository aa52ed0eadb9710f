package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// becomeThrowAwayHost begins this program anew with one more argument, in a network namespace and a mount namespace of its own. They end
// with it, however it ends. It returns only when that fails.
//
// Namespaces belong to threads: this one makes them, and when it calls exec it becomes the only thread of the new program.
func becomeThrowAwayHost(arg string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make a namespace to act as the host: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep our mounts to ourselves: %w", err)
	}
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo"}}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("raise the host's loopback: %w", err)
	}
	return unix.Exec("/proc/self/exe", append(os.Args, arg), os.Environ())
}
