package netns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/sandbox"
	"golang.org/x/sys/unix"
)

// batchLimit is how many messages go in one sendmsg: their answers must fit into the socket's receive buffer.
const batchLimit = 128

// apply is one Apply under way.
type apply struct {
	ns     *Namespace
	inside *sockets
	have   sandbox.Config
	want   sandbox.Config
	steps  []sandbox.Step
	left   []bool // what was not done, by step
	now    int    // the step being written
	sooner []int  // those that were written before their turn

	batch    nlmsg.Batch
	of       []int                   // the step of each message in batch
	files    []int                   // descriptors that batch names, open until it is sent
	fresh    []string                // links that batch makes: their index is known when it was sent
	graves   []grave                 // groups that batch gives links up into
	frames   []outgoing              // to be sent after it
	local    map[string]bool         // silent links whose link-local address was dealt with
	keeps    map[string]bool         // links that keep the other addresses of a subnet
	raised   []string                // far ends of veths that came up or were given addresses
	came     map[string][]netip.Addr // addresses that far ends were given
	expected []address               // those of IPv6
	loopback bool                    // lo was raised
	last     []sandbox.Sysctl        // to be set at the end
	retried  map[int]bool            // steps that were done again
	entries  struct {                // the link of the last entry
		name  string
		index uint32
	}
}

// run does all steps. Adds are sent before the first delete is, so that a refused add leaves what it was to replace.
func (a *apply) run(ctx context.Context) (err error) {
	for i := range a.left {
		a.left[i] = true
	}
	defer a.finish(&err)
	replaces := slices.ContainsFunc(a.steps, func(s sandbox.Step) bool { return isDelete(s.Op) })
	deleting := false
	for i, s := range a.steps {
		if slices.Contains(a.sooner, i) {
			continue
		}
		if d := isDelete(s.Op); d != deleting || a.batch.Len() >= batchLimit {
			if err := a.flush(ctx); err != nil {
				return err
			}
			deleting = d
		}
		if replaces && s.Op == sandbox.AddRoute { // what flows turns to a new link only when that passes it on
			if err := a.ready(ctx); err != nil {
				return err
			}
		}
		if s.Op == sandbox.DelLink && isFar(s.Link) {
			if err := a.turnAway(ctx, i, s.Link); err != nil {
				return err
			}
		}
		if err := a.step(ctx, i, s); err != nil {
			return err
		}
	}
	if err := a.flush(ctx); err != nil {
		return err
	}
	return a.ready(ctx)
}

// finish leaves nothing behind, whatever became of the steps.
func (a *apply) finish(err *error) {
	a.closeFiles()
	for _, s := range a.last {
		_, failed := a.ns.sysctl(s)
		*err = errors.Join(*err, failed)
	}
}

// done is the steps that have had their effect.
func (a *apply) done() []sandbox.Step {
	var done []sandbox.Step
	for i, s := range a.steps {
		if !a.left[i] {
			done = append(done, s)
		}
	}
	return done
}

func isDelete(op sandbox.Op) bool {
	switch op {
	case sandbox.DelLink, sandbox.DelAddr, sandbox.DelRoute, sandbox.DelRule, sandbox.DelEntry:
		return true
	}
	return false
}

// step writes the messages of one step.
func (a *apply) step(ctx context.Context, i int, s sandbox.Step) error {
	a.now, a.left[i] = i, false
	var err error
	switch s.Op {
	case sandbox.AddLink:
		err = a.addLink(ctx, s.Link)
	case sandbox.SetLink:
		err = a.setLink(ctx, s.Link, s.Have)
	case sandbox.DelLink:
		err = a.delLink(ctx, s.Link)
	case sandbox.AddAddr, sandbox.DelAddr:
		err = a.addr(ctx, s.Op, s.Link, s.Addr)
	case sandbox.AddRoute, sandbox.DelRoute:
		err = a.route(ctx, s.Op, s.Route)
	case sandbox.AddRule, sandbox.DelRule:
		a.rule(s.Op, s.Rule)
	case sandbox.SetEntry, sandbox.DelEntry:
		err = a.entry(ctx, s.Op, s.Link, s.Entry)
	case sandbox.SetSysctl:
		if err = a.flush(ctx); err == nil {
			_, err = a.ns.sysctl(s.Sysctl)
		}
	}
	if err != nil && !(isDelete(s.Op) && isAbsent(err)) {
		a.left[i] = true
		return refusal(s, err)
	}
	a.claim()
	return nil
}

// claim writes down that the messages added since belong to the present step. It is done when they are.
func (a *apply) claim() {
	for len(a.of) < a.batch.Len() {
		a.of = append(a.of, a.now)
		a.left[a.now] = true
	}
}

// index is the number of a link in this namespace.
func (a *apply) index(ctx context.Context, name string) (uint32, error) {
	for _, f := range a.fresh {
		if f == name {
			if err := a.flush(ctx); err != nil {
				return 0, err
			}
			break
		}
	}
	return linkIndex(a.inside.route.FD(), name)
}

// linkIndex asks any socket of a namespace: a look-up in a hash table, without a lock that others wait for.
func linkIndex(socket int, name string) (uint32, error) {
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(socket, unix.SIOCGIFINDEX, r)
	}
	if err != nil {
		return 0, fmt.Errorf("find link %s: %w", name, err)
	}
	return r.Uint32(), nil
}

// flush sends what was written. The last message asks for an acknowledgement; the kernel tells refusals of the others unasked.
func (a *apply) flush(ctx context.Context) error {
	if a.batch.Len() == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	a.claim()
	a.batch.Acknowledge()
	refused, err := nlmsg.Refusals(a.inside.route.Do(&a.batch, nil))
	if err != nil {
		return err
	}
	sent := a.of
	a.batch.Reset()
	a.of, a.fresh = nil, nil
	a.closeFiles()
	if len(a.graves) > 0 {
		a.ns.p.reaper.bury(a.graves...)
		a.graves = nil
	}
	if err := a.settle(ctx, sent, refused); err != nil {
		return err
	}
	return a.sendFrames()
}

// sendFrames makes announcements.
func (a *apply) sendFrames() error {
	frames := a.frames
	a.frames = nil
	if err := a.ns.p.announcer.send(a.ns, frames); err != nil {
		return fmt.Errorf("announce an address: %w", err)
	}
	return nil
}

// settle marks the steps that were sent as done, but for those that were refused and could not be mended.
func (a *apply) settle(ctx context.Context, sent []int, refused []*nlmsg.Error) error {
	for _, i := range sent {
		a.left[i] = false
	}
	var first error
	last := -1
	for _, e := range refused {
		i := sent[e.Index]
		if i == last {
			continue // what follows the first refusal of a step follows from it
		}
		last = i
		if err := a.mend(ctx, i, e); err != nil {
			a.left[i] = true
			if first == nil {
				first = refusal(a.steps[i], err)
			}
		}
	}
	return first
}

// mend makes good a refusal that says that the step's effect is there already, or that something of ours is in its way.
func (a *apply) mend(ctx context.Context, i int, e *nlmsg.Error) error {
	switch op := a.steps[i].Op; {
	case op == sandbox.AddLink && e.Errno == unix.EEXIST && !a.retried[i]:
		a.retry(i)
		again, err := a.clear(ctx, a.steps[i].Link)
		if err != nil || !again {
			return err
		}
		return a.redo(ctx, i)
	case op == sandbox.AddLink && e.Errno == unix.EXFULL && !a.retried[i]: // links given up count until they are gone
		a.retry(i)
		if err := a.ns.p.reaper.wait(ctx); err != nil {
			return err
		}
		return a.redo(ctx, i)
	case op == sandbox.AddRoute || op == sandbox.AddRule || op == sandbox.AddAddr:
		if e.Errno == unix.EEXIST {
			return nil
		}
	case isDelete(op) && isAbsent(e):
		return nil
	case op == sandbox.DelLink && !a.retried[i]:
		a.retry(i)
		return a.redo(ctx, i)
	}
	return e
}

func (a *apply) retry(i int) {
	if a.retried == nil {
		a.retried = make(map[int]bool)
	}
	a.retried[i] = true
}

// redo does a step again.
func (a *apply) redo(ctx context.Context, i int) error {
	defer func(now int) { a.now = now }(a.now)
	if err := a.step(ctx, i, a.steps[i]); err != nil {
		return err
	}
	return a.flush(ctx)
}

// isAbsent says whether what was to be deleted is not there.
func isAbsent(err error) bool {
	var e unix.Errno
	if !errors.As(err, &e) {
		return false
	}
	switch e {
	case unix.ENODEV, unix.ENOENT, unix.ESRCH, unix.EADDRNOTAVAIL, unix.ENXIO:
		return true
	}
	return false
}

func (a *apply) closeFiles() {
	for _, fd := range a.files {
		unix.Close(fd)
	}
	a.files = nil
}

// openSpace opens what a Veth names.
func (p *Provider) openSpace(space string) (int, error) {
	if space == sandbox.InHost {
		space = cmp.Or(p.host, "/proc/self/ns/net")
	}
	return openFile(space)
}

// openFile opens a namespace to name it in a message.
func openFile(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("open namespace %s: %w", path, err)
	}
	return fd, nil
}
