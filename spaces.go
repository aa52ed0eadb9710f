package sealane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/sandbox"
)

// errGone says that a sandbox's namespace is not there any more: its path leads nowhere, or to another one.
var errGone = fmt.Errorf("%w: its network namespace is gone", errdefs.ErrFailedPrecondition)

// spaces are the open handles of namespaces that we made. Those of others are opened for each use: a handle kept would keep them alive.
type spaces struct {
	mu   sync.Mutex // guards open
	open map[sandbox.ID]sandbox.Namespace
}

// place finds or makes the namespace of a new sandbox and writes into its record where that is.
func (c *Controller) place(ctx context.Context, info *sandbox.Info, inside sandbox.Config) error {
	o := info.Spec.Namespace
	if o.Late || o.Foreign || o.Share != "" || o.Host {
		if len(inside.Sysctls) > 0 {
			return fmt.Errorf("%w: sysctls need a namespace that is there and is not the host's or another sandbox's", errdefs.ErrInvalidArgument)
		}
		return c.placeShared(ctx, info)
	}
	var ns sandbox.Namespace
	var err error
	if o == (sandbox.Origin{}) {
		ns, err = c.o.Spaces.Create(ctx, string(info.ID))
	} else {
		ns, err = c.o.Spaces.Open(ctx, o)
	}
	if err != nil {
		return err
	}
	info.Key, info.Cookie = ns.Key(), ns.Cookie()
	if info.Cookie == c.host.Cookie() {
		return errors.Join(fmt.Errorf("%w: %s is the host's own namespace; ask for the host's by name", errdefs.ErrInvalidArgument, info.Key), ns.Close())
	}
	if len(inside.Sysctls) > 0 {
		if _, err := ns.Apply(ctx, sandboxOwner(info.ID), sandbox.Config{}, inside); err != nil {
			return errors.Join(err, ns.Close())
		}
	}
	if o != (sandbox.Origin{}) {
		return ns.Close()
	}
	c.keepSpace(info.ID, ns)
	return nil
}

// placeShared is for sandboxes that have no namespace of their own: the donor's key is theirs, so that inspect shows it.
func (c *Controller) placeShared(ctx context.Context, info *sandbox.Info) error {
	donor := info.Spec.Namespace.Share
	if donor == "" {
		return nil
	}
	d, err := c.sandboxRecord(ctx, donor)
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", shortID(string(donor)), err)
	}
	info.Key, info.Cookie = d.Key, d.Cookie
	return nil
}

func (c *Controller) keepSpace(id sandbox.ID, ns sandbox.Namespace) {
	c.spaces.mu.Lock()
	defer c.spaces.mu.Unlock()
	if c.spaces.open == nil {
		c.spaces.open = map[sandbox.ID]sandbox.Namespace{}
	}
	c.spaces.open[id] = ns
}

// namespace opens a sandbox's namespace, and makes sure that it is still the one: FailedPrecondition (errGone) when it is not. Call done
// with it afterwards.
func (c *Controller) namespace(ctx context.Context, info sandbox.Info) (sandbox.Namespace, error) {
	c.spaces.mu.Lock()
	ns := c.spaces.open[info.ID]
	c.spaces.mu.Unlock()
	if ns != nil {
		return ns, nil
	}
	ns, err := c.o.Spaces.Open(ctx, sandbox.Origin{Path: info.Key})
	if errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) {
		return nil, fmt.Errorf("%w (%s)", errGone, info.Key)
	}
	if err != nil {
		return nil, err
	}
	if ns.Cookie() != info.Cookie {
		return nil, errors.Join(fmt.Errorf("%w (%s is another one now)", errGone, info.Key), ns.Close())
	}
	return ns, nil
}

// done closes what namespace opened for one use.
func (c *Controller) done(info sandbox.Info, ns sandbox.Namespace) {
	c.spaces.mu.Lock()
	kept := c.spaces.open[info.ID] == ns
	c.spaces.mu.Unlock()
	if !kept {
		if err := ns.Close(); err != nil {
			c.log.Warn("close namespace", "namespace", info.Key, "error", err)
		}
	}
}

// removeNamespace removes one that we made.
func (c *Controller) removeNamespace(ctx context.Context, info sandbox.Info) error {
	c.forgetSpace(info.ID)
	return c.o.Spaces.Remove(ctx, string(info.ID))
}

func (c *Controller) forgetSpace(id sandbox.ID) {
	c.spaces.mu.Lock()
	ns := c.spaces.open[id]
	delete(c.spaces.open, id)
	c.spaces.mu.Unlock()
	if ns != nil {
		if err := ns.Close(); err != nil {
			c.log.Warn("close namespace", "sandbox", id, "error", err)
		}
	}
}

func (s *spaces) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, ns := range s.open {
		errs = append(errs, ns.Close())
	}
	s.open = nil
	return errors.Join(errs...)
}

// checkOrigin wants at most one answer to the question where.
func checkOrigin(o sandbox.Origin) error {
	n := 0
	for _, set := range []bool{o.Path != "", o.PID != 0, o.Share != "", o.Host, o.Late, o.Foreign} {
		if set {
			n++
		}
	}
	if n > 1 {
		return fmt.Errorf("%w: a namespace is given by path, by pid, shared, the host's, late or foreign: one of these", errdefs.ErrInvalidArgument)
	}
	return nil
}

// sandboxSysctls turns net.… keys, with dots or slashes, into a config.
func sandboxSysctls(sysctls map[string]string) (sandbox.Config, error) {
	var inside sandbox.Config
	for _, key := range slices.Sorted(maps.Keys(sysctls)) {
		path := key
		if !strings.Contains(key, "/") {
			path = strings.ReplaceAll(key, ".", "/")
		}
		below, isNet := strings.CutPrefix(path, "net/")
		if !isNet || strings.Contains("/"+below+"/", "/../") || strings.ContainsAny(below, " \n\x00") || strings.ContainsAny(sysctls[key], "\n\x00") {
			return inside, fmt.Errorf("%w: sysctl %.80q: a sandbox has those of net. only", errdefs.ErrInvalidArgument, key)
		}
		inside.Sysctls = append(inside.Sysctls, sandbox.Sysctl{Key: below, Value: sysctls[key]})
	}
	return inside, nil
}

// networksOf lists the networks of members, each once, in order.
func networksOf(members []*member) []endpoint.NetworkID {
	var on []endpoint.NetworkID
	for _, m := range members {
		on = append(on, m.on)
	}
	slices.SortFunc(on, cmp.Compare[endpoint.NetworkID])
	return slices.Compact(on)
}
