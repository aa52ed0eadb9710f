package nftables

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nlmsg"
	"github.com/sealane/sealane/internal/nsthread"
	"golang.org/x/sys/unix"
)

// deletionsAtOnce keeps the answers to one batch well below what a socket holds by default.
const deletionsAtOnce = 128

// Forget implements firewall.Forgetter: it ends the host's flows from or to these addresses, translated or not. Calls that come while a pass
// runs share the next. An end of ctx stops the waiting, not the pass.
func (o *Opener) Forget(ctx context.Context, withdrawn []netip.Addr) error {
	if len(withdrawn) == 0 {
		return nil
	}
	f, done := o.hostFlows()
	defer done()
	wish := newWish()
	for _, a := range withdrawn {
		wish.addrs[a.Unmap()] = true
	}
	wish.done = make(chan error, 1)
	f.end(wish)
	select {
	case err := <-wish.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hostFlows is the host firewall's, or one for the occasion while that is not open.
func (o *Opener) hostFlows() (f *flows, done func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.hosts != nil {
		return o.hosts, func() {}
	}
	f = &flows{path: o.options.Host, passes: &o.passes}
	return f, f.Close
}

// Drain waits for the passes under way that end the flows of UDP ports that came or went, and returns what went wrong in any since the
// last Drain.
func (o *Opener) Drain(ctx context.Context) error { return o.passes.wait(ctx) }

// passes counts what runs in the background.
type passes struct {
	mu   sync.Mutex // guards what follows
	n    int
	idle chan struct{} // closed when n returns to 0
	err  error         // the first since the last wait
}

func (p *passes) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n++; p.n == 1 {
		p.idle = make(chan struct{})
	}
}

func (p *passes) finish(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	if p.n--; p.n == 0 {
		close(p.idle)
	}
}

func (p *passes) wait(ctx context.Context) error {
	p.mu.Lock()
	idle := p.idle
	p.mu.Unlock()
	if idle != nil {
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.err
	p.err = nil
	return err
}

// flows is what connection tracking remembers in one namespace. Wishes to end some are gathered while a pass over all of them runs, and
// done in the next. Nothing runs and no socket is open before the first wish.
type flows struct {
	path   string
	passes *passes

	mu      sync.Mutex // guards what follows
	socket  *nlmsg.Socket
	running bool
	closed  bool
	wishes  []wish
}

// wish says which flows are to end.
type wish struct {
	addrs map[netip.Addr]bool
	ports map[uint16][]firewall.Port // by host port; UDP, single
	done  chan error                 // told the outcome; nil: passes is
}

func newWish() wish {
	return wish{addrs: map[netip.Addr]bool{}, ports: map[uint16][]firewall.Port{}}
}

// end asks for a pass and returns at once.
func (f *flows) end(w wish) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wishes = append(f.wishes, w)
	if !f.running {
		f.running = true
		f.passes.begin()
		go f.run()
	}
}

// run makes passes until no wish is left.
func (f *flows) run() {
	var unheard error
	for {
		f.mu.Lock()
		wishes := f.wishes
		f.wishes = nil
		if len(wishes) == 0 {
			f.running = false
			if f.closed && f.socket != nil {
				f.socket.Close()
				f.socket = nil
			}
			f.passes.finish(unheard)
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		err := f.pass(gather(wishes))
		for _, w := range wishes {
			if w.done != nil {
				w.done <- err
			} else if unheard == nil {
				unheard = err
			}
		}
	}
}

// Close lets go of the socket, after the passes under way.
func (f *flows) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if !f.running && f.socket != nil {
		f.socket.Close()
		f.socket = nil
	}
}

func gather(wishes []wish) wish {
	all := newWish()
	for _, w := range wishes {
		for a := range w.addrs {
			all.addrs[a] = true
		}
		for port, published := range w.ports {
			all.ports[port] = append(all.ports[port], published...)
		}
	}
	return all
}

// pass ends the flows that a wish means, in one look at all of them. It is called by run only.
func (f *flows) pass(w wish) error {
	err := f.endEach(w)
	if err != nil {
		return fmt.Errorf("end withdrawn flows: %w", kinded(err))
	}
	return nil
}

func (f *flows) endEach(w wish) error {
	if f.socket == nil {
		s, err := nlmsg.Open(f.path, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		f.socket = s
	}
	if n, err := flowCount(f.socket); n == 0 || err != nil {
		return err
	}
	local, err := f.local(w)
	if err != nil {
		return err
	}
	batches := []*nlmsg.Batch{{}}
	errs := []error{eachFlow(f.socket, func(fl *flow) {
		if !w.means(fl, local) {
			return
		}
		if batches[len(batches)-1].Len() == deletionsAtOnce {
			batches = append(batches, &nlmsg.Batch{})
		}
		fl.delete(batches[len(batches)-1])
	})}
	for _, b := range batches {
		errs = append(errs, deleteFlows(f.socket, b))
	}
	return errors.Join(errs...)
}

// local says which addresses are the host's own, where a wish needs it.
func (f *flows) local(w wish) (func(netip.Addr) bool, error) {
	own := map[netip.Addr]bool{}
	is := func(a netip.Addr) bool { return a.IsLoopback() || own[a] }
	if len(w.ports) == 0 {
		return is, nil
	}
	err := nsthread.Do(f.path, func() error {
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			if p, ok := a.(*net.IPNet); ok {
				ip, _ := netip.AddrFromSlice(p.IP)
				own[ip.Unmap()] = true
			}
		}
		return err
	})
	return is, err
}

// means says whether a flow is to end: it speaks of a withdrawn address, or it was begun towards a UDP port before that was published, or
// through it before it was withdrawn.
func (w *wish) means(fl *flow, local func(netip.Addr) bool) bool {
	for _, a := range []netip.AddrPort{fl.original.src, fl.original.dst, fl.reply.src, fl.reply.dst} {
		if w.addrs[a.Addr()] {
			return true
		}
	}
	if fl.original.proto != firewall.UDP {
		return false
	}
	to := fl.original.dst
	for _, p := range w.ports[to.Port()] {
		if p.Host.Is4() != to.Addr().Is4() || !p.Host.IsUnspecified() && p.Host != to.Addr() {
			continue
		}
		if fl.reply.src == netip.AddrPortFrom(p.Target, p.Ports.First) || fl.reply.src == to && local(to.Addr()) {
			return true
		}
	}
	return false
}

// endFlows asks for a pass where a step lets UDP ports come or go.
func (t *table) endFlows(s step) {
	w := newWish()
	for _, elements := range [][]element{s.gone, s.added} {
		for i := range elements {
			switch e := &elements[i]; e.set {
			case setPub4, setPub4Any, setPub6, setPub6Any:
				if p := e.port(); p.Proto == firewall.UDP {
					w.ports[p.HostPorts.First] = append(w.ports[p.HostPorts.First], p)
				}
			}
		}
	}
	if len(w.ports) > 0 {
		t.flows.end(w)
	}
}
