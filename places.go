package sealane

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/netdriver"
	"github.com/sealane/sealane/sandbox"
)

// place is a namespace that plans speak of by the Space of their Shares: the host's, or one of a network's own.
type place struct {
	ns   sandbox.Namespace
	wall firewall.Firewall // nil: none
	// reached is what the network has there, entries included, which Held does not have; nil: it is to be looked at. The network's
	// lock guards it.
	reached *sandbox.Config
	unwatch context.CancelFunc // nil: nobody watches it
}

// places are the open ones of networks.
type places struct {
	mu    sync.Mutex // guards what is below
	open  map[string]*place
	watch func(space string, p *place) // nil: nobody watches yet
}

// at opens the namespace that a Space means. A network's is made when it is not there, if that is wanted; else the result is nil.
func (c *Controller) at(ctx context.Context, space string, wanted bool) (*place, error) {
	if space == "" {
		return &place{ns: c.host, wall: c.wall}, nil
	}
	id, isNetwork := strings.CutPrefix(space, "net/")
	if !isNetwork {
		return nil, fmt.Errorf("%w: a plan speaks of namespace %q: there are the host's, \"\", and networks' own", errdefs.ErrInternal, space)
	}
	s := &c.places
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.open[space]; p != nil {
		return p, nil
	}
	if !wanted {
		ids, err := c.namespaces(ctx)
		if err != nil || !slices.Contains(ids, sandbox.ID(id)) {
			return nil, err
		}
	}
	p := &place{}
	var err error
	if p.ns, err = c.o.Spaces.Create(ctx, id); err != nil {
		return nil, err
	}
	if c.o.Firewalls != nil {
		if p.wall, err = c.o.Firewalls.Open(ctx, p.ns.Key()); err != nil {
			return nil, errors.Join(err, p.ns.Close())
		}
	}
	if s.open == nil {
		s.open = map[string]*place{}
	}
	s.open[space] = p
	if s.watch != nil {
		s.watch(space, p)
	}
	return p, nil
}

// leave lets go of a network's namespace: it is opened again when it is next spoken of.
func (c *Controller) leave(space string) {
	s := &c.places
	s.mu.Lock()
	p := s.open[space]
	delete(s.open, space)
	s.mu.Unlock()
	if p == nil {
		return
	}
	if err := p.close(); err != nil {
		c.log.Warn("close a network's namespace", "space", space, "error", err)
	}
}

// removePlaces removes the namespaces of a network's own that a plan of its speaks of.
func (c *Controller) removePlaces(ctx context.Context, p netdriver.Plan) error {
	for _, space := range spacesOf(p) {
		if id, isNetwork := strings.CutPrefix(space, "net/"); isNetwork {
			c.leave(space)
			if err := c.o.Spaces.Remove(ctx, id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *place) close() error {
	if p.unwatch != nil {
		p.unwatch()
	}
	err := p.ns.Close()
	if p.wall != nil {
		err = errors.Join(err, p.wall.Close())
	}
	return err
}

// watched has watch called for each place that is open now or later.
func (s *places) watched(watch func(space string, p *place)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch = watch
	for space, p := range s.open {
		watch(space, p)
	}
}

// mend has all networks with a namespace of their own converged, with who is on them.
func (s *places) mend(m *mender) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for space := range s.open {
		m.later(space, nil)
	}
}

func (s *places) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, p := range s.open {
		errs = append(errs, p.close())
	}
	s.open = nil
	return errors.Join(errs...)
}

// spacesOf are the namespaces that plans speak of, in the order in which their shares are made.
func spacesOf(plans ...netdriver.Plan) []string {
	spaces := make([]string, 0, 2)
	for _, p := range plans {
		for _, s := range p.Shares {
			if !slices.Contains(spaces, s.Space) {
				spaces = append(spaces, s.Space)
			}
		}
	}
	return spaces
}

// shareOf is a plan's part of one namespace. It shares memory with the plan.
func shareOf(p netdriver.Plan, space string) netdriver.Share {
	share := netdriver.Share{Space: space}
	first := true
	for _, s := range p.Shares {
		switch {
		case s.Space != space:
		case first:
			share, first = s, false
		default:
			share.Config = union(share.Config, s.Config)
			share.Config.Sysctls = append(slices.Clip(share.Config.Sysctls), s.Config.Sysctls...)
			share.Terms = joined(share.Terms, s.Terms)
		}
	}
	return share
}

// hostShare is the host's part of a plan.
func hostShare(p netdriver.Plan) netdriver.Share { return shareOf(p, "") }

// located is a config with the keys of networks' namespaces where it names these by their Space. One that is not there is left so: what
// leads to it went with it.
func (c *Controller) located(ctx context.Context, config sandbox.Config, wanted bool) (sandbox.Config, error) {
	for i, l := range config.Links {
		if l.Veth == nil || !strings.HasPrefix(l.Veth.Space, "net/") {
			continue
		}
		p, err := c.at(ctx, l.Veth.Space, wanted)
		if err != nil {
			return config, err
		}
		if p == nil {
			continue
		}
		veth := *l.Veth
		veth.Space = p.ns.Key()
		config.Links = slices.Clone(config.Links)
		config.Links[i].Veth = &veth
	}
	return config, nil
}

// applyLinks makes one owner's links in one namespace what is wanted.
func (c *Controller) applyLinks(ctx context.Context, space, owner string, have, want sandbox.Config) error {
	wanted := len(want.Links)+len(want.Routes)+len(want.Rules)+len(want.Sysctls) > 0
	p, err := c.at(ctx, space, wanted)
	if err != nil || p == nil {
		return err
	}
	if have, err = c.located(ctx, have, false); err != nil {
		return err
	}
	if want, err = c.located(ctx, want, true); err != nil {
		return err
	}
	_, err = p.ns.Apply(ctx, owner, have, want)
	return err
}

// change is of the firewall of one namespace.
type change struct {
	space string
	firewall.Change
}

// applyTerms makes changes, in one transaction for each namespace. The host's come last: what they lead to is arranged by then.
func (c *Controller) applyTerms(ctx context.Context, changes []change) error {
	by := map[string][]firewall.Change{}
	var spaces []string
	for _, ch := range changes {
		if reflect.DeepEqual(ch.Have, ch.Want) {
			continue
		}
		if by[ch.space] == nil && ch.space != "" {
			spaces = append(spaces, ch.space)
		}
		by[ch.space] = append(by[ch.space], ch.Change)
	}
	for _, space := range append(spaces, "") {
		if err := c.applyTermsAt(ctx, space, by[space]); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) applyTermsAt(ctx context.Context, space string, changes []firewall.Change) error {
	if len(changes) == 0 {
		return nil
	}
	if c.wall == nil {
		if slices.ContainsFunc(changes, func(ch firewall.Change) bool { return len(ch.Want.Ports) > 0 }) {
			return fmt.Errorf("%w: published ports need a firewall, and there is none", errdefs.ErrFailedPrecondition)
		}
		return nil // networks are neither isolated nor masqueraded: that is what having none means
	}
	p, err := c.at(ctx, space, slices.ContainsFunc(changes, func(ch firewall.Change) bool { return !ch.Want.IsZero() }))
	if err != nil || p == nil {
		return err
	}
	return p.wall.Apply(ctx, changes)
}
