package block

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/netdriver"
)

// lender holds in the pool what is somebody else's inside a block of ours.
const lender = "lent to another host"

// claims are the blocks of a subnet with the hosts that have them.
type claims map[netip.Prefix]string

// around is the smallest claim with an address in it; an invalid prefix when there is none.
func (c claims) around(a netip.Addr) (around netip.Prefix, holder string) {
	for p, host := range c {
		if p.Contains(a) && (!around.IsValid() || p.Bits() > around.Bits()) {
			around, holder = p, host
		}
	}
	return around, holder
}

func (d *Driver) blocks(s *subnet) datastore.Table[ipam.Block] {
	return datastore.Table[ipam.Block]{Dir: datastore.Key("block", s.network)}
}

// uses says which networks a host has blocks or endpoints of.
func uses(host string) datastore.Table[bool] {
	return datastore.Table[bool]{Dir: datastore.Key("hostnet", host)}
}

// read lists the claims of one subnet, and says whether this host has others of the network. What another host wrote and makes no sense
// is nobody's claim.
func (d *Driver) read(tx datastore.Tx, s *subnet) (found claims, others bool) {
	found = claims{}
	for b, err := range d.blocks(s).All(tx) {
		switch p := b.Prefix; {
		case err != nil, !p.IsValid(), p != p.Masked():
		case s.all.Contains(p.Addr()) && p.Bits() >= s.all.Bits():
			found[p] = b.Host
		default:
			others = others || b.Host == d.o.Host
		}
	}
	return found, others
}

// mayClaim refuses when the cluster has given this host up, and when the network is going.
func (d *Driver) mayClaim(tx datastore.Tx, s *subnet) error {
	host, err := (datastore.Table[struct{ Removing bool }]{Dir: "host"}).Get(tx, d.o.Host)
	if errdefs.IsNotFound(err) || err == nil && host.Removing {
		return fmt.Errorf("%w: the cluster has given up this host, %s; it must make itself known again", errdefs.ErrFailedPrecondition, d.o.Host)
	}
	if err != nil || !s.record {
		return err
	}
	n, err := (datastore.Table[netdriver.Network]{Dir: "net"}).Get(tx, s.network)
	switch {
	case err != nil:
		return fmt.Errorf("network %s: %w", s.network, err)
	case n.Deleting:
		return fmt.Errorf("network %s: %w: it is being deleted", n.Name, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// update claims what choose says; an invalid prefix is nothing. The caller has the turn.
func (d *Driver) update(ctx context.Context, s *subnet, choose func(claims) netip.Prefix) (found claims, err error) {
	err = d.o.Store.Update(ctx, func(tx datastore.Tx) error {
		found, _ = d.read(tx, s)
		p := choose(found)
		if !p.IsValid() {
			return nil
		}
		if err := d.mayClaim(tx, s); err != nil {
			return err
		}
		found[p] = d.o.Host
		return d.put(tx, s, p, d.o.Host)
	})
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.known = s.known && !datastore.IsUncertain(err)
		return nil, err
	}
	return found, d.learn(ctx, s, found)
}

// put writes a claim, and that the host has one of this network.
func (d *Driver) put(tx datastore.Tx, s *subnet, p netip.Prefix, host string) error {
	return errors.Join(uses(host).Put(tx, s.network, true), d.blocks(s).Put(tx, p.String(), ipam.Block{Prefix: p, Host: host}))
}

// learn takes over what the store says: which blocks are ours to give of, and which addresses in them are not. Nothing is given of it
// before it is kept.
func (d *Driver) learn(ctx context.Context, s *subnet, found claims) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := d.keep(ctx, s, func(kept claims) {
		kept.clear()
		for p, host := range found {
			if host == d.o.Host || p.IsSingleIP() && found[s.around(p.Addr())] == d.o.Host {
				kept[p] = host
			}
		}
	})
	if err != nil {
		return err
	}
	return d.takeOver(ctx, s, found)
}

// takeOver has the pool give of what is this host's. The caller has s.mu.
func (d *Driver) takeOver(ctx context.Context, s *subnet, found claims) error {
	held, lent := map[netip.Prefix]bool{}, map[netip.Addr]bool{}
	var ranges []netip.Prefix
	for p, host := range found {
		if host == d.o.Host {
			if held[p] = true; s.isBlock(p) {
				ranges = append(ranges, p)
			}
		}
	}
	for p, host := range found {
		if a := p.Addr(); host != d.o.Host && p.IsSingleIP() && !held[p] && held[s.around(a)] {
			if s.lent[a] || d.mark(ctx, s, a) == nil {
				lent[a] = true
			}
		}
	}
	if err := d.ranger.SetRanges(s.id, ranges); err != nil {
		return err
	}
	for a := range s.lent {
		if !lent[a] {
			_ = d.o.Pool.ReleaseAddress(ctx, s.id, a)
		}
	}
	s.held, s.lent, s.known = held, lent, true
	s.claimed.Add(1)
	return nil
}

// mark takes an address out of the pool for somebody else.
func (d *Driver) mark(ctx context.Context, s *subnet, a netip.Addr) error {
	_, err := d.o.Pool.RequestAddress(ctx, ipam.AddressRequest{Pool: s.id, Address: a, Owner: lender})
	return err
}

// look reads the claims and claims nothing.
func (d *Driver) look(ctx context.Context, s *subnet) error {
	over, err := s.turn(ctx)
	if err != nil {
		return err
	}
	defer over()
	_, err = d.update(ctx, s, func(claims) netip.Prefix { return netip.Prefix{} })
	return err
}

// grow claims a block after those of before gave no address. When no block is left it borrows an address.
func (d *Driver) grow(ctx context.Context, s *subnet, before uint64) (lent netip.Addr, err error) {
	found, grown, err := d.claimBlock(ctx, s, before)
	if err != nil || grown {
		return netip.Addr{}, err
	}
	return d.borrow(ctx, s, found)
}

func (d *Driver) claimBlock(ctx context.Context, s *subnet, before uint64) (found claims, grown bool, err error) {
	over, err := s.turn(ctx)
	if err != nil {
		return nil, false, err
	}
	defer over()
	if s.claimed.Load() != before {
		return nil, true, nil // another call did
	}
	found, err = d.update(ctx, s, func(found claims) netip.Prefix {
		grown = false
		for p, host := range found {
			grown = grown || host == d.o.Host && s.isBlock(p) && !s.held[p] // claimed in an earlier life
		}
		if grown {
			return netip.Prefix{}
		}
		p := s.free(found)
		grown = p.IsValid()
		return p
	})
	return found, grown, err
}

// claim makes an address that was asked for by name this host's. Who has it is asked: it may be on its way back there. While that lasts
// it may come to be another's, who is asked then.
func (d *Driver) claim(ctx context.Context, s *subnet, a netip.Addr) error {
	var asked string
	var refused error
	for {
		over, err := s.turn(ctx)
		if err != nil {
			return err
		}
		around, holder, err := d.claimAlone(ctx, s, a)
		over()
		if err != nil || holder == d.o.Host {
			return err
		}
		now := holder + " " + around.String()
		if now == asked {
			return refused
		}
		asked = now
		if _, refused = d.ask(ctx, s, holder, around, a); !errdefs.IsAlreadyExists(refused) {
			return refused
		}
	}
}

// claimAlone claims an address that nobody has, and says who has it and with what around it.
func (d *Driver) claimAlone(ctx context.Context, s *subnet, a netip.Addr) (around netip.Prefix, holder string, err error) {
	_, err = d.update(ctx, s, func(found claims) netip.Prefix {
		if around, holder = found.around(a); holder != "" {
			return netip.Prefix{}
		}
		around, holder = alone(a), d.o.Host
		return around
	})
	return around, holder, err
}

// giveBack returns what is idle. Nothing can be given of it from the moment when it is chosen, nor when it is not sure whether it went.
func (d *Driver) giveBack(ctx context.Context, s *subnet) error {
	over, err := s.turn(ctx)
	if err != nil {
		return err
	}
	defer over()
	s.use.Lock()
	idle := s.idle()
	s.mu.Lock()
	for _, p := range idle {
		delete(s.held, p)
	}
	err = d.ranger.SetRanges(s.id, s.ranges())
	s.mu.Unlock()
	s.use.Unlock()
	if err != nil || len(idle) == 0 {
		return err
	}
	ours := idle
	err = d.keep(ctx, s, func(kept claims) {
		for _, p := range idle {
			delete(kept, p)
		}
	})
	if err == nil {
		ours, err = d.drop(ctx, s, idle)
	}
	if err == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known = false
	for _, p := range ours {
		s.held[p] = true
	}
	again := d.keep(ctx, s, func(kept claims) {
		for _, p := range ours {
			kept[p] = d.o.Host
		}
	})
	return errors.Join(err, again, d.ranger.SetRanges(s.id, s.ranges()))
}

// ranges is what addresses are given of. The caller has s.mu.
func (s *subnet) ranges() []netip.Prefix {
	var ranges []netip.Prefix
	for p := range s.held {
		if s.isBlock(p) {
			ranges = append(ranges, p)
		}
	}
	return ranges
}

// giveBackAll returns every claim of this host in a subnet.
func (d *Driver) giveBackAll(ctx context.Context, s *subnet) error {
	var ours []netip.Prefix
	err := d.o.Store.View(ctx, func(tx datastore.Tx) error {
		ours = nil
		found, _ := d.read(tx, s)
		for p, host := range found {
			if host == d.o.Host {
				ours = append(ours, p)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = d.drop(ctx, s, ours)
	return err
}

// drop deletes claims, a few at a time, if they are this host's, and with its last of the network that it uses it. When it fails, ours are
// those that certainly are not deleted.
func (d *Driver) drop(ctx context.Context, s *subnet, gone []netip.Prefix) (ours []netip.Prefix, err error) {
	const atOnce = datastore.MaxKeys / 4 // each is listed, read and deleted
	for len(gone) > 0 {
		some := gone[:min(atOnce, len(gone))]
		err := d.o.Store.Update(ctx, func(tx datastore.Tx) error {
			found, others := d.read(tx, s)
			for _, p := range some {
				if found[p] != d.o.Host {
					continue
				}
				delete(found, p)
				if err := d.blocks(s).Delete(tx, p.String()); err != nil {
					return err
				}
			}
			if others || slices.Contains(slices.Collect(maps.Values(found)), d.o.Host) {
				return nil
			}
			return uses(d.o.Host).Delete(tx, s.network)
		})
		if datastore.IsUncertain(err) {
			return gone[len(some):], err
		}
		if err != nil {
			return gone, err
		}
		gone = gone[len(some):]
	}
	return nil, nil
}
