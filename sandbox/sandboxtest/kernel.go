package sandboxtest

import (
	"fmt"
	"net"
	"net/netip"
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

// link is an interface as it looks. Veth of a pair's ends is set, whichever end was planned.
type link struct {
	sandbox.Link
	instance string // with Owner, its alias
	peer     *link
	in       *space
}

// maxPorts is how many ports a bridge has: numbers are 10 bits and 0 is none.
const maxPorts = 1023

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

// addLink makes a link, or finds the one that is there: an adopted one, one that arrives, or a veth's far end.
func (k *kernel) addLink(s *space, instance string, want sandbox.Link) error {
	if want.Arrives != "" {
		if err := k.arrive(s, want); err != nil {
			return err
		}
		return k.look(s.links[want.Name], instance, want)
	}
	there := s.links[want.Name]
	if want.Adopt {
		if there == nil {
			return missing(want.Name)
		}
		return nil
	}
	if far(want) {
		if there == nil || there.peer == nil {
			return missing(want.Name)
		}
		return k.look(there, instance, want)
	}
	l := &link{Link: sandbox.Link{Name: want.Name, Veth: want.Veth, Bridge: want.Bridge, VXLAN: want.VXLAN, Child: want.Child, Tap: want.Tap}, in: s}
	if err := k.plug(l); err != nil {
		return err
	}
	if want.Veth != nil {
		if err := k.addPeer(l, want); err != nil {
			k.delete(l)
			return err
		}
	}
	if err := k.look(l, instance, want); err != nil {
		k.delete(l)
		return err
	}
	return nil
}

// far says whether l is the far end of a veth, made and deleted from the other side.
func far(l sandbox.Link) bool {
	return l.Veth == nil && l.Bridge == nil && l.VXLAN == nil && l.Child == nil && l.Tap == nil
}

// plug puts a new link into its namespace, down.
func (k *kernel) plug(l *link) error {
	if err := sandbox.CheckLinkName(l.Name); err != nil {
		return err
	}
	if l.in.links[l.Name] != nil {
		return fmt.Errorf("there is a link %s: %w", l.Name, errdefs.ErrAlreadyExists)
	}
	if c := l.Child; c != nil && k.files[""].links[c.Parent] == nil {
		return missing(c.Parent)
	}
	if v := l.VXLAN; v != nil {
		for _, s := range k.files {
			if s != nil && s.hasTunnel(*v) {
				return fmt.Errorf("there is a tunnel with VNI %d: %w", v.VNI, errdefs.ErrAlreadyExists)
			}
		}
	}
	k.macs++
	l.MTU, l.Down = 1500, true
	l.MAC = net.HardwareAddr{0xfa, 0xce, byte(k.macs >> 24), byte(k.macs >> 16), byte(k.macs >> 8), byte(k.macs)}
	l.in.links[l.Name] = l
	return nil
}

func (s *space) hasTunnel(v sandbox.VXLAN) bool {
	for _, l := range s.links {
		if l.VXLAN != nil && l.VXLAN.VNI == v.VNI && l.VXLAN.Port == v.Port {
			return true
		}
	}
	return false
}

// addPeer makes the other end of a veth where it will live, with what the kernel takes for it at that moment.
func (k *kernel) addPeer(l *link, want sandbox.Link) error {
	in := l.in
	if want.Veth.Space != "" {
		var err error
		if in, err = k.space(want.Veth.Space); err != nil {
			return err
		}
	}
	peer := &link{Link: sandbox.Link{Name: want.Veth.Peer}, in: in}
	if err := k.plug(peer); err != nil {
		return err
	}
	l.peer, peer.peer = peer, l
	return k.look(peer, "", sandbox.Link{Name: peer.Name, MTU: want.MTU, MAC: want.Veth.MAC, Down: true})
}

// arrive moves a link from the host's namespace and renames it.
func (k *kernel) arrive(s *space, want sandbox.Link) error {
	host := k.files[""]
	l := host.links[want.Arrives]
	if l == nil {
		return missing(want.Arrives)
	}
	if err := sandbox.CheckLinkName(want.Name); err != nil {
		return err
	}
	if other := s.links[want.Name]; other != nil && other != l {
		return fmt.Errorf("there is a link %s: %w", want.Name, errdefs.ErrAlreadyExists)
	}
	host.forget(l)
	delete(host.links, l.Name)
	l.Name, l.in, l.Master, l.Down = want.Name, s, "", true
	l.Addrs, l.Arrives = nil, want.Arrives
	s.links[l.Name] = l
	return nil
}

// look changes what a link looks like: all of it or nothing.
func (k *kernel) look(l *link, instance string, want sandbox.Link) error {
	if want.MTU != 0 && (want.MTU < 68 || want.MTU > 65535) {
		return fmt.Errorf("MTU %d of %s: want 68 to 65535: %w", want.MTU, l.Name, errdefs.ErrInvalidArgument)
	}
	if len(want.MAC) != 0 && (len(want.MAC) != 6 || want.MAC[0]&1 != 0 || [6]byte(want.MAC) == [6]byte{}) {
		return fmt.Errorf("MAC %s of %s: %w", want.MAC, l.Name, errdefs.ErrInvalidArgument)
	}
	if len(want.Owner) > 255 {
		return fmt.Errorf("alias of %s is longer than 255 bytes: %w", l.Name, errdefs.ErrInvalidArgument)
	}
	if err := l.in.canEnslave(l, want.Master); err != nil {
		return err
	}
	if want.MTU != 0 {
		l.MTU = want.MTU
	}
	if len(want.MAC) != 0 {
		l.MAC = slices.Clone(want.MAC)
	}
	l.Master, l.Owner, l.Silent, l.Port = want.Master, want.Owner, want.Silent, sandbox.Port{}
	l.instance = instance
	if want.Owner == "" {
		l.instance = ""
	}
	if want.Master != "" {
		l.Port = want.Port
	}
	if want.Bridge != nil && l.Bridge != nil {
		l.Bridge = &sandbox.Bridge{NoSnooping: want.Bridge.NoSnooping}
	}
	if want.Down && !l.Down {
		l.goDown()
	}
	l.Down = want.Down
	return nil
}

func (s *space) canEnslave(l *link, master string) error {
	if master == "" || master == l.Master {
		return nil
	}
	b := s.links[master]
	if b == nil {
		return missing(master)
	}
	if b.Bridge == nil || l.Bridge != nil {
		return fmt.Errorf("%s cannot be a port of %s: %w", l.Name, master, errdefs.ErrInvalidArgument)
	}
	ports := 0
	for _, o := range s.links {
		if o.Master == master {
			ports++
		}
	}
	if ports >= maxPorts {
		return fmt.Errorf("bridge %s is full (1,023 ports): %w", master, errdefs.ErrResourceExhausted)
	}
	return nil
}

// goDown is what the kernel does to a link that is set down: its routes go, and its IPv6 addresses.
func (l *link) goDown() {
	l.in.forget(l)
	l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(a netip.Prefix) bool { return a.Addr().Is6() })
}

// forget drops the routes of a link.
func (s *space) forget(l *link) {
	s.routes = slices.DeleteFunc(s.routes, func(r sandbox.Route) bool { return r.Link == l.Name })
}

// delLink is a DelLink step: of a link that is not ours to delete only what is ours ends. What is gone is gone.
func (k *kernel) delLink(s *space, have sandbox.Link) {
	l := s.links[have.Name]
	switch {
	case l == nil || have.Adopt:
	case have.Arrives != "":
		k.delete(l) // out of here, and back under its old name if that is free
		if host := k.files[""]; host.links[have.Arrives] == nil {
			l.Name, l.in, l.Down, l.Master, l.Addrs, l.Arrives = have.Arrives, host, true, "", nil, ""
			host.links[l.Name] = l
		}
	case far(have):
		l.goDown()
		l.Down = true
	default:
		k.delete(l)
	}
}

// delete removes a link with all that hangs on it: its routes and settings, its peer, its children, and its hold on its ports.
func (k *kernel) delete(l *link) {
	if l.in.links[l.Name] != l {
		return
	}
	l.in.forget(l)
	delete(l.in.links, l.Name)
	for key := range l.in.sysctls {
		if linkOf(key) == l.Name {
			delete(l.in.sysctls, key)
		}
	}
	for _, o := range l.in.links {
		if o.Master == l.Name {
			o.Master, o.Port = "", sandbox.Port{}
		}
	}
	if l.peer != nil {
		k.delete(l.peer)
	}
	if l.in != k.files[""] {
		return
	}
	for _, s := range k.files {
		if s == nil {
			continue
		}
		for _, o := range s.links {
			if o.Child != nil && o.Child.Parent == l.Name {
				k.delete(o)
			}
		}
	}
}

func (l *link) addAddr(a netip.Prefix) error {
	if !a.IsValid() {
		return fmt.Errorf("address %s: %w", a, errdefs.ErrInvalidArgument)
	}
	if a.Addr().Is6() {
		off := l.in.sysctls["ipv6/conf/"+l.Name+"/disable_ipv6"] == "1" || l.in.sysctls["ipv6/conf/all/disable_ipv6"] == "1"
		if off {
			return fmt.Errorf("address %s: IPv6 is off on %s: %w", a, l.Name, errdefs.ErrPermissionDenied)
		}
		if l.MTU < 1280 {
			return fmt.Errorf("address %s: IPv6 wants an MTU of 1280, %s has %d: %w", a, l.Name, l.MTU, errdefs.ErrInvalidArgument)
		}
	}
	if !slices.Contains(l.Addrs, a) {
		l.Addrs = append(slices.Clip(l.Addrs), a)
	}
	return nil
}

// delAddr takes the routes that name the address as their source with it.
func (l *link) delAddr(a netip.Prefix) {
	l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(o netip.Prefix) bool { return o == a })
	l.in.routes = slices.DeleteFunc(l.in.routes, func(r sandbox.Route) bool { return r.Source == a.Addr() })
}

// kept is a route as Observe tells of it: what the kernel fills in by itself is zero.
func kept(r sandbox.Route) sandbox.Route {
	if r.Dst.Addr().Is6() && r.Metric == 1024 {
		r.Metric = 0
	}
	if r.Table == 254 && r.Type != "local" || r.Table == 255 && r.Type == "local" {
		r.Table = 0
	}
	return r
}

func (s *space) addRoute(r sandbox.Route) error {
	r = kept(r)
	if slices.Contains(s.routes, r) {
		return nil
	}
	switch r.Type {
	case "blackhole", "unreachable", "prohibit":
	case "", "unicast", "local":
		l := s.links[r.Link]
		if r.Link != "lo" && (r.Link != "" || !r.Via.IsValid()) {
			if l == nil {
				return missing(r.Link)
			}
			if l.Down {
				return fmt.Errorf("route to %s: %s is down: %w", r.Dst, r.Link, errdefs.ErrFailedPrecondition)
			}
		}
		if r.Via.IsValid() && !s.reaches(r.Link, r.Via) {
			return fmt.Errorf("route to %s: gateway %s is on no link: %w", r.Dst, r.Via, errdefs.ErrFailedPrecondition)
		}
	default:
		return fmt.Errorf("route type %q: %w", r.Type, errdefs.ErrInvalidArgument)
	}
	s.routes = append(s.routes, r)
	return nil
}

// reaches says whether a is a neighbour on a link that is up; "" any link.
func (s *space) reaches(name string, a netip.Addr) bool {
	for _, l := range s.links {
		if l.Down || name != "" && l.Name != name {
			continue
		}
		if slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return true
		}
	}
	return slices.ContainsFunc(s.routes, func(r sandbox.Route) bool {
		return !r.Via.IsValid() && r.Dst.Bits() > 0 && r.Dst.Contains(a) && (name == "" || r.Link == name)
	})
}

// set writes a sysctl. The paths of links come and go with them.
func (s *space) set(v sandbox.Sysctl) error {
	path := v.Path()
	head, _, _ := strings.Cut(path, "/")
	if !slices.Contains([]string{"ipv4", "ipv6", "mpls", "core", "bridge", "netfilter", "unix"}, head) {
		return fmt.Errorf("there is no sysctl net/%s: %w", path, errdefs.ErrNotFound)
	}
	if name := linkOf(path); name != "" && name != "lo" && s.links[name] == nil {
		return missing(name)
	}
	s.sysctls[path] = v.Value
	if v.Value == "1" && strings.HasPrefix(path, "ipv6/") && strings.HasSuffix(path, "/disable_ipv6") {
		for _, l := range s.links {
			if name := linkOf(path); name == "" || name == l.Name {
				l.Addrs = slices.DeleteFunc(slices.Clone(l.Addrs), func(a netip.Prefix) bool { return a.Addr().Is6() })
			}
		}
	}
	return nil
}

// linkOf is the link that the path of a sysctl names; "" none.
func linkOf(path string) string {
	parts := strings.Split(path, "/")
	if len(parts) < 4 || parts[1] != "conf" && parts[1] != "neigh" || parts[2] == "all" || parts[2] == "default" {
		return ""
	}
	return parts[2]
}
