// Package dns is the resolver room: one DNS server for all sandboxes.
//
// Each sandbox has a socket for UDP and one for TCP at a port of 127.0.0.11 that the kernel chose; Redirect terms make that port 53 there.
// One thread waits for all UDP sockets. The common question is answered from bytes made when a record changed, the rest by
// github.com/miekg/dns, and what the networks do not know is forwarded.
//
//	zone.go, wire.go       names of a network, and answers from prepared bytes
//	local.go               the other answers about our own names
//	gateway.go, listen.go  where others than sandboxes ask
//	sockets.go             sockets, new or kept by an earlier process
//	engine.go, tcp.go      who waits for them
//	forward.go, group.go, server.go, cache.go, queue.go   other people's names
package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// Options says where it works.
type Options struct {
	Host string // path of the namespace that is the host, from which the host's servers are asked; "": the process's own
	Etc  string // directory of the host's resolv.conf; "": /etc
	// Stub is the file that says which servers systemd-resolved asks, for when the host's names its listener only; "":
	// /run/systemd/resolve/resolv.conf.
	Stub string
	// Keeper keeps sockets beyond the life of the process, so that questions wait for the next one; nil: they end with it.
	Keeper    Keeper
	Listeners []Listener // where the host and other machines ask, see Listen
	// Socket opens an IPv4 socket of a type, non-blocking, in the namespace whose file is path; nil: a thread goes there.
	Socket func(path string, typ int) (fd int, err error)
}

// Keeper keeps descriptors beyond the life of the process. It duplicates what it is given.
type Keeper interface {
	// Kept gives, once, what an earlier process kept and did not drop, by name. The caller closes it.
	Kept() (map[string][]int, error)
	Keep(name string, fds ...int) error
	Drop(name string) error
}

// Resolver implements resolver.Resolver. Safe for concurrent use.
type Resolver struct {
	options Options
	engine  *engine
	queue   *queue
	host    hostFile
	stop    context.CancelFunc // ends what is under way
	ctx     context.Context
	work    sync.WaitGroup

	setting sync.Mutex // one Set, Remove or Sweep at a time
	kept    map[string][]int

	mu    sync.RWMutex // guards what follows; the engine reads while it answers
	zones map[endpoint.NetworkID]*zone
	boxes map[sandbox.ID]*box
}

var _ interface {
	resolver.Resolver
	resolver.Sweeper
	resolver.Gateways
} = (*Resolver)(nil)

// box is who asks at one pair of sockets: a sandbox, the users of a listener, or who is on a network. What Set replaces is guarded by the Resolver's lock.
type box struct {
	cookie   uint64
	port     uint16
	link     string // to which its sockets are bound when they are opened; "": to none
	anywhere bool   // its sockets are at all addresses: answers come from that which was asked
	udp, tcp int    // descriptors
	dropped  uint32 // questions that came and did not fit into the socket, as the engine last saw
	floods   bool   // its socket overflowed then
	turn     *turn  // its share of the queue
	conns    connections

	zones   []endpoint.NetworkID
	private map[string]string // key → key
	noIPv6  bool
	forward bool
	own     []resolver.Upstream // as given, to see whether they changed
	general *group              // its own servers; nil: the host's
	split   []domain            // longest first
	listens bool                // it answers for named networks and asks nobody
	named   []string            // those networks; nil: all
}

// New starts it and opens what is to be listened at. Sockets that the Keeper kept wait for Set of their sandbox.
func New(o Options) (*Resolver, error) {
	ctx, stop := context.WithCancel(context.Background())
	r := &Resolver{
		options: o, queue: newQueue(atOnce, atOnceEach), ctx: ctx, stop: stop,
		zones: map[endpoint.NetworkID]*zone{}, boxes: map[sandbox.ID]*box{},
	}
	r.host.r = r
	var err error
	if o.Keeper != nil {
		if r.kept, err = o.Keeper.Kept(); err != nil {
			stop()
			return nil, fmt.Errorf("take over the resolver's sockets: %w", err)
		}
	}
	if r.engine, err = newEngine(r); err != nil {
		stop()
		return nil, fmt.Errorf("start the resolver: %w", err)
	}
	if err := r.openListeners(o.Listeners); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Close stops answering. What a Keeper keeps goes on waiting, listeners only with sandboxes. Closing again does nothing.
func (r *Resolver) Close() error {
	if r.ctx.Err() != nil {
		return nil
	}
	r.stop()
	err := errors.Join(r.engine.close(), r.dropListeners())
	r.mu.Lock()
	for _, b := range r.boxes {
		err = errors.Join(err, b.close(r.engine))
	}
	clear(r.boxes)
	r.mu.Unlock()
	r.work.Wait()
	r.setting.Lock()
	defer r.setting.Unlock()
	for name := range r.kept {
		err = errors.Join(err, closeAll(r.takeKept(name)))
	}
	return err
}

// Set implements resolver.Resolver. NotFound if the namespace is gone.
func (r *Resolver) Set(ctx context.Context, ns sandbox.Namespace, v resolver.View) ([]firewall.Redirect, error) {
	b, err := r.set(ctx, ns, v)
	if err != nil {
		return nil, fmt.Errorf("resolver of sandbox %.12s: %w", v.Sandbox, err)
	}
	return []firewall.Redirect{{To: netip.AddrPortFrom(resolver.Address(), dnsPort), Port: b.port}}, nil
}

func (r *Resolver) set(ctx context.Context, ns sandbox.Namespace, v resolver.View) (*box, error) {
	if v.Sandbox == "" || ns.Key() == "" {
		return nil, fmt.Errorf("%w: it needs a sandbox with a namespace of its own", errdefs.ErrInvalidArgument)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.setting.Lock()
	defer r.setting.Unlock()
	old := r.box(v.Sandbox)
	b, err := old, error(nil)
	if old == nil || old.cookie != ns.Cookie() {
		if b, err = r.open(ns, v.Sandbox); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.ctx.Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: it is closed", errdefs.ErrFailedPrecondition), closeAll([]int{b.udp, b.tcp}))
	}
	b.see(r, v)
	if b == old {
		return b, nil
	}
	if old != nil {
		err = old.close(r.engine)
	}
	r.boxes[v.Sandbox] = b
	return b, errors.Join(err, r.engine.add(b))
}

// see takes over what a sandbox resolves. The lock is held.
func (b *box) see(r *Resolver, v resolver.View) {
	b.zones, b.noIPv6, b.forward = slices.Clone(v.Zones), v.NoIPv6, v.Forward
	b.private = make(map[string]string, len(v.Private))
	for alias, name := range v.Private {
		if key := keyOf(alias); key != "" {
			b.private[key] = keyOf(name)
		}
	}
	if b.own == nil || !slices.EqualFunc(b.own, v.Upstreams, sameUpstream) {
		b.own = append([]resolver.Upstream{}, v.Upstreams...)
		b.general, b.split = r.groups(b)
	}
}

func sameUpstream(a, b resolver.Upstream) bool {
	return a.Server == b.Server && slices.Equal(a.Domains, b.Domains)
}

func (r *Resolver) box(id sandbox.ID) *box {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.boxes[id]
}

// SetZone implements resolver.Resolver. Names that DNS does not allow, such as labels of more than 63 bytes, are not answered.
func (r *Resolver) SetZone(ctx context.Context, id endpoint.NetworkID, change resolver.Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	z := r.zones[id]
	known := z != nil
	if !known {
		z = newZone()
		r.zones[id] = z
	}
	z.change(change)
	if len(z.endpoints) == 0 {
		delete(r.zones, id)
	}
	if known != (len(z.endpoints) > 0) {
		r.nameListeners()
	}
	return nil
}

// Remove implements resolver.Resolver.
func (r *Resolver) Remove(ctx context.Context, id sandbox.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r.setting.Lock()
	defer r.setting.Unlock()
	return r.remove(id)
}

// remove ends the answers of a box. setting is held.
func (r *Resolver) remove(id sandbox.ID) error {
	r.mu.Lock()
	b := r.boxes[id]
	delete(r.boxes, id)
	var err error
	if b != nil {
		err = b.close(r.engine)
	}
	r.mu.Unlock()
	_, waits := r.kept[string(id)]
	if waits {
		err = errors.Join(err, closeAll(r.takeKept(string(id))))
	}
	if r.options.Keeper != nil && (b != nil || waits) {
		err = errors.Join(err, r.options.Keeper.Drop(string(id)))
	}
	if err != nil {
		return fmt.Errorf("end the resolver of %.80s: %w", id, err)
	}
	return nil
}

// Sweep implements resolver.Sweeper: it drops what the Keeper kept for others.
func (r *Resolver) Sweep(ctx context.Context, keep []sandbox.ID) error {
	r.setting.Lock()
	var gone []sandbox.ID
	for name := range r.kept {
		if !slices.Contains(keep, sandbox.ID(name)) {
			gone = append(gone, sandbox.ID(name))
		}
	}
	r.setting.Unlock()
	var errs []error
	for _, id := range gone {
		errs = append(errs, r.Remove(ctx, id))
	}
	return errors.Join(errs...)
}

// takeKept gives what was kept under a name.
func (r *Resolver) takeKept(name string) []int {
	fds := r.kept[name]
	delete(r.kept, name)
	return fds
}

// How much goes on at once, and how long. A client gives up after five seconds (resolv.conf(5)).
const (
	atOnce     = 1024 // questions that are forwarded
	atOnceEach = 512  // of one sandbox
	waitEach   = 1024 // more that wait, of one sandbox
	giveUp     = 4500 * time.Millisecond
	dnsPort    = 53
)
