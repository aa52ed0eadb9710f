// Package firewalltest is for whoever implements or uses a firewall: facts that every room must show, a fake that refuses what the kernel
// refuses, and the table of who reaches a published port.
package firewalltest

import (
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/firewall"
)

// Fake is firewalls in memory: an Opener, Reserver and Forgetter. The zero value is ready. It renders every term, lets no traffic pass and
// stops none. Safe for concurrent use.
type Fake struct {
	// Fault, where set, is asked before each deed ("open", "apply", "observe", "flush", "reserve", "forget"); its error is the outcome
	// and nothing is done. Set it before use.
	Fault func(deed string) error

	mu        sync.Mutex // guards what follows
	tables    map[string]*fakeTable
	held      map[heldPort]bool
	forgotten []netip.Addr
}

var _ interface {
	firewall.Opener
	firewall.Reserver
	firewall.Forgetter
} = (*Fake)(nil)

func (f *Fake) fault(deed string) error {
	if f.Fault == nil {
		return nil
	}
	return f.Fault(deed)
}

// Open implements firewall.Opener: all handles of one key see one firewall.
func (f *Fake) Open(ctx context.Context, key string) (firewall.Firewall, error) {
	if err := cmpErr(ctx.Err(), f.fault("open")); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tables[key] == nil {
		if f.tables == nil {
			f.tables = map[string]*fakeTable{}
		}
		f.tables[key] = &fakeTable{fake: f, terms: map[string]firewall.Terms{}, watchers: map[chan string]bool{}}
	}
	return f.tables[key], nil
}

func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Disturb does to the firewall of a key what somebody else with the right to could: change alters the terms, by owner. Watchers are told
// that it was name.
func (f *Fake) Disturb(key, name string, change func(terms map[string]firewall.Terms)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tables[key]
	if t == nil {
		return
	}
	change(t.terms)
	for w := range t.watchers {
		select {
		case w <- name:
		default: // it has one to read already
		}
	}
}

// Forgotten is all addresses given to Forget, in order.
func (f *Fake) Forgotten() []netip.Addr {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.forgotten)
}

// Forget implements firewall.Forgetter.
func (f *Fake) Forget(ctx context.Context, withdrawn []netip.Addr) error {
	if err := cmpErr(ctx.Err(), f.fault("forget")); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forgotten = append(f.forgotten, withdrawn...)
	return nil
}

// fakeTable is the firewall of one key; its Fake's lock guards it.
type fakeTable struct {
	fake     *Fake
	terms    map[string]firewall.Terms // normal, none zero
	watchers map[chan string]bool
}

func (t *fakeTable) Apply(ctx context.Context, changes []firewall.Change) error {
	for _, c := range changes {
		if err := c.Want.Validate(); err != nil {
			return fmt.Errorf("firewall of %s: %w", c.Owner, err)
		}
		if c.Owner == "" && !c.Want.IsZero() {
			return fmt.Errorf("firewall: terms without an owner: %w", errdefs.ErrInvalidArgument)
		}
	}
	if err := cmpErr(ctx.Err(), t.fake.fault("apply")); err != nil {
		return err
	}
	t.fake.mu.Lock()
	defer t.fake.mu.Unlock()
	after := maps.Clone(t.terms)
	for _, c := range changes {
		delete(after, c.Owner)
	}
	for _, c := range changes {
		joined := join(after[c.Owner], c.Want)
		if joined.IsZero() {
			continue
		}
		after[c.Owner] = joined.Normal()
	}
	if err := conflict(after); err != nil {
		return err
	}
	t.terms = after
	return nil
}

func join(a, b firewall.Terms) firewall.Terms {
	a.Networks, a.Ports = slices.Concat(a.Networks, b.Networks), slices.Concat(a.Ports, b.Ports)
	a.Pinholes, a.Policies = slices.Concat(a.Pinholes, b.Pinholes), slices.Concat(a.Policies, b.Policies)
	a.Redirects, a.Tunnels = slices.Concat(a.Redirects, b.Redirects), slices.Concat(a.Tunnels, b.Tunnels)
	return a
}

// place is what only one can have: an interface, or a port of an address.
type place struct {
	device string
	to     netip.AddrPort // of a redirect
	proto  firewall.Proto
	addr   netip.Addr
	port   uint16
}

// conflict says who has what another wants, as the kernel does of two elements with one key.
func conflict(terms map[string]firewall.Terms) error {
	taken := map[place]string{}
	take := func(p place, owner, what string) error {
		if by, is := taken[p]; is {
			return fmt.Errorf("%s for %s: it belongs to %s: %w", what, owner, by, errdefs.ErrAlreadyExists)
		}
		taken[p] = owner
		return nil
	}
	routed := routedPorts(terms)
	for _, owner := range slices.Sorted(maps.Keys(terms)) {
		for _, n := range terms[owner].Networks {
			if err := take(place{device: n.Interface}, owner, "network on "+n.Interface); err != nil {
				return err
			}
		}
		for _, r := range terms[owner].Redirects {
			if err := take(place{to: r.To}, owner, "redirect of "+r.To.String()); err != nil {
				return err
			}
		}
		for _, p := range terms[owner].Ports {
			if routed(p) {
				continue // several may open one container port; two endpoints do not have one address
			}
			for i := range p.HostPorts.Len() {
				port := p.HostPorts.First + uint16(i)
				if err := take(place{proto: p.Proto, addr: p.Host, port: port}, owner, fmt.Sprintf("port %d/%s of %s", port, p.Proto, p.Host)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// routedPorts says of a port whether its network translates nothing.
func routedPorts(terms map[string]firewall.Terms) func(firewall.Port) bool {
	type family struct {
		device string
		four   bool
	}
	routed := map[family]bool{}
	for _, t := range terms {
		for _, n := range t.Networks {
			routed[family{n.Interface, true}] = n.Mode4 == firewall.Routed
			routed[family{n.Interface, false}] = n.Mode6 == firewall.Routed
		}
	}
	return func(p firewall.Port) bool { return routed[family{p.Interface, p.Host.Is4()}] }
}

func (t *fakeTable) Observe(ctx context.Context) (map[string]firewall.Terms, error) {
	if err := cmpErr(ctx.Err(), t.fake.fault("observe")); err != nil {
		return nil, err
	}
	t.fake.mu.Lock()
	defer t.fake.mu.Unlock()
	routed := routedPorts(t.terms)
	observed := map[string]firewall.Terms{}
	for owner, terms := range t.terms {
		terms = terms.Normal()
		for i, p := range terms.Ports {
			if routed(p) {
				terms.Ports[i].HostPorts, terms.Ports[i].Host = p.Ports, unspecified(p.Host)
			}
		}
		observed[owner] = terms.Normal()
	}
	return observed, nil
}

func unspecified(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func (t *fakeTable) Watch(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		news := make(chan string, 1)
		t.fake.mu.Lock()
		t.watchers[news] = true
		t.fake.mu.Unlock()
		defer func() {
			t.fake.mu.Lock()
			defer t.fake.mu.Unlock()
			delete(t.watchers, news)
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case name := <-news:
				if !yield(name, nil) {
					return
				}
			}
		}
	}
}

func (t *fakeTable) Flush(ctx context.Context) error {
	if err := cmpErr(ctx.Err(), t.fake.fault("flush")); err != nil {
		return err
	}
	t.fake.mu.Lock()
	defer t.fake.mu.Unlock()
	t.terms = map[string]firewall.Terms{}
	return nil
}

func (t *fakeTable) Close() error { return nil }

// heldPort is a port that somebody holds; the zero address is all of both families.
type heldPort struct {
	proto firewall.Proto
	host  netip.Addr
	port  uint16
}

// overlaps says whether binding both is "address in use".
func (h heldPort) overlaps(g heldPort) bool {
	if h.proto != g.proto || h.port != g.port {
		return false
	}
	if !h.host.IsValid() || !g.host.IsValid() {
		return true
	}
	return h.host.Is4() == g.host.Is4() && (h.host == g.host || h.host.IsUnspecified() || g.host.IsUnspecified())
}

// Reserve implements firewall.Reserver. Free ports are those from 32768 up.
func (f *Fake) Reserve(ctx context.Context, proto firewall.Proto, host netip.Addr, ports firewall.Range) (firewall.Range, io.Closer, error) {
	if err := cmpErr(ctx.Err(), f.fault("reserve")); err != nil {
		return firewall.Range{}, nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if ports == (firewall.Range{}) {
		const first, last = 32768, 60999
		for port := first; port <= last; port++ {
			if one := (heldPort{proto, host, uint16(port)}); !f.inUse(one) {
				return firewall.Range{First: one.port, Last: one.port}, f.hold([]heldPort{one}), nil
			}
		}
		return firewall.Range{}, nil, fmt.Errorf("reserve any %s port: none is free: %w", proto, errdefs.ErrResourceExhausted)
	}
	if ports.First == 0 || ports.Last < ports.First {
		return firewall.Range{}, nil, fmt.Errorf("reserve ports %s: no range: %w", ports, errdefs.ErrInvalidArgument)
	}
	var all []heldPort
	for i := range ports.Len() {
		one := heldPort{proto, host, ports.First + uint16(i)}
		if f.inUse(one) {
			return firewall.Range{}, nil, fmt.Errorf("reserve port %d/%s: port is already allocated: %w", one.port, proto, errdefs.ErrAlreadyExists)
		}
		all = append(all, one)
	}
	return ports, f.hold(all), nil
}

func (f *Fake) inUse(p heldPort) bool {
	for h := range f.held {
		if h.overlaps(p) {
			return true
		}
	}
	return false
}

func (f *Fake) hold(ports []heldPort) io.Closer {
	if f.held == nil {
		f.held = map[heldPort]bool{}
	}
	for _, p := range ports {
		f.held[p] = true
	}
	return &fakeReservation{fake: f, ports: ports}
}

type fakeReservation struct {
	fake  *Fake
	ports []heldPort
}

// Close gives the ports back. Twice is once.
func (r *fakeReservation) Close() error {
	r.fake.mu.Lock()
	defer r.fake.mu.Unlock()
	for _, p := range r.ports {
		delete(r.fake.held, p)
	}
	r.ports = nil
	return nil
}
