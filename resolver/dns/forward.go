package dns

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/sealane/sealane/internal/nsthread"
	"github.com/sealane/sealane/resolver"
	"golang.org/x/sys/unix"
)

// How many answers a group of servers remembers.
const hostMemory, ownMemory = 16384, 1024

// domain is servers for the names below a suffix.
type domain struct {
	suffix string // key
	group  *group
}

// groups makes the servers of a sandbox. Itself is left out, or it would ask itself for ever. The lock is held.
func (r *Resolver) groups(b *box) (general *group, split []domain) {
	byDomain := map[string][]*server{}
	for _, u := range b.own {
		s := &server{at: u.Server, via: r.inside(b)}
		if s.at.Port() == 0 {
			s.at = netip.AddrPortFrom(s.at.Addr(), dnsPort)
		}
		suffixes := []string{""}
		if len(u.Domains) > 0 {
			suffixes = suffixes[:0]
			for _, d := range u.Domains {
				suffixes = append(suffixes, keyOf(strings.TrimPrefix(d, ".")))
			}
		}
		for _, suffix := range suffixes {
			servers := byDomain[suffix]
			if a := s.at.Addr().Unmap(); a != resolver.Address() || s.at.Port() != dnsPort && s.at.Port() != b.port {
				servers = append(servers, s)
			}
			byDomain[suffix] = servers
		}
	}
	for suffix, servers := range byDomain {
		if g := newGroup(servers, ownMemory); suffix == "" {
			general = g
		} else {
			split = append(split, domain{suffix, g})
		}
	}
	slices.SortFunc(split, func(a, b domain) int {
		return cmp.Or(cmp.Compare(len(b.suffix), len(a.suffix)), cmp.Compare(a.suffix, b.suffix))
	})
	return general, split
}

// inside runs something in the namespace of a box, found by its socket: a path may lead elsewhere by now.
func (r *Resolver) inside(b *box) func(func() error) error {
	return func(fn func() error) error {
		r.mu.RLock()
		ns, err := unix.IoctlRetInt(b.udp, unix.SIOCGSKNS)
		r.mu.RUnlock()
		if err != nil {
			return os.NewSyscallError("SIOCGSKNS", err)
		}
		unix.CloseOnExec(ns)
		defer unix.Close(ns)
		return nsthread.DoFD(ns, fn)
	}
}

// route is who is to be asked for a name; nil: nobody. The lock is held.
func (r *Resolver) route(b *box, name string) *group {
	if b.listens {
		return nil
	}
	key := keyOf(name)
	for _, d := range b.split {
		if strings.HasSuffix(key, d.suffix) && aligned(key, len(key)-len(d.suffix)) {
			return d.group
		}
	}
	if b.general != nil || !b.forward {
		return b.general
	}
	return r.host.group()
}

// elsewhere has other servers asked for what the networks do not know, or for the target of a name that they do; way is then the answer so
// far. nil: the answer comes later. The lock is held.
func (r *Resolver) elsewhere(b *box, q, way *dns.Msg, target string, tcp bool, later func([]byte)) []byte {
	asked := q.Question[0]
	g := r.route(b, cmp.Or(target, asked.Name))
	if g == nil {
		return finish(q, r.nobody(b, q, way), tcp)
	}
	ask := q.Copy()
	if target != "" {
		ask.Question[0].Name = target
	}
	began := time.Now()
	r.work.Add(1)
	job := func() {
		defer r.work.Done()
		ctx, cancel := context.WithDeadline(r.ctx, began.Add(giveUp))
		defer cancel()
		m := g.resolve(ctx, ask)
		if m == nil {
			m = refusal(q, dns.RcodeServerFailure)
		}
		if way != nil {
			m.Answer = append(slices.Clone(way.Answer), m.Answer...)
		}
		m.Id, m.Response, m.RecursionDesired, m.RecursionAvailable = q.Id, true, q.RecursionDesired, true
		m.Question = q.Question
		restoreCase(m, asked.Name)
		later(finish(q, m, tcp))
	}
	if !r.queue.submit(b.turn, job) {
		r.work.Done()
		return finish(q, refusal(q, dns.RcodeRefused), tcp)
	}
	return nil
}

// nobody is the answer where nobody can be asked. A name without a dot could be one of the networks only, so it is known not to exist;
// of others we know nothing.
func (r *Resolver) nobody(b *box, q, way *dns.Msg) *dns.Msg {
	switch {
	case way != nil:
		return way
	case dns.CountLabel(q.Question[0].Name) == 1:
		return refusal(q, dns.RcodeNameError)
	}
	return refusal(q, dns.RcodeRefused)
}

// restoreCase gives records the name as this client wrote it: another may have asked first.
func restoreCase(m *dns.Msg, name string) {
	for _, rr := range m.Answer {
		if h := rr.Header(); strings.EqualFold(h.Name, name) {
			h.Name = name
		}
	}
}

// hostFile is the host's own servers, read anew when their file is another than last time.
type hostFile struct {
	r *Resolver

	mu   sync.Mutex
	seen [2]stamp
	last *group
}

// stamp tells versions of a file apart, whether it was replaced or changed in place.
type stamp struct {
	inode        uint64
	size         int64
	mtime, ctime unix.Timespec
}

func stampOf(path string) (s stamp) {
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil {
		s = stamp{st.Ino, st.Size, st.Mtim, st.Ctim}
	}
	return s
}

// group is the host's servers. Where systemd-resolved listens it comes first, since it knows which link knows which domain, and those that
// it asks itself come after.
func (h *hostFile) group() *group {
	file := filepath.Join(cmp.Or(h.r.options.Etc, "/etc"), "resolv.conf")
	stub := cmp.Or(h.r.options.Stub, "/run/systemd/resolve/resolv.conf")
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := [2]stamp{stampOf(file), stampOf(stub)}; h.last == nil || now != h.seen {
		h.seen, h.last = now, newGroup(h.servers(file, stub), hostMemory)
	}
	return h.last
}

func (h *hostFile) servers(file, stub string) (all []*server) {
	text, err := os.ReadFile(file)
	conf := resolver.ParseResolvConf(text)
	addrs := conf.Servers
	if err == nil && conf.Stub() {
		if text, err := os.ReadFile(stub); !errors.Is(err, os.ErrNotExist) {
			addrs = append(addrs, resolver.ParseResolvConf(text).Servers...)
		}
	}
	for _, a := range addrs {
		all = append(all, &server{at: netip.AddrPortFrom(a, dnsPort), via: func(fn func() error) error {
			return nsthread.Do(h.r.options.Host, fn)
		}})
	}
	return all
}
