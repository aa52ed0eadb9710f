package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/sealane/sealane/internal/nlmsg"
	"golang.org/x/sys/unix"
)

// groupLimit is how many links are deleted by one message: the kernel holds its one lock for all of them, 5 ms for 50.
const groupLimit = 32

// A namespace that ends takes its links with it, and the kernel ends many at a time: that is the cheapest. So a link into a namespace of
// ours is left until it is clear whether the namespace goes too, and if it does, until the kernel had time for it.
const (
	doubt    = 10 * time.Millisecond
	patience = time.Second // after which somebody else must be inside
)

// reaper deletes in the background what takes the kernel a grace period (15 ms): links that were given up, by group, and mounts of
// namespaces that were removed. One goroutine does it all; what gathers while it waits is done together.
type reaper struct {
	groups groups
	host   *nlmsg.Socket

	mu      sync.Mutex
	round   uint32 // the group that links are given up into now, and how many have been
	members int
	links   []grave
	mounts  []string
	asked   uint64 // jobs so far, and up to which all are done
	done    uint64
	waited  bool          // for: nothing may be left until later
	changed chan struct{} // closed and replaced when done grows
	failed  error         // the first of the jobs since the last wait
	wake    chan struct{}
	stop    chan struct{}
	stopped chan struct{}
}

// grave is where a link was given up.
type grave struct {
	plot
	index uint32    // of the link; 0: not known
	into  string    // the namespace of ours that its other end is in; "" none
	due   time.Time // when it is to be deleted
}

// exhumed are the links to be deleted by one message: those of a group, or, where a single one was given up into it, that one by its index. To
// find a group the kernel looks at all links of the namespace, twice, with its lock held.
type exhumed struct {
	plot
	alone uint32 // index; 0: by the group
}

// plot is a group of links given up in the namespace whose file is space, "" the host's.
type plot struct {
	space string
	group uint32
}

func newReaper(g groups, host *nlmsg.Socket) *reaper {
	r := &reaper{groups: g, host: host, changed: make(chan struct{}), wake: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{})}
	go r.run()
	return r
}

// group is where the next link is to be given up into.
func (r *reaper) group() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.members == groupLimit {
		r.round, r.members = r.round+1, 0
	}
	r.members++
	return r.groups.dead(r.round)
}

// bury has links deleted that were given up.
func (r *reaper) bury(graves ...grave) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range graves {
		g.due = time.Now()
		if g.into != "" {
			g.due = g.due.Add(doubt)
		}
		r.links = append(r.links, g)
		r.asked++
	}
	r.prod()
}

// remove has a namespace of ours end: its mount is removed, with its file.
func (r *reaper) remove(key, mount string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, g := range r.links {
		if g.into == key && key != "" {
			r.links[i].due = time.Now().Add(patience)
		}
	}
	r.mounts = append(r.mounts, mount)
	r.asked++
	r.prod()
}

func (r *reaper) prod() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// wait returns when all that was asked for by now is done, with what went wrong.
func (r *reaper) wait(ctx context.Context) error {
	r.mu.Lock()
	until := r.asked
	for r.done < until {
		r.waited = true
		r.prod()
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		r.mu.Lock()
	}
	defer r.mu.Unlock()
	err := r.failed
	r.failed = nil
	return err
}

// close does what is left and stops.
func (r *reaper) close() {
	close(r.stop)
	<-r.stopped
}

func (r *reaper) run() {
	defer close(r.stopped)
	later := time.NewTimer(0)
	defer later.Stop()
	for stopping := false; !stopping; {
		select {
		case <-r.wake:
		case <-later.C:
		case <-r.stop:
			stopping = true
		}
		for r.work(stopping) {
		}
		if due, any := r.next(); any {
			later.Reset(time.Until(due))
		}
	}
}

// next is when the first of the links that are left is due.
func (r *reaper) next() (due time.Time, any bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, g := range r.links {
		if !any || g.due.Before(due) {
			due, any = g.due, true
		}
	}
	return due, any
}

// work does what is due and says whether there was anything.
func (r *reaper) work(everything bool) bool {
	r.mu.Lock()
	plots := r.dig(everything || r.waited)
	mounts, asked, all := r.mounts, r.asked, len(r.links) == 0
	r.mounts, r.waited = nil, false
	if len(plots) > 0 { // what is given up from now on is for the next message
		r.round, r.members = r.round+1, 0
	}
	r.mu.Unlock()
	if len(plots)+len(mounts) == 0 {
		return false
	}
	var errs []error
	for _, path := range mounts {
		errs = append(errs, unmount(path))
	}
	for _, p := range plots {
		errs = append(errs, r.delete(p))
	}
	r.report(asked, all, errors.Join(errs...))
	return true
}

// dig takes the links that are due, or all, and those that share their groups. r.mu is held.
func (r *reaper) dig(everything bool) []exhumed {
	var all []exhumed
	in := func(g grave) int { return slices.IndexFunc(all, func(e exhumed) bool { return e.plot == g.plot }) }
	for _, g := range r.links {
		if (everything || !g.due.After(time.Now())) && in(g) < 0 {
			all = append(all, exhumed{plot: g.plot})
		}
	}
	found := make([]int, len(all))
	r.links = slices.DeleteFunc(r.links, func(g grave) bool {
		i := in(g)
		if i < 0 {
			return false
		}
		found[i]++
		all[i].alone = 0
		if found[i] == 1 {
			all[i].alone = g.index
		}
		return true
	})
	return all
}

// report says that what was asked for by then is done, if nothing of it was left. It was not done in the order of asking, so that no part
// of it counts alone.
func (r *reaper) report(asked uint64, all bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil { // nobody may ever ask
		r.failed = err
	}
	if all {
		r.done = asked
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

// delete deletes links that were given up. A namespace that is gone took them with it.
func (r *reaper) delete(g exhumed) error {
	s := r.host
	if g.space != "" {
		var err error
		s, err = nlmsg.Open(g.space, unix.NETLINK_ROUTE)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("delete links of %s: %w", g.space, err)
		}
		defer s.Close()
	}
	var b nlmsg.Batch
	beginLink(&b, unix.RTM_DELLINK, unix.NLM_F_ACK, g.alone, 0, 0)
	if g.alone == 0 {
		b.Uint32(unix.IFLA_GROUP, g.group)
	}
	b.End()
	if err := s.Do(&b, nil); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete links of group %d: %w", g.group, err)
	}
	return nil
}

// exhume has links of the host deleted that the last process of this run directory had given up.
func (p *Provider) exhume() error {
	links, err := listLinks(p.sock)
	if err != nil {
		return err
	}
	for _, l := range links {
		if p.groups.isDead(l.group) {
			p.reaper.bury(grave{plot: plot{group: l.group}, index: l.index})
		}
	}
	return nil
}

// unmount removes a mounted namespace's file; the namespace ends when nobody else holds it.
func unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
