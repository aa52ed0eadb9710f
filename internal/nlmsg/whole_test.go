package nlmsg

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	other := errors.New("other")
	for name, test := range map[string]struct {
		says  []error
		asked int
		want  error
	}{
		"whole":       {[]error{nil}, 1, nil},
		"interrupted": {[]error{netlink.ErrDumpInterrupted, netlink.ErrDumpInterrupted, nil}, 3, nil},
		"refused":     {[]error{netlink.ErrDumpInterrupted, other, nil}, 2, other},
	} {
		asked := 0
		all, err := Whole(func() ([]int, error) {
			asked++
			return []int{asked}, test.says[asked-1]
		})
		if asked != test.asked || !errors.Is(err, test.want) || len(all) != 1 || all[0] != asked {
			t.Errorf("%s: asked %d times: %v, %v", name, asked, all, err)
		}
	}
	if _, err := Whole(func() ([]int, error) { return nil, netlink.ErrDumpInterrupted }); !errors.Is(err, netlink.ErrDumpInterrupted) {
		t.Errorf("never whole: %v", err)
	}
}
