package sandboxtest

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox"
)

// kernel is what all users of one Fake share. Everything in it is guarded by mu; methods want it held.
type kernel struct {
	mu      sync.Mutex
	files   map[string]*space // by path, "" the host's; nil: not a network namespace
	opened  map[string]*space // those that Gone tells of
	gone    map[string]bool   // ended and not told
	changed chan struct{}     // closed when there is something to tell
	boot    int
	life    int         // of the processes that use it
	handles map[int]int // open ones, by life
	cookies uint64
	macs    uint32
}

// space is one namespace.
type space struct {
	key     string
	cookie  uint64
	ended   bool
	links   map[string]*link
	routes  []sandbox.Route
	rules   []sandbox.Rule
	sysctls map[string]string
	told    []mark // whose shares somebody else changed, in order
}

type mark struct{ instance, owner string }

func (k *kernel) newSpace(key string) *space {
	k.cookies++
	if k.handles == nil {
		k.handles = make(map[int]int)
	}
	return &space{key: key, cookie: k.cookies, links: map[string]*link{}, sysctls: map[string]string{}}
}

func (k *kernel) space(key string) (*space, error) {
	s, ok := k.files[key]
	if !ok {
		return nil, fmt.Errorf("namespace %s: nothing is there: %w", key, errdefs.ErrNotFound)
	}
	if s == nil {
		return nil, fmt.Errorf("namespace %s: it is no network namespace: %w", key, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// end removes a namespace with its links and their peers.
func (k *kernel) end(key string) {
	s := k.files[key]
	if s == nil || s == k.files[""] {
		return
	}
	s.ended = true
	for _, l := range s.links {
		k.delete(l)
	}
	for path, at := range k.files {
		if at == s {
			delete(k.files, path)
		}
	}
	for path, at := range k.opened {
		if at == s {
			delete(k.opened, path)
			if !strings.HasPrefix(path, made) {
				k.gone[path] = true
			}
		}
	}
	k.wake()
}

// tell lets those who watch s know whose share somebody else changed.
func (k *kernel) tell(s *space, hurt mark) {
	if hurt.owner == "" && s == k.files[""] {
		return
	}
	s.told = append(s.told, hurt)
	k.wake()
}

func (k *kernel) wake() {
	if k.changed != nil {
		close(k.changed)
	}
	k.changed = make(chan struct{})
}

// do is one step in s, on behalf of an instance, or of nobody of ours: "".
func (k *kernel) do(s *space, instance string, step sandbox.Step) error {
	switch step.Op {
	case sandbox.AddLink:
		return k.addLink(s, instance, step.Link)
	case sandbox.DelLink:
		k.delLink(s, step.Link)
		return nil
	case sandbox.AddRoute:
		return s.addRoute(step.Route)
	case sandbox.DelRoute:
		s.routes = slices.DeleteFunc(s.routes, func(r sandbox.Route) bool { return r == kept(step.Route) })
		return nil
	case sandbox.AddRule:
		if !slices.Contains(s.rules, step.Rule) {
			s.rules = append(s.rules, step.Rule)
		}
		return nil
	case sandbox.DelRule:
		s.rules = slices.DeleteFunc(s.rules, func(r sandbox.Rule) bool { return r == step.Rule })
		return nil
	case sandbox.SetSysctl:
		return s.set(step.Sysctl)
	}
	l := s.links[step.Link.Name]
	if l == nil {
		if step.Op == sandbox.DelAddr || step.Op == sandbox.DelEntry {
			return nil
		}
		return missing(step.Link.Name)
	}
	switch step.Op {
	case sandbox.SetLink:
		return k.look(l, instance, step.Link)
	case sandbox.AddAddr:
		return l.addAddr(step.Addr)
	case sandbox.DelAddr:
		l.delAddr(step.Addr)
	case sandbox.SetEntry, sandbox.DelEntry:
		c := sandbox.After(sandbox.Config{Links: []sandbox.Link{l.Link}}, []sandbox.Step{step})
		l.Entries = c.Links[0].Entries
	default:
		return fmt.Errorf("step %q: %w", step.Op, errdefs.ErrNotImplemented)
	}
	return nil
}

func missing(name string) error {
	return fmt.Errorf("there is no link %s: %w", name, errdefs.ErrNotFound)
}
