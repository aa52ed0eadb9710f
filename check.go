package sealane

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/sandbox"
)

// Check compares what an endpoint wants with what the kernel has, and changes nothing. FailedPrecondition lists the steps that would
// mend it, as a person would type them.
func (e *endpointHandle) Check(ctx context.Context) error {
	differences, err := e.check(ctx)
	if err == nil && len(differences) > 0 {
		err = fmt.Errorf("%w: to be as wanted: %s", errdefs.ErrFailedPrecondition, strings.Join(differences, "; "))
	}
	if err != nil {
		return fmt.Errorf("check endpoint %s: %w", shortID(string(e.id)), err)
	}
	return nil
}

func (e *endpointHandle) check(ctx context.Context) ([]string, error) {
	info, err := e.Info(ctx)
	if err != nil || info.Sandbox == "" {
		return nil, err
	}
	v, err := e.c.read(ctx, info.Sandbox)
	if err != nil {
		return nil, err
	}
	if err := e.c.plan(ctx, v); err != nil {
		return nil, err
	}
	m := v.member(e.id)
	if m == nil || !m.wanted(v) {
		return []string{"it is not where its record says"}, nil
	}
	seen, err := e.c.observe(ctx)
	if err != nil {
		return nil, err
	}
	all, err := e.c.has(ctx, seen, endpointOwner(e.id), m.want)
	if err != nil {
		return nil, err
	}
	var differences []string
	for _, space := range spacesOf(m.want) {
		has, wants := shareOf(all, space), shareOf(m.want, space)
		differences = append(differences, steps(has.Config, wants.Config)...)
		if !has.Terms.Equal(wants.Terms) {
			differences = append(differences, fmt.Sprintf("firewall: has %v, wants %v", has.Terms, wants.Terms))
		}
	}
	inside, err := e.c.checkInside(ctx, v)
	return append(differences, inside...), err
}

// checkInside compares the inside of a sandbox with what all its endpoints together want.
func (c *Controller) checkInside(ctx context.Context, v *content) ([]string, error) {
	if !v.enterable() {
		return nil, nil
	}
	ns, err := c.namespace(ctx, v.sandbox)
	if err != nil {
		return nil, err
	}
	defer c.done(v.sandbox, ns)
	seen, err := ns.Observe(ctx)
	if err != nil {
		return nil, err
	}
	return steps(seen[""].Within(v.merged.Config), v.merged.Config), nil
}

// steps prints what Diff finds. Sysctls are left out: they are not observed.
func steps(have, want sandbox.Config) []string {
	var texts []string
	for _, s := range sandbox.Diff(have, want) {
		if s.Op != sandbox.SetSysctl {
			texts = append(texts, s.String())
		}
	}
	return texts
}
