package nftables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/firewall"
	"github.com/sealane/sealane/internal/nlmsg"
	"golang.org/x/sys/unix"
)

// attempts is how often a change that met something unexpected looks again: more only helps against somebody who keeps changing our table.
const attempts = 3

// table is the Firewall of one namespace.
type table struct {
	name, path, revision string
	host                 bool
	sets                 *[setCount]definition // the same of all tables
	socket               *nlmsg.Socket
	flows                *flows
	closed               func() // tells the Opener

	mu       sync.Mutex // guards what follows, and orders transactions
	tx       transaction
	known    bool // what follows is as the kernel has it, unless somebody else changes it unseen
	damaged  bool // somebody else changed more than elements
	exists   bool
	count    int                // of elements that somebody owns
	gateways map[string]gateway // by interface: ports are rendered by the mode of their network
	uplinks  []element
}

// Apply implements firewall.Firewall. It trusts Have; where the kernel then says that something is missing, or there already, it looks and
// replaces what the owners have by what they want. AlreadyExists names who has a port or interface; NotImplemented what cannot be rendered.
//
// A port is opened or translated by the mode that its network has when the port is applied. A UDP port that comes or goes ends flows begun
// before; see Opener.Drain.
func (t *table) Apply(ctx context.Context, changes []firewall.Change) error {
	for _, c := range changes {
		if err := check(c); err != nil {
			return fmt.Errorf("firewall of %s: %w", c.Owner, err)
		}
	}
	if about, err := redirects(changes); about || err != nil {
		if err == nil {
			err = t.changeRedirects(ctx, changes)
		}
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.reach(changes)
	if err != nil {
		return fmt.Errorf("change table inet %s: %w", t.name, kinded(err))
	}
	t.gateways = s.gateways
	t.endFlows(s)
	if t.count == 0 {
		return t.retire()
	}
	return nil
}

// reach makes what the changes want, by as little work as can be trusted to do.
func (t *table) reach(changes []firewall.Change) (s step, err error) {
	trusted := t.known
	if err := t.learn(); err != nil {
		return s, err
	}
	if trusted {
		s = t.trusting(changes)
		if err = t.commit(s); !stale(err) {
			return s, err
		}
	}
	for range attempts {
		if s, err = t.looking(changes); err != nil {
			return s, err
		}
		if err = t.commit(s); !stale(err) {
			break
		}
	}
	return s, err
}

// step is what one Apply does.
type step struct {
	gone, added []element
	gateways    map[string]gateway // afterwards
	around      bool               // networks come or go: the host's settings matter too
}

// stale says that the table is not as Have told.
func stale(err error) bool { return errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) }

// learn reads what a new handle must know. A table with other rules, of another version of us or changed by somebody else, is made anew around
// its elements, in one transaction.
func (t *table) learn() error {
	if t.known {
		return nil
	}
	exists, current, err := t.found()
	if err != nil {
		return err
	}
	all, err := t.dump()
	if err != nil {
		return err
	}
	if exists && (!current || t.damaged) {
		t.tx.begin()
		t.tx.remove()
		if err := t.tx.create(t.revision); err != nil {
			return err
		}
		t.tx.add(all)
		if err := t.tx.commit(); err != nil {
			return fmt.Errorf("renew table inet %s: %w", t.name, kinded(err))
		}
	}
	t.see(exists, all)
	t.known, t.damaged = true, false
	return nil
}

// see remembers what was read.
func (t *table) see(exists bool, all []element) {
	t.exists, t.count, t.uplinks = exists, 0, nil
	t.gateways = map[string]gateway{}
	for _, e := range all {
		if e.set == setUplinks {
			t.uplinks = append(t.uplinks, e)
		} else {
			t.count++
		}
	}
	terms := parse(all)
	delete(terms, "") // nobody's
	for _, terms := range terms {
		for _, n := range terms.Networks {
			t.gateways[n.Interface] = gateway{n.Mode4, n.Mode6}
		}
	}
}

// begin is a step that does nothing yet, with how networks will be treated after these changes.
func (t *table) begin(changes []firewall.Change) step {
	if !slices.ContainsFunc(changes, func(c firewall.Change) bool { return len(c.Have.Networks)+len(c.Want.Networks) > 0 }) {
		return step{gateways: t.gateways}
	}
	after := maps.Clone(t.gateways)
	for _, c := range changes {
		for _, n := range c.Have.Networks {
			delete(after, n.Interface)
		}
	}
	for _, c := range changes {
		for _, n := range c.Want.Networks {
			after[n.Interface] = gateway{n.Mode4, n.Mode6}
		}
	}
	return step{gateways: after, around: true}
}

// trusting works out a step from what the changes say is there.
func (t *table) trusting(changes []firewall.Change) step {
	s := t.begin(changes)
	for _, c := range changes {
		have, want := alike(c.Have, c.Want)
		gone, added := difference(render(c.Owner, have, t.gateways), render(c.Owner, want, s.gateways))
		if len(gone) > 0 { // two ports may share an element: what goes must be missing from all that is wanted
			gone, added = difference(render(c.Owner, c.Have, t.gateways), render(c.Owner, c.Want, s.gateways))
		}
		s.gone, s.added = append(s.gone, gone...), append(s.added, added...)
	}
	return s
}

// alike leaves out the ports that both begin with, so that one port more costs the same whatever the owner has.
func alike(have, want firewall.Terms) (firewall.Terms, firewall.Terms) {
	n := 0
	for n < len(have.Ports) && n < len(want.Ports) && have.Ports[n] == want.Ports[n] {
		n++
	}
	have.Ports, want.Ports = have.Ports[n:], want.Ports[n:]
	return have, want
}

// looking works out a step from what is there. AlreadyExists if a stranger to the changes has what is wanted.
func (t *table) looking(changes []firewall.Change) (step, error) {
	exists, _, err := t.found()
	if err != nil {
		return step{}, err
	}
	all, err := t.dump()
	if err != nil {
		return step{}, err
	}
	t.see(exists, all)
	s := t.begin(changes)
	var have, want []element
	for _, c := range changes {
		want = append(want, render(c.Owner, c.Want, s.gateways)...)
	}
	owners := map[string]bool{}
	for _, c := range changes {
		owners[c.Owner] = true
	}
	taken := map[place]string{}
	for _, e := range all {
		switch {
		case e.set == setUplinks:
		case owners[e.owner()]:
			have = append(have, e)
		default:
			taken[e.place] = e.owner()
		}
	}
	s.gone, s.added = difference(have, want)
	for _, e := range want {
		if owner, is := taken[e.place]; is {
			return step{}, fmt.Errorf("%s belongs to %s: %w", &e, owner, errdefs.ErrAlreadyExists)
		}
		taken[e.place] = e.owner()
	}
	return s, nil
}

// commit does a step in one transaction, making the table first where there is none.
func (t *table) commit(s step) error {
	var beside surroundings
	if s.around {
		var err error
		if beside, err = t.around(s.gateways); err != nil {
			return err
		}
	}
	if !t.exists {
		s.gone = nil
	}
	if len(s.gone)+len(s.added) == 0 && beside.nothing() {
		return nil
	}
	t.tx.begin()
	if !t.exists && len(s.added) > 0 {
		if err := t.tx.create(t.revision); err != nil {
			return err
		}
	}
	t.tx.del(append(s.gone, beside.gone...))
	t.tx.add(append(s.added, beside.added...))
	t.tx.shut(beside.surplus)
	if err := t.tx.open(beside.missing); err != nil {
		return err
	}
	if err := t.tx.commit(); err != nil {
		return err
	}
	t.exists = t.exists || len(s.added) > 0
	t.count += len(s.added) - len(s.gone)
	t.uplinks = append(except(t.uplinks, beside.gone), beside.added...)
	return nil
}

// retire removes the table when nobody has anything in it. It looks first: the count is ours, and somebody else may have added.
func (t *table) retire() error {
	if !t.exists {
		return nil
	}
	all, err := t.dump()
	if err != nil {
		return err
	}
	if t.see(true, all); t.count > 0 {
		return nil
	}
	return t.remove()
}

func (t *table) remove() error {
	beside, err := t.around(nil)
	if err != nil {
		return fmt.Errorf("remove table inet %s: %w", t.name, kinded(err))
	}
	exists, _, err := t.found()
	if err != nil {
		return err
	}
	if exists || len(beside.surplus) > 0 {
		t.tx.begin()
		t.tx.shut(beside.surplus)
		if exists {
			t.tx.remove()
		}
		if err := t.tx.commit(); err != nil {
			return fmt.Errorf("remove table inet %s: %w", t.name, kinded(err))
		}
	}
	t.see(false, nil)
	return nil
}

// Observe implements firewall.Firewall. What has no owner in its comment is told as the share of "". Terms are in normal form; a port of a
// routed network is told with the unspecified host address and the container's ports, since the others play no part.
func (t *table) Observe(ctx context.Context) (map[string]firewall.Terms, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all, err := t.dump()
	if err != nil {
		return nil, err
	}
	terms := parse(all)
	redirected, err := t.dumpRedirects()
	for owner, r := range redirected {
		with := terms[owner]
		with.Redirects = r
		terms[owner] = with.Normal()
	}
	return terms, err
}

// Flush implements firewall.Firewall.
func (t *table) Flush(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(t.remove(), kinded(t.writeRedirects(nil, true)))
}

// Close implements firewall.Firewall. What was applied stays.
func (t *table) Close() error {
	t.closed()
	t.flows.Close()
	return t.socket.Close()
}
