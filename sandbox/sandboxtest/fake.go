// Package sandboxtest is a kernel in memory and the facts that every room of sandbox is tested against.
package sandboxtest

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox"
)

// Fake is a host and its namespaces in memory. It refuses what the kernel refuses, with the error kinds of sandbox/netns, and like that
// room takes what is there already (addresses, routes, rules, but no links) and what is gone already as done.
//
// The Fake is the kernel: it outlives those who use it. To play a crash, make Fault answer with an error from some touch on, throw the
// controller away, call Crash, and give the same Fake to the next one.
//
// It implements sandbox.Provider, Surveyor, Indexer, Lister and Gone. Safe for concurrent use; fields are set while nobody uses it.
type Fake struct {
	// Fault, if not nil, is asked at every touch twice: before the effect with what is about to be done, as in "host: ip link del
	// sv1", and after it with the same and ", done". Its error is returned to the caller.
	Fault func(op string) error
	// Host is what Survey tells beside what it finds: the Features, Routes and Resolvers given here, and MTU.
	Host sandbox.Survey

	instance string
	*kernel
}

// NewFake is a host with IPv6 and nothing but its loopback. The instance is "sealane".
func NewFake() *Fake {
	f := &Fake{instance: "sealane", kernel: &kernel{}, Host: sandbox.Survey{MTU: 1500, Features: map[string]bool{"ipv6": true}}}
	f.Reboot()
	return f
}

// Beside is another instance on the same host, without the Fault of this one.
func (f *Fake) Beside(instance string) *Fake {
	return &Fake{instance: instance, kernel: f.kernel, Host: f.Host}
}

var _ interface {
	sandbox.Provider
	sandbox.Surveyor
	sandbox.Indexer
	sandbox.Lister
	sandbox.Gone
} = (*Fake)(nil)

// touch does something to the kernel, with a fault before or after it when one is due. It says whether it was done.
func (f *Fake) touch(ctx context.Context, op string, do func() error) (done bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("%s: %w", op, err)
	}
	if f.Fault != nil {
		if err := f.Fault(op); err != nil {
			return false, fmt.Errorf("%s: %w", op, err)
		}
	}
	f.mu.Lock()
	err = do()
	f.mu.Unlock()
	if err != nil {
		return false, fmt.Errorf("%s: %w", op, err)
	}
	if f.Fault != nil {
		if err := f.Fault(op + ", done"); err != nil {
			return true, fmt.Errorf("%s, done: %w", op, err)
		}
	}
	return true, nil
}

const made = "/run/fake/netns/"

// Create implements sandbox.Provider. Ids are hex digits.
func (f *Fake) Create(ctx context.Context, id string) (sandbox.Namespace, error) {
	var n *namespace
	_, err := f.touch(ctx, "create namespace "+id, func() error {
		if _, err := hex.DecodeString(id); err != nil || id == "" {
			return fmt.Errorf("an id is hex digits: %w", errdefs.ErrInvalidArgument)
		}
		if f.files[made+id] == nil {
			f.files[made+id] = f.newSpace(made + id)
		}
		n = f.handle(made+id, f.files[made+id])
		return nil
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Open implements sandbox.Provider.
func (f *Fake) Open(ctx context.Context, o sandbox.Origin) (sandbox.Namespace, error) {
	key := o.Path
	switch {
	case o.PID > 0 && o == sandbox.Origin{PID: o.PID}:
		key = fmt.Sprintf("/proc/%d/ns/net", o.PID)
	case o != sandbox.Origin{Host: true} && (o.Path == "" || o != sandbox.Origin{Path: o.Path}):
		return nil, fmt.Errorf("open namespace: want one of a path, a pid and the host: %w", errdefs.ErrInvalidArgument)
	}
	var n *namespace
	_, err := f.touch(ctx, "open namespace "+title(key), func() error {
		s, err := f.space(key)
		if err != nil {
			return err
		}
		n = f.handle(key, s)
		f.opened[key] = s
		return nil
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// Remove implements sandbox.Provider.
func (f *Fake) Remove(ctx context.Context, id string) error {
	_, err := f.touch(ctx, "remove namespace "+id, func() error {
		f.end(made + id)
		return nil
	})
	return err
}

// List implements sandbox.Lister.
func (f *Fake) List(ctx context.Context) ([]sandbox.ID, error) {
	var ids []sandbox.ID
	_, err := f.touch(ctx, "list namespaces", func() error {
		for _, key := range slices.Sorted(maps.Keys(f.files)) {
			if id, ok := strings.CutPrefix(key, made); ok {
				ids = append(ids, sandbox.ID(id))
			}
		}
		return nil
	})
	return ids, err
}

// Survey implements sandbox.Surveyor.
func (f *Fake) Survey(ctx context.Context, links []string) (sandbox.Survey, error) {
	s := f.Host
	s.Features = map[string]bool{}
	maps.Copy(s.Features, f.Host.Features)
	s.Links = make(map[string]sandbox.HostLink)
	s.MTUs = make(map[netip.Addr]int)
	_, err := f.touch(ctx, "survey", func() error {
		host := f.files[""]
		s.Boot = fmt.Sprintf("boot-%d/%d", f.boot, host.cookie)
		s.Features["forwarding4"] = host.sysctls["ipv4/ip_forward"] == "1"
		s.Features["forwarding6"] = host.sysctls["ipv6/conf/all/forwarding"] == "1"
		for _, name := range slices.Sorted(maps.Keys(host.links)) {
			l := host.links[name]
			if l.instance == f.instance {
				continue
			}
			for _, a := range l.Addrs {
				s.Routes = append(slices.Clip(s.Routes), a.Masked())
				s.MTUs[a.Addr()] = l.MTU
			}
			if slices.Contains(links, name) {
				s.Links[name] = sandbox.HostLink{Kind: l.kind(), MTU: l.MTU, Addrs: slices.Clone(l.Addrs)}
			}
		}
		return nil
	})
	return s, err
}

// Indexes implements sandbox.Indexer.
func (f *Fake) Indexes(ctx context.Context) (map[string]int, error) {
	indexes := map[string]int{}
	_, err := f.touch(ctx, "number links", func() error {
		for name, l := range f.files[""].links {
			indexes[name] = l.index
		}
		return nil
	})
	return indexes, err
}

// Gone implements sandbox.Gone: it tells of namespaces that somebody else made and End ended, also of those that ended before it was
// called.
func (f *Fake) Gone(ctx context.Context) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			f.mu.Lock()
			gone, changed := slices.Sorted(maps.Keys(f.gone)), f.changed
			clear(f.gone)
			f.mu.Unlock()
			for _, key := range gone {
				if !yield(key) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}
}

// AddNamespace makes a namespace of somebody else's at path.
func (f *Fake) AddNamespace(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files[path] = f.newSpace(path)
}

// AddProcess says that a process lives in the namespace at path, "" the host's. Panics when there is none.
func (f *Fake) AddProcess(pid int, path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.files[path] == nil {
		panic("no namespace at " + path)
	}
	f.files[fmt.Sprintf("/proc/%d/ns/net", pid)] = f.files[path]
}

// AddFile puts something at path that is no network namespace.
func (f *Fake) AddFile(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files[path] = nil
}

// End ends the namespace at path, with all other paths to it, as when its last process exits. Gone tells of it.
func (f *Fake) End(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.files[path]; s != nil {
		for _, l := range s.links {
			if l.peer != nil {
				f.tell(l.peer.in, mark{l.peer.instance, l.peer.Owner})
			}
		}
	}
	f.end(path)
}

// Meddle does what somebody else would do in the namespace with this key, and tells those who watch. Links that it adds carry no mark.
func (f *Fake) Meddle(key string, steps ...sandbox.Step) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.space(key)
	if err != nil {
		return err
	}
	for _, step := range steps {
		l := s.links[step.Link.Name]
		if step.Route.Link != "" {
			l = s.links[step.Route.Link]
		}
		var hurt mark
		if l != nil {
			hurt = mark{l.instance, l.Owner}
			step.Link.Owner = l.Owner
		}
		if err := f.do(s, hurt.instance, step); err != nil {
			return err
		}
		f.tell(s, hurt)
	}
	return nil
}

// Sysctl is the value of a key below net/ in a namespace, "" when nobody set it.
func (f *Fake) Sysctl(key, sysctl string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.files[key]; s != nil {
		return s.sysctls[sysctl]
	}
	return ""
}

// Crash ends every handle and watch made until now, as the death of their process would. What is in the kernel stays.
func (f *Fake) Crash() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life++
	clear(f.opened)
	clear(f.gone)
	f.wake()
}

// Reboot loses everything, paths and processes included.
func (f *Fake) Reboot() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boot++
	f.life++
	f.files, f.opened, f.gone = map[string]*space{}, map[string]*space{}, map[string]bool{}
	f.files[""] = f.newSpace("")
	f.wake()
}

// Handles is how many namespaces are open and not closed.
func (f *Fake) Handles() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.handles[f.life]
}

// Links are the names of all links in a namespace but the loopback, sorted.
func (f *Fake) Links(key string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.files[key]; s != nil {
		return slices.Sorted(maps.Keys(s.links))
	}
	return nil
}

// Dump is everything in the kernel as text, sorted, for comparing. Settings that belong to no link are left out: they are written and
// never turned back.
func (f *Fake) Dump() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	seen := make(map[*space]bool)
	for _, key := range slices.Sorted(maps.Keys(f.files)) {
		if s := f.files[key]; s != nil && !seen[s] {
			seen[s] = true
			s.dump(&b, title(key))
		}
	}
	return b.String()
}

func title(key string) string { return cmp.Or(key, "host") }

// namespace is a handle.
type namespace struct {
	f     *Fake
	key   string
	space *space
	life  int
	once  sync.Once
}

func (f *Fake) handle(key string, s *space) *namespace {
	f.handles[f.life]++
	return &namespace{f: f, key: key, space: s, life: f.life}
}

func (n *namespace) Key() string    { return n.key }
func (n *namespace) Cookie() uint64 { return n.space.cookie }

// Close implements sandbox.Namespace.
func (n *namespace) Close() error {
	n.once.Do(func() {
		n.f.mu.Lock()
		defer n.f.mu.Unlock()
		n.f.handles[n.life]--
	})
	return nil
}

// alive says, with the lock held, whether the handle can still be used.
func (n *namespace) alive() error {
	if n.life != n.f.life {
		return fmt.Errorf("used after its process died: %w", errdefs.ErrUnavailable)
	}
	if n.space.ended {
		return fmt.Errorf("the namespace is gone: %w", errdefs.ErrNotFound)
	}
	return nil
}

// Apply implements sandbox.Namespace. Every step is a touch.
func (n *namespace) Apply(ctx context.Context, owner string, have, want sandbox.Config) (sandbox.Config, error) {
	for _, step := range sandbox.Diff(have, want) {
		done, err := n.f.touch(ctx, title(n.key)+": "+step.String(), func() error {
			if err := n.alive(); err != nil {
				return err
			}
			return n.f.do(n.space, n.f.instance, step)
		})
		if done {
			have = sandbox.After(have, []sandbox.Step{step})
		}
		if err != nil {
			return have, fmt.Errorf("apply %s: %w", owner, err)
		}
	}
	return want, nil
}

// Observe implements sandbox.Namespace.
func (n *namespace) Observe(ctx context.Context) (map[string]sandbox.Config, error) {
	var shares map[string]sandbox.Config
	_, err := n.f.touch(ctx, "observe "+title(n.key), func() error {
		if err := n.alive(); err != nil {
			return err
		}
		shares = n.space.shares(n.f.instance)
		return nil
	})
	return shares, err
}

// Watch implements sandbox.Namespace.
func (n *namespace) Watch(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		n.f.mu.Lock()
		next := len(n.space.told)
		n.f.mu.Unlock()
		for {
			n.f.mu.Lock()
			err, changed := n.alive(), n.f.changed
			news := n.space.told[next:]
			next += len(news)
			n.f.mu.Unlock()
			for _, hurt := range news {
				if (hurt.instance == n.f.instance || n.key != "") && !yield(hurt.owner, nil) {
					return
				}
			}
			if err != nil {
				yield("", err)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}
}
