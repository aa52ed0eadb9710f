package api

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

func (s *Server) endpoints(ctx context.Context, c call, _ nothing) ([]Endpoint, error) {
	filters, err := s.resolved(ctx, c.filters)
	if err != nil {
		return nil, err
	}
	members, err := s.everyMember(ctx)
	if err != nil {
		return nil, err
	}
	var all []Endpoint
	for _, m := range members {
		all = append(all, endpointOf(m))
	}
	return choose(endpointSelector(), filters, all)
}

func (s *Server) endpoint(ctx context.Context, c call, _ nothing) (Endpoint, error) {
	m, err := s.findEndpoint(ctx, c.ref)
	if err != nil {
		return Endpoint{}, err
	}
	e := endpointOf(m)
	for key, value := range s.ctl.EndpointInfo(ctx, m.network, m.endpoint) {
		e.Driver[key] = value
	}
	return e, nil
}

func (s *Server) removeEndpoint(ctx context.Context, c call, _ nothing) (nothing, error) {
	m, err := s.findEndpoint(ctx, c.ref)
	if err != nil {
		return nothing{}, err
	}
	return nothing{}, s.dropEndpoint(ctx, m, c.force)
}

// findEndpoint finds an endpoint of any network by id, then by name, then by a unique beginning of the id.
func (s *Server) findEndpoint(ctx context.Context, ref string) (member, error) {
	all, err := s.everyMember(ctx)
	if err != nil {
		return member{}, err
	}
	for _, fits := range []func(member) bool{
		func(m member) bool { return string(m.endpoint.ID) == ref },
		func(m member) bool { return m.endpoint.Spec.Name == ref },
		func(m member) bool { return strings.HasPrefix(string(m.endpoint.ID), ref) },
	} {
		var found []member
		for _, m := range all {
			if fits(m) {
				found = append(found, m)
			}
		}
		switch len(found) {
		case 0:
		case 1:
			return found[0], nil
		default:
			return member{}, fmt.Errorf("endpoint %.80q: %w: it means %d endpoints; give the id", ref, errdefs.ErrInvalidArgument, len(found))
		}
	}
	return member{}, fmt.Errorf("endpoint %.80q: %w", ref, errdefs.ErrNotFound)
}

// resolved adds to filters by network and by sandbox the ids that the values mean.
func (s *Server) resolved(ctx context.Context, f Filters) (Filters, error) {
	r := Filters{}
	for key, values := range f {
		r[key] = slices.Clone(values)
		for _, value := range values {
			var id string
			switch key {
			case "network":
				if net, err := s.ctl.Network(ctx, value); err == nil {
					id = string(net.ID())
				} else if !errdefs.IsNotFound(err) {
					return nil, err
				}
			case "sandbox", "container":
				if sb, err := s.ctl.Sandbox(ctx, value); err == nil {
					id = string(sb.ID())
				} else if !errdefs.IsNotFound(err) {
					return nil, err
				}
			}
			if id != "" {
				r[key] = append(r[key], id)
			}
		}
	}
	return r, nil
}

func (s *Server) hosts(ctx context.Context, c call, _ nothing) ([]Host, error) {
	all, err := s.allHosts(ctx)
	if err != nil {
		return nil, err
	}
	return choose(hostSelector(), c.filters, all)
}

// allHosts are those that share networks; without a cluster store this one.
func (s *Server) allHosts(ctx context.Context) ([]Host, error) {
	var all []Host
	for h, err := range s.ctl.Hosts(ctx) {
		if err != nil {
			return nil, err
		}
		all = append(all, Host{ID: h.ID, Name: h.Name, Address: textOf(h.Advertise), State: h.State})
	}
	if len(all) == 0 {
		return []Host{s.o.Host}, nil
	}
	return all, nil
}

func (s *Server) host(ctx context.Context, c call, _ nothing) (Host, error) {
	all, err := s.allHosts(ctx)
	if err != nil {
		return Host{}, err
	}
	var found []Host
	for _, match := range []func(Host) bool{
		func(h Host) bool { return h.ID == c.ref }, func(h Host) bool { return h.Name == c.ref },
		func(h Host) bool { return strings.HasPrefix(h.ID, c.ref) },
	} {
		if found = slices.DeleteFunc(slices.Clone(all), func(h Host) bool { return !match(h) }); len(found) > 0 {
			break
		}
	}
	switch len(found) {
	case 0:
		return Host{}, fmt.Errorf("host %.80q: %w", c.ref, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return Host{}, fmt.Errorf("host %.80q: %w: %d hosts match; give the id", c.ref, errdefs.ErrInvalidArgument, len(found))
}

func (s *Server) removeHost(ctx context.Context, c call, _ nothing) (nothing, error) {
	h, err := s.host(ctx, c, nothing{})
	if err != nil {
		return nothing{}, err
	}
	if h.ID == s.o.Host.ID {
		return nothing{}, fmt.Errorf("host %s: %w: it is this one, which is alive", h.Name, errdefs.ErrFailedPrecondition)
	}
	return nothing{}, s.ctl.RemoveHost(ctx, h.ID)
}
