package resolvertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// Fake answers from memory what a DNS server would. Like one whose sockets outlive its process it can be given to the next Controller
// after a crash. Safe for concurrent use; Fault is set while nobody uses it.
type Fake struct {
	// Fault, if not nil, is asked before each effect with what is about to be done, as in "set sb/1"; its error is returned.
	Fault func(op string) error

	mu        sync.Mutex
	zones     map[endpoint.NetworkID]zone
	sandboxes map[sandbox.ID]box
	port      uint16
}

type zone struct {
	name  string
	names map[endpoint.ID]endpoint.Published
}

type box struct {
	view   resolver.View
	cookie uint64
	port   uint16
}

var _ interface {
	resolver.Resolver
	resolver.Sweeper
} = (*Fake)(nil)

// NewFake knows nothing yet.
func NewFake() *Fake {
	return &Fake{zones: map[endpoint.NetworkID]zone{}, sandboxes: map[sandbox.ID]box{}, port: 40000}
}

func (f *Fake) begin(ctx context.Context, op string) error { return begin(ctx, &f.mu, f.Fault, op) }

// begin holds the lock when it returns nil: the context goes on, and no fault is due.
func begin(ctx context.Context, mu *sync.Mutex, fault func(op string) error, op string) error {
	err := ctx.Err()
	if err == nil && fault != nil {
		err = fault(op)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	mu.Lock()
	return nil
}

// Set implements resolver.Resolver.
func (f *Fake) Set(ctx context.Context, ns sandbox.Namespace, v resolver.View) ([]firewall.Redirect, error) {
	op := "set sb/" + string(v.Sandbox)
	if v.Sandbox == "" || ns.Key() == "" {
		return nil, fmt.Errorf("%s: %w: it needs a sandbox with a namespace of its own", op, errdefs.ErrInvalidArgument)
	}
	if err := f.begin(ctx, op); err != nil {
		return nil, err
	}
	defer f.mu.Unlock()
	b := f.sandboxes[v.Sandbox]
	if b.cookie != ns.Cookie() || b.port == 0 {
		f.port++
		b.cookie, b.port = ns.Cookie(), f.port
	}
	v.Zones, v.Private, v.Upstreams = slices.Clone(v.Zones), maps.Clone(v.Private), slices.Clone(v.Upstreams)
	b.view = v
	f.sandboxes[v.Sandbox] = b
	return b.redirects(), nil
}

// SetZone implements resolver.Resolver.
func (f *Fake) SetZone(ctx context.Context, id endpoint.NetworkID, change resolver.Change) error {
	if err := f.begin(ctx, "zone net/"+string(id)); err != nil {
		return err
	}
	defer f.mu.Unlock()
	z := zone{name: cmp.Or(change.Name, f.zones[id].name), names: maps.Clone(f.zones[id].names)}
	if z.names == nil {
		z.names = map[endpoint.ID]endpoint.Published{}
	}
	for _, e := range change.Drop {
		delete(z.names, e)
	}
	for _, p := range change.Put {
		z.names[p.ID] = p
	}
	if f.zones[id] = z; len(z.names) == 0 {
		delete(f.zones, id)
	}
	return nil
}

// Remove implements resolver.Resolver.
func (f *Fake) Remove(ctx context.Context, id sandbox.ID) error {
	if err := f.begin(ctx, "remove sb/"+string(id)); err != nil {
		return err
	}
	defer f.mu.Unlock()
	delete(f.sandboxes, id)
	return nil
}

// Sweep implements resolver.Sweeper.
func (f *Fake) Sweep(ctx context.Context, keep []sandbox.ID) error {
	if err := f.begin(ctx, "sweep"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	maps.DeleteFunc(f.sandboxes, func(id sandbox.ID, _ box) bool { return !slices.Contains(keep, id) })
	return nil
}

// Crash plays the end of the process: what it was told is forgotten, and sandboxes keep their sockets, at which questions wait for Set.
func (f *Fake) Crash() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.zones)
	for id, b := range f.sandboxes {
		b.view = resolver.View{}
		f.sandboxes[id] = b
	}
}

// View is what a sandbox resolves; false when it has no resolver.
func (f *Fake) View(id sandbox.ID) (resolver.View, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.sandboxes[id]
	return b.view, ok
}

// Redirects are what the resolver needs in a sandbox; nil when it does not answer there.
func (f *Fake) Redirects(id sandbox.ID) []firewall.Redirect {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.sandboxes[id]
	if !ok {
		return nil
	}
	return b.redirects()
}

func (b box) redirects() []firewall.Redirect {
	return []firewall.Redirect{{To: netip.AddrPortFrom(resolver.Address(), 53), Port: b.port}}
}

// Names are all names and aliases of a network, sorted.
func (f *Fake) Names(id endpoint.NetworkID) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, p := range f.zones[id].names {
		names = append(append(names, p.Name), p.Aliases...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ErrNoResolver says that nobody answers in the sandbox.
var ErrNoResolver = errors.New("nobody answers")

// Lookup asks from inside a sandbox for a type, A, AAAA or PTR; the answers are sorted. known says that the name is one of its networks,
// with or without such an answer. ErrNoResolver when nobody answers there.
func (f *Fake) Lookup(id sandbox.ID, name, typ string) (answers []string, known bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.sandboxes[id]
	if !ok {
		return nil, false, ErrNoResolver
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if typ == "PTR" {
		answers = f.reverse(b.view, name)
		return answers, len(answers) > 0, nil
	}
	for alias, target := range b.view.Private {
		if strings.EqualFold(alias, name) {
			name = strings.ToLower(target)
		}
	}
	for depth := 0; depth < 8; depth++ {
		target := ""
		for _, z := range b.view.Zones {
			addrs, cname, here := f.zones[z].find(name)
			known = known || here
			target = cmp.Or(target, cname)
			for _, a := range addrs {
				if a.Is4() == (typ == "A") && (a.Is4() || !b.view.NoIPv6) {
					answers = append(answers, a.String())
				}
			}
			if len(answers) > 0 {
				slices.Sort(answers)
				return answers, true, nil
			}
		}
		if target == "" {
			break
		}
		name = target
	}
	return nil, known, nil
}

func (f *Fake) reverse(v resolver.View, name string) (answers []string) {
	for _, id := range v.Zones {
		z := f.zones[id]
		for _, p := range z.names {
			for _, a := range p.Addresses {
				if a.Addr().String() == name && len(answers) == 0 {
					answers = []string{p.Called() + "." + z.name + "."}
				}
			}
		}
	}
	return answers
}

// find gives what a network says of a name, most exact first.
func (z zone) find(name string) (addrs []netip.Addr, cname string, known bool) {
	for _, n := range []string{name, strings.TrimSuffix(name, "."+strings.ToLower(z.name))} {
		if addrs, cname, known = z.exact(n); known {
			return addrs, cname, true
		}
		for rest := n; ; {
			_, below, more := strings.Cut(rest, ".")
			if !more {
				break
			}
			if addrs, cname, known = z.exact("*." + below); known {
				return addrs, cname, true
			}
			rest = below
		}
	}
	return nil, "", false
}

func (z zone) exact(name string) (addrs []netip.Addr, cname string, known bool) {
	for _, p := range z.names {
		for _, n := range append([]string{p.Name}, p.Aliases...) {
			n, target, _ := strings.Cut(strings.ToLower(n), "=")
			switch {
			case n != name:
			case target != "":
				cname, known = target, true
			default:
				known = true
				for _, a := range p.Addresses {
					addrs = append(addrs, a.Addr())
				}
			}
		}
	}
	return addrs, cname, known
}
