package sealane

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// mender remembers which owners are not as their records want them, and has one goroutine converge them again: soon after somebody else
// changed the kernel, and with pauses of its own for each that fails, which grow.
type mender struct {
	mu       sync.Mutex               // guards what is below
	problems map[string]string        // by owner, why the last try failed
	doubtful map[string]bool          // owners whose Held may not be what the kernel has
	due      map[string]time.Time     // owners to converge, and from when on; "" everything
	pauses   map[string]time.Duration // between the last try of owners, which failed, and the next
	working  bool                     // some are being converged
	apart    map[string]bool          // owners that have a goroutine of their own, for waiting; true: due once more when it is through
	wake     chan struct{}            // a token when due has grown
}

func newMender() *mender {
	return &mender{problems: map[string]string{}, doubtful: map[string]bool{}, due: map[string]time.Time{}, pauses: map[string]time.Duration{},
		apart: map[string]bool{}, wake: make(chan struct{}, 1)}
}

// doubt makes the next converge of an owner look at the kernel.
func (m *mender) doubt(owner string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doubtful[owner] = true
}

func (m *mender) doubts(owner string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.doubtful[owner]
}

// later has an owner converged in the background, and shows why. One whose next try is awaited is not tried sooner: its failing may be what
// somebody noticed.
func (m *mender) later(owner string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.problems[owner] = err.Error()
	}
	m.doubtful[owner] = true
	if _, awaited := m.due[owner]; !awaited {
		m.due[owner] = time.Now()
	}
	select {
	case m.wake <- struct{}{}:
	default: // it is awake
	}
}

func (m *mender) problem(owner string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.problems[owner]
}

// forget says that owners are as wanted. What is due stays so: somebody may have asked for it since.
func (m *mender) forget(owners ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range owners {
		delete(m.problems, o)
		delete(m.doubtful, o)
	}
}

// settled forgets the troubles of a sandbox and its members.
func (m *mender) settled(v *content) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.problems)+len(m.doubtful) == 0 {
		return
	}
	for _, o := range append(ownersOf(v), sandboxOwner(v.id)) {
		delete(m.problems, o)
		delete(m.doubtful, o)
	}
}

func ownersOf(v *content) []string {
	var owners []string
	for _, e := range v.members {
		owners = append(owners, endpointOwner(e.id))
	}
	return owners
}

// take strikes out what is due now.
func (m *mender) take() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var owners []string
	for o, at := range m.due {
		if !at.After(time.Now()) {
			owners = append(owners, o)
			delete(m.due, o)
		}
	}
	m.working = len(owners) > 0
	return owners
}

// rest says how long it is until something is due.
func (m *mender) rest() (wait time.Duration, any bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.working = false
	for _, at := range m.due {
		if until := time.Until(at); !any || until < wait {
			wait, any = until, true
		}
	}
	return wait, any
}

// tried notes what came of a try, and when the next one of an owner is that failed.
func (m *mender) tried(owner string, err error) {
	const soon, late = 100 * time.Millisecond, 30 * time.Second
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		delete(m.pauses, owner)
		return
	}
	m.pauses[owner] = min(max(soon, 2*m.pauses[owner]), late)
	m.problems[owner], m.doubtful[owner], m.due[owner] = err.Error(), true, time.Now().Add(m.pauses[owner])
}

// mend runs until ctx ends.
func (c *Controller) mend(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.mender.wake:
		case <-next.C:
		}
		for _, owner := range c.mender.take() {
			if c.actsElsewhere(ctx, owner) {
				c.mendApart(ctx, owner)
				continue
			}
			err := c.mendOwner(ctx, owner)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				c.log.Warn("not as wanted; trying again", "owner", owner, "error", err)
			}
			c.mender.tried(owner, err)
		}
		if wait, any := c.mender.rest(); any {
			next.Reset(wait)
		}
	}
}

// actsElsewhere says that converging an owner may have to wait for a driver that acts: nobody else shall.
func (c *Controller) actsElsewhere(ctx context.Context, owner string) bool {
	switch kind, id, _ := strings.Cut(owner, "/"); kind {
	case "lease":
		return true
	case "net":
		n, err := c.networkRecord(ctx, endpoint.NetworkID(id))
		return err == nil && (c.ipamActs(n.IPAM) || !c.computes(ctx, n.Driver))
	case "ep":
		_, found, err := c.drivenRecord(ctx, owner)
		return err == nil && found
	}
	return false
}

// mendApart converges an owner in a goroutine of its own, until it is as wanted.
func (c *Controller) mendApart(ctx context.Context, owner string) {
	const soon, late = 25 * time.Millisecond, 10 * time.Second
	if !c.mender.begin(owner) {
		return
	}
	c.work.Go(func() {
		for pause := soon; ; pause = min(2*pause, late) {
			err := c.mendOwner(ctx, owner)
			if ctx.Err() != nil || !c.mender.end(owner, err) {
				return
			}
			if err == nil {
				pause = soon
				continue
			}
			c.log.Warn("not as wanted; trying again", "owner", owner, "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	})
}

// begin is false when somebody is at it already, who will go round once more.
func (m *mender) begin(owner string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, running := m.apart[owner]
	m.apart[owner] = running
	return !running
}

// end says whether to go on.
func (m *mender) end(owner string, err error) (again bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.problems[owner], m.doubtful[owner] = err.Error(), true
		return true
	}
	if again = m.apart[owner]; again {
		m.apart[owner] = false
	} else {
		delete(m.apart, owner)
	}
	return again
}

// mendOwner converges one owner.
func (c *Controller) mendOwner(ctx context.Context, owner string) error {
	kind, id, _ := strings.Cut(owner, "/")
	switch kind {
	case "net":
		return c.mendNetwork(ctx, endpoint.NetworkID(id))
	case "sb":
		return c.mendSandbox(ctx, sandbox.ID(id))
	case "ep":
		return c.mendEndpoint(ctx, endpoint.ID(id))
	case "lease":
		return c.mendLeases(ctx, endpoint.NetworkID(id))
	}
	return c.mendAll(ctx)
}

func (c *Controller) mendNetwork(ctx context.Context, id endpoint.NetworkID) error {
	if err := c.mendLeft(ctx, id); err != nil {
		return err
	}
	n, found, err := maybe(c.networkRecord(ctx, id))
	if err != nil {
		return err
	}
	if !found {
		c.mender.forget(networkOwner(id))
		return nil
	}
	if err := c.answers(ctx, n); err != nil {
		return err
	}
	if err := c.mendHeldNetwork(ctx, id, nil); err != nil {
		return err
	}
	if err := c.mendEndpoints(ctx, n); err != nil {
		return err
	}
	c.events.tell("network", "repair", string(id), "name", n.Name)
	seen, err := c.observe(ctx) // a bridge that was deleted let go of its ports
	if err != nil {
		return err
	}
	return c.convergeMembers(ctx, id, seen)
}

// answers finds out whether a driver that acts does: what it was told before may be all there is to tell, and say nothing of it. A network
// that is being removed need not ask.
func (c *Controller) answers(ctx context.Context, n netdriver.Network) error {
	if n.Deleting || c.computes(ctx, n.Driver) {
		return nil
	}
	d, err := c.driver(ctx, n.Driver)
	if err == nil {
		_, err = d.Capability(ctx)
	}
	return err
}

func (c *Controller) mendHeldNetwork(ctx context.Context, id endpoint.NetworkID, seen *observation) error {
	unlock, err := c.locks.exclusive(ctx, networkOwner(id))
	if err != nil {
		return err
	}
	defer unlock()
	n, found, err := maybe(c.networkRecord(ctx, id))
	if err != nil || !found {
		return err
	}
	c.facts.outdate()
	return c.convergeNetwork(ctx, n, seen)
}

// mendEndpoints has a driver that acts hold what the network's endpoints want of it.
func (c *Controller) mendEndpoints(ctx context.Context, n netdriver.Network) error {
	if c.computes(ctx, n.Driver) {
		return nil
	}
	var errs []error
	for e, err := range records(ctx, c.o.Run, endpointTable(n.ID)) {
		if err == nil {
			_, err = c.mendDriven(ctx, netdriver.Held{Owner: endpointOwner(e.ID), Driver: n.Driver, Network: n, Endpoint: e})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// mendSandbox converges a sandbox, away if its namespace is gone.
func (c *Controller) mendSandbox(ctx context.Context, id sandbox.ID) error {
	info, found, err := maybe(c.sandboxRecord(ctx, id))
	if err != nil {
		return err
	}
	if !found {
		c.mender.forget(sandboxOwner(id))
		return nil
	}
	gone, err := c.hasEnded(ctx, info, nil)
	if err != nil {
		return err
	}
	if gone || info.Deleting {
		err := c.endSandbox(ctx, id, gone && !info.Deleting)
		if err == nil {
			c.events.tell("sandbox", "destroy", string(id), "name", info.Spec.Name)
		}
		return err
	}
	if err := c.converge(ctx, id, nil, nil); err != nil {
		return err
	}
	c.events.tell("sandbox", "repair", string(id), "name", info.Spec.Name)
	return nil
}

// mendEndpoint converges what a driver that acts holds, and the sandbox that the endpoint is in.
func (c *Controller) mendEndpoint(ctx context.Context, id endpoint.ID) error {
	h, found, err := c.drivenRecord(ctx, endpointOwner(id))
	if err != nil {
		return err
	}
	in := sandbox.ID("")
	if found {
		if in, err = c.mendDriven(ctx, h); err != nil {
			return err
		}
	}
	if in == "" {
		if in, err = c.sandboxHolding(ctx, id); err != nil || in == "" {
			c.mender.forget(endpointOwner(id))
			return err
		}
	}
	c.mender.doubt(sandboxOwner(in))
	if err := c.mendSandbox(ctx, in); err != nil {
		return err
	}
	c.mender.forget(endpointOwner(id))
	return nil
}

// isGone says that a sandbox's namespace is not there any more.
func (c *Controller) isGone(ctx context.Context, info sandbox.Info) (bool, error) {
	if info.Key == "" {
		return false, nil
	}
	ns, err := c.namespace(ctx, info)
	if errors.Is(err, errGone) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	c.done(info, ns)
	return false, nil
}

// hasEnded says that what a sandbox is for is gone: its namespace, or of one that was found by its links alone these. seen is as converge has it.
func (c *Controller) hasEnded(ctx context.Context, info sandbox.Info, seen *observation) (bool, error) {
	if !info.Unknown || info.Key != "" {
		return c.isGone(ctx, info)
	}
	v, err := c.read(ctx, info.ID)
	if err == nil && seen == nil {
		seen, err = c.observe(ctx)
	}
	if err != nil {
		return false, err
	}
	for _, m := range v.members {
		has, err := c.has(ctx, seen, endpointOwner(m.id), m.held.Plan)
		if err != nil || slices.ContainsFunc(has.Shares, func(s netdriver.Share) bool { return len(s.Config.Links) > 0 }) {
			return false, err
		}
	}
	return true, nil
}

// watch feeds the mender with what others do to the kernel. Each of the goroutines ends with ctx.
func (c *Controller) watch(ctx context.Context) {
	c.work.Go(func() { c.mend(ctx) })
	c.work.Go(func() {
		c.keepWatching(ctx, "links", c.host.Watch, func(owner string) {
			c.log.Warn("somebody changed a link of ours", "owner", owner)
			c.mender.later(owner, nil)
		})
	})
	if c.wall != nil {
		c.work.Go(func() {
			c.keepWatching(ctx, "firewall", c.wall.Watch, func(who string) {
				c.log.Warn("somebody changed our firewall rules", "who", who)
				c.mender.later("", nil)
			})
		})
	}
	c.watchUnderlay(ctx)
	c.places.watched(func(space string, p *place) { c.watchPlace(ctx, space, p) })
	c.watchEnds(ctx)
}

// watchUnderlay has networks follow the MTU of the link that carries their tunnels.
func (c *Controller) watchUnderlay(ctx context.Context) {
	changes := c.underlay(ctx, c.o.Advertise)
	if changes == nil {
		return
	}
	c.work.Go(func() {
		const pause = time.Second
		last := -1
		for ctx.Err() == nil {
			for mtu, err := range changes {
				if err != nil {
					c.log.Warn("watching broke off; beginning again", "what", "underlay", "error", err)
					break
				}
				if last >= 0 && mtu != last {
					c.log.Info("the underlay's MTU changed", "from", last, "to", mtu)
					c.places.mend(c.mender)
				}
				last = mtu
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	})
}

// watchPlace watches a network's namespace until it is closed or ctx ends.
func (c *Controller) watchPlace(ctx context.Context, space string, p *place) {
	if ctx.Err() != nil {
		return
	}
	ctx, p.unwatch = context.WithCancel(ctx)
	c.work.Go(func() {
		c.keepWatching(ctx, "namespace of "+space, p.ns.Watch, func(owner string) {
			c.log.Warn("somebody changed what is ours", "owner", owner, "namespace", space)
			c.mender.later(cmp.Or(owner, space), nil)
		})
	})
}

// keepWatching starts a watch again when it ends, as it does when more happened than its socket could hold; what was missed is then
// looked for.
func (c *Controller) keepWatching(ctx context.Context, what string, watch func(context.Context) iter.Seq2[string, error], told func(string)) {
	const pause = time.Second
	for {
		for name, err := range watch(ctx) {
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				c.log.Warn("watching broke off; beginning again", "what", what, "error", err)
				c.mender.later("", nil)
				break
			}
			told(name)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// watchEnds notices namespaces of others that end, where the provider can tell: their sandboxes end with them.
func (c *Controller) watchEnds(ctx context.Context) {
	gone := c.goneNamespaces(ctx)
	if gone == nil {
		return
	}
	c.work.Go(func() {
		for key := range gone {
			for s, err := range c.Sandboxes(ctx) {
				if err == nil && s.Key == key {
					c.mender.later(sandboxOwner(s.ID), nil)
				}
			}
		}
	})
}
