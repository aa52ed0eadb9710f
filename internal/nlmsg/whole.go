package nlmsg

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// Whole reads a list of the kernel's with list, which is of github.com/vishvananda/netlink, and reads it again while others changed what is
// listed in the middle of it: then something may be missing that was there all the time.
func Whole[T any](list func() ([]T, error)) (all []T, err error) {
	const tries = 100 // of a millisecond; links come and go by hundreds a second at most
	for range tries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
