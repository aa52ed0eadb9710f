package sealane

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/sandbox"
)

// sandboxHandle names the record of a sandbox.
type sandboxHandle struct {
	c  *Controller
	id sandbox.ID
}

func (s *sandboxHandle) ID() sandbox.ID { return s.id }

func (s *sandboxHandle) Info(ctx context.Context) (sandbox.Info, error) {
	info, err := view(ctx, s.c.o.Run, func(tx datastore.Tx) (sandbox.Info, error) { return sandboxTable().Get(tx, string(s.id)) })
	if err != nil {
		return info, fmt.Errorf("sandbox %s: %w", shortID(string(s.id)), err)
	}
	info.Problem = s.c.mender.problem(sandboxOwner(s.id))
	return info, nil
}

// sandboxRecord reads a sandbox's record, which is shared with others who read it: NotFound when there is none.
func (c *Controller) sandboxRecord(ctx context.Context, id sandbox.ID) (sandbox.Info, error) {
	return view(ctx, c.o.Run, func(tx datastore.Tx) (sandbox.Info, error) {
		return c.memory.sandboxes.Get(tx, sandboxTable(), string(id))
	})
}

// Indexes of what no two sandboxes may share, and of who shares on purpose.
const namespaceCookies index = "name/cookie"

func sharers(donor sandbox.ID) datastore.Table[bool] {
	return datastore.Table[bool]{Dir: datastore.Key("shared", string(donor))}
}

// CreateSandbox makes a sandbox, with a namespace of its own unless the spec says where it lives. AlreadyExists names the sandbox that has
// the name, the id or the namespace; asked again with the same id and the same namespace it returns the sandbox there is.
func (c *Controller) CreateSandbox(ctx context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	repeatable := s.ID != ""
	if !repeatable {
		s.ID = sandbox.ID(newID())
	}
	s.Name = cmp.Or(s.Name, shortID(string(s.ID)))
	made, err := c.createSandbox(ctx, s, repeatable)
	if err != nil {
		return nil, fmt.Errorf("create sandbox %.80q: %w", s.Name, err)
	}
	if made {
		c.events.tell("sandbox", "create", string(s.ID), "name", s.Name)
	}
	return &sandboxHandle{c, s.ID}, nil
}

func (c *Controller) createSandbox(ctx context.Context, s sandbox.Spec, repeatable bool) (made bool, err error) {
	inside, err := checkSandbox(s)
	if err != nil {
		return false, err
	}
	unlock, err := c.locks.exclusive(ctx, sandboxOwner(s.ID))
	if err != nil {
		return false, err
	}
	defer unlock()
	old, err := view(ctx, c.o.Run, func(tx datastore.Tx) (*sandbox.Info, error) { return findSandbox(tx, s) })
	if err != nil {
		return false, err
	}
	if old != nil {
		if repeatable && old.ID == s.ID && old.Spec.Namespace == s.Namespace && !old.Deleting {
			return false, nil
		}
		return false, sandboxTaken(s, *old)
	}
	info := sandbox.Info{ID: s.ID, Spec: s, Created: time.Now().UTC()}
	if err = c.place(ctx, &info, inside); err == nil {
		err = c.writeFiles(ctx, &content{id: s.ID, sandbox: info, known: true})
	}
	if err == nil {
		err = c.o.Run.Update(ctx, func(tx datastore.Tx) error { return c.memory.enterSandbox(tx, info) })
	}
	if err != nil {
		c.abandonSandbox(ctx, info)
		return false, err
	}
	return true, nil
}

// checkSandbox refuses a spec that nobody need be asked about, and says what the namespace contains before it is on a network.
func checkSandbox(s sandbox.Spec) (inside sandbox.Config, err error) {
	if err := together(checkName(s.Name), checkID(string(s.ID)), checkOrigin(s.Namespace), s.Names.Check()); err != nil {
		return inside, err
	}
	if s.Namespace.Share != "" && !equal(s.Names, sandbox.Names{}) {
		return inside, fmt.Errorf("%w: it has the files and names of sandbox %s, and none of its own", errdefs.ErrInvalidArgument, s.Namespace.Share)
	}
	return sandboxSysctls(s.Sysctls)
}

func findSandbox(tx datastore.Tx, s sandbox.Spec) (*sandbox.Info, error) {
	named, err := sandboxNames.get(tx, s.Name)
	if err != nil {
		return nil, err
	}
	for _, id := range []string{string(s.ID), named} {
		if id == "" {
			continue
		}
		if old, found, err := maybe(sandboxTable().Get(tx, id)); err != nil || found {
			return &old, err
		}
	}
	return nil, nil
}

func sandboxTaken(s sandbox.Spec, by sandbox.Info) error {
	if s.Name == by.Spec.Name {
		return fmt.Errorf("%w: the name is taken by sandbox %s", errdefs.ErrAlreadyExists, by.ID)
	}
	return fmt.Errorf("%w: the id is taken by sandbox %s (%s)", errdefs.ErrAlreadyExists, by.ID, by.Spec.Name)
}

// enterSandbox writes a new sandbox, with its name and its namespace claimed.
func (r *memory) enterSandbox(tx datastore.Tx, info sandbox.Info) error {
	if err := sandboxNames.claim(tx, info.Spec.Name, string(info.ID)); err != nil {
		return err
	}
	switch o := info.Spec.Namespace; {
	case o.Share != "":
		if donor, err := sandboxTable().Get(tx, string(o.Share)); err != nil || donor.Deleting {
			return cmp.Or(err, error(fmt.Errorf("sandbox %s: %w: it is being deleted", o.Share, errdefs.ErrFailedPrecondition)))
		}
		if err := sharers(o.Share).Put(tx, string(info.ID), true); err != nil {
			return err
		}
	case info.Key != "":
		if err := claimNamespace(tx, info); err != nil {
			return err
		}
	}
	info.Spec = info.Spec.Clone() // what the caller gave stays the caller's
	return r.sandboxes.Put(tx, sandboxTable(), string(info.ID), info)
}

// claimNamespace lets no second sandbox have a namespace.
func claimNamespace(tx datastore.Tx, info sandbox.Info) error {
	cookie := cookieName(info.Cookie)
	holder, err := namespaceCookies.get(tx, cookie)
	if err != nil {
		return err
	}
	if holder != "" && holder != string(info.ID) {
		return fmt.Errorf("%w: %s is the namespace of sandbox %s", errdefs.ErrAlreadyExists, info.Key, holder)
	}
	return namespaceCookies.claim(tx, cookie, string(info.ID))
}

func cookieName(cookie uint64) string { return strconv.FormatUint(cookie, 16) }

// abandonSandbox takes back what createSandbox made outside the store.
func (c *Controller) abandonSandbox(ctx context.Context, info sandbox.Info) {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	if _, err := c.sandboxRecord(ctx, info.ID); !errdefs.IsNotFound(err) {
		c.mender.later(sandboxOwner(info.ID), err) // it may be recorded: then it is complete
		return
	}
	if c.o.Files != nil {
		if err := c.o.Files.Remove(ctx, info.ID); err != nil {
			c.log.Warn("files without a sandbox are left until the next start", "sandbox", info.ID, "error", err)
		}
	}
	if info.Spec.Namespace == (sandbox.Origin{}) {
		if err := c.removeNamespace(ctx, info); err != nil {
			c.log.Warn("a namespace without a sandbox is left until the next start", "namespace", info.ID, "error", err)
		}
	}
}

// Sandbox finds a sandbox by id, then by name, then by a unique prefix of the id. NotFound, or InvalidArgument with the number of matches.
func (c *Controller) Sandbox(ctx context.Context, ref string) (sandbox.Sandbox, error) {
	id, err := view(ctx, c.o.Run, func(tx datastore.Tx) (string, error) { return resolve(tx, sandboxTable(), sandboxNames, ref) })
	if err != nil {
		return nil, fmt.Errorf("sandbox %.80q: %w", ref, err)
	}
	return &sandboxHandle{c, sandbox.ID(id)}, nil
}

// Sandboxes yields the records of all sandboxes by id, as they were at one moment. A record that cannot be read is yielded as an error.
func (c *Controller) Sandboxes(ctx context.Context) iter.Seq2[sandbox.Info, error] {
	return func(yield func(sandbox.Info, error) bool) {
		for s, err := range records(ctx, c.o.Run, sandboxTable()) {
			s.Problem = c.mender.problem(sandboxOwner(s.ID))
			if !yield(s, err) {
				return
			}
		}
	}
}

// Endpoints yields the records of the endpoints that are in a sandbox or were made for it, by id, as they were at one moment. NotFound
// when there is no such sandbox.
func (c *Controller) Endpoints(ctx context.Context, id sandbox.ID) iter.Seq2[endpoint.Info, error] {
	return func(yield func(endpoint.Info, error) bool) {
		v, err := view(ctx, c.o.Run, func(tx datastore.Tx) (*content, error) {
			return new(memory).readRun(tx, id) // what is yielded is the caller's alone
		})
		if err == nil && !v.known {
			err = errdefs.ErrNotFound
		}
		if err != nil {
			yield(endpoint.Info{}, fmt.Errorf("endpoints of sandbox %s: %w", shortID(string(id)), err))
			return
		}
		for _, m := range v.members {
			if m.info.ID == "" {
				continue // it left, and its leaving is not finished
			}
			m.info.Problem = c.mender.problem(endpointOwner(m.id))
			if !yield(m.info, nil) {
				return
			}
		}
	}
}

// SetNamespace says where a sandbox made with Late lives.
func (s *sandboxHandle) SetNamespace(ctx context.Context, o sandbox.Origin) error {
	if err := s.setNamespace(ctx, o); err != nil {
		return fmt.Errorf("set namespace of sandbox %s: %w", shortID(string(s.id)), err)
	}
	return nil
}

func (s *sandboxHandle) setNamespace(ctx context.Context, o sandbox.Origin) error {
	if o.Path == "" && o.PID == 0 {
		return fmt.Errorf("%w: give a path or a pid", errdefs.ErrInvalidArgument)
	}
	members, unlock, err := s.c.holdMembers(ctx, s.id)
	if err != nil {
		return err
	}
	defer unlock()
	was, err := s.c.sandboxRecord(ctx, s.id)
	if err != nil {
		return err
	}
	now := was
	now.Spec.Namespace = o
	if err := s.c.place(ctx, &now, sandbox.Config{}); err != nil {
		return err
	}
	now.Spec.Namespace = was.Spec.Namespace
	if !was.Spec.Namespace.Late || was.Key != "" && was.Cookie != now.Cookie {
		return fmt.Errorf("%w: it has a namespace already: %s", errdefs.ErrFailedPrecondition, cmp.Or(was.Key, "the host's"))
	}
	if err := s.c.o.Run.Update(ctx, func(tx datastore.Tx) error { return claimNamespace(tx, now) }); err != nil {
		return err
	}
	for _, m := range members {
		if m.driven, err = s.c.driveInto(ctx, m.network, m.info, now); err != nil {
			return err
		}
	}
	return s.c.converge(ctx, s.id, func(v *content) error {
		v.sandbox.Key, v.sandbox.Cookie, v.dirty = now.Key, now.Cookie, true
		for _, m := range members {
			if in := v.member(m.id); in != nil {
				in.driven = m.driven
			}
		}
		return nil
	}, nil)
}

// Refresh changes names and resolver settings.
func (s *sandboxHandle) Refresh(ctx context.Context, names sandbox.Names) error {
	err := names.Check()
	if err == nil {
		err = s.c.converge(ctx, s.id, func(v *content) error {
			if !v.known {
				return errdefs.ErrNotFound
			}
			v.sandbox.Spec.Names, v.dirty = names, true
			return nil
		}, nil)
	}
	if err != nil {
		return fmt.Errorf("refresh sandbox %s: %w", shortID(string(s.id)), err)
	}
	s.c.events.tell("sandbox", "update", string(s.id))
	return nil
}

// Delete makes its endpoints leave, deletes those made for it and removes a namespace that we made.
func (s *sandboxHandle) Delete(ctx context.Context) error {
	info, err := s.c.sandboxRecord(ctx, s.id)
	if err == nil {
		err = s.c.endSandbox(ctx, s.id, false)
	}
	if err != nil {
		return fmt.Errorf("delete sandbox %s: %w", shortID(string(s.id)), err)
	}
	s.c.events.tell("sandbox", "destroy", string(s.id), "name", info.Spec.Name)
	return nil
}

// endSandbox converges a sandbox away. gone: its namespace ended without us, and its endpoints end with it.
func (c *Controller) endSandbox(ctx context.Context, id sandbox.ID, gone bool) error {
	members, unlock, err := c.holdMembers(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	for _, m := range members { // from the other hosts before the kernel, and from the kernel before the records
		if m.info.ID != "" && (gone || m.info.Spec.For == id) {
			if err := c.withdrawPublished(ctx, m.network, m.id); err != nil {
				return err
			}
			defer c.resettle(m.on, m.id)
		}
	}
	var doomed []*member
	err = c.converge(ctx, id, func(v *content) error {
		if !v.known {
			return errdefs.ErrNotFound
		}
		for _, m := range v.members {
			if !slices.ContainsFunc(members, func(held *member) bool { return held.id == m.id }) {
				return fmt.Errorf("%w: endpoint %s joined at this moment; try again", errdefs.ErrConflict, m.id)
			}
		}
		if err := c.notShared(ctx, id); err != nil && !gone {
			return err
		}
		v.sandbox.Deleting, v.dirty, v.gone = true, true, gone
		for _, m := range v.members {
			if m.driven.Driver != "" {
				m.info.Deleting = m.doomed(v)
				doomed = append(doomed, m)
			}
		}
		return nil
	}, nil)
	if err != nil {
		for _, m := range doomed { // their records may be gone already
			c.mender.later(endpointOwner(m.id), err)
		}
		return err
	}
	c.forgetSpace(id)
	for _, m := range doomed {
		if err := c.letGo(ctx, m); err != nil {
			c.mender.later(endpointOwner(m.id), err)
		}
	}
	return nil
}

// letGo has a driver that acts let go of an endpoint whose sandbox is gone.
func (c *Controller) letGo(ctx context.Context, m *member) error {
	d, err := c.driver(ctx, m.driven.Driver)
	if err != nil {
		return err
	}
	e := m.info
	e.Sandbox = ""
	_, err = c.drive(ctx, d, m.driven.Network, e)
	return err
}

// notShared refuses with the ids of those who share the namespace.
func (c *Controller) notShared(ctx context.Context, id sandbox.ID) error {
	ids, err := view(ctx, c.o.Run, func(tx datastore.Tx) (ids []string, err error) {
		for sharer := range tx.List(sharers(id).Dir) {
			ids = append(ids, sharer)
		}
		return ids, nil
	})
	if err != nil || len(ids) == 0 {
		return err
	}
	return fmt.Errorf("%w: its namespace is shared by sandboxes %v; delete those first", errdefs.ErrConflict, ids)
}

// holdMembers takes all endpoints of a sandbox and their networks, in the order that all locks are taken in, and reads them.
func (c *Controller) holdMembers(ctx context.Context, id sandbox.ID) (members []*member, unlock func(), err error) {
	var held []func()
	unlock = func() {
		for _, release := range slices.Backward(held) {
			release()
		}
	}
	v, err := c.read(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	take := func(name string, lock func(context.Context, string) (func(), error)) error {
		release, err := lock(ctx, name)
		if err == nil {
			held = append(held, release)
		}
		return err
	}
	for _, on := range networksOf(v.members) {
		if err := take(networkOwner(on), c.locks.shared); err != nil {
			unlock()
			return nil, nil, err
		}
	}
	for _, m := range v.members {
		if err := take(endpointOwner(m.id), c.locks.exclusive); err != nil {
			unlock()
			return nil, nil, err
		}
	}
	if v, err = c.read(ctx, id); err != nil {
		unlock()
		return nil, nil, err
	}
	return v.members, unlock, nil
}
