package nftables

import (
	"fmt"

	"github.com/sealane/sealane/internal/nlmsg"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// surroundings is what the host's own settings ask of us besides terms: looked at when networks come or go, and when the settings change
// while somebody watches.
type surroundings struct {
	gone, added []element // of uplinks
	missing     []opening
	surplus     []opened
}

func (s *surroundings) nothing() bool {
	return len(s.gone)+len(s.added)+len(s.missing)+len(s.surplus) == 0
}

// around looks at the host on behalf of these networks.
func (t *table) around(gateways map[string]gateway) (s surroundings, err error) {
	if !t.host {
		return s, nil
	}
	if s.missing, s.surplus, err = t.openings(gateways); err != nil {
		return s, err
	}
	if len(gateways) == 0 {
		return s, nil
	}
	uplinks, err := uplinks(t.path)
	if err != nil {
		return s, fmt.Errorf("look for the host's default routes: %w", err)
	}
	var want []element
	for _, name := range uplinks {
		want = append(want, keyed(setUplinks, "", named(name)))
	}
	s.gone, s.added = difference(t.uplinks, unique(want))
	return s, nil
}

// uplinks are the links of a namespace that have a default route.
func uplinks(path string) (all []string, err error) {
	h, err := handle(path)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := nlmsg.Whole(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{Dst: nil, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, err
		}
		for _, r := range routes {
			indexes := []int{r.LinkIndex}
			for _, hop := range r.MultiPath {
				indexes = append(indexes, hop.LinkIndex)
			}
			for _, i := range indexes {
				if i == 0 {
					continue
				}
				if l, err := h.LinkByIndex(i); err == nil { // it may be going
					all = append(all, l.Attrs().Name)
				}
			}
		}
	}
	return all, nil
}

func handle(path string) (*netlink.Handle, error) {
	if path == "" {
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
}
