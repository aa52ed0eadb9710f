package block

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/ipam"
)

// What a host holds is kept in a store of its own, under the keys that the claims have in the one that hosts share: a daemon that starts
// while that is away gives addresses of what its predecessor held. A claim is kept after it is made and struck out before it is dropped,
// an address that is lent is kept before that: what is kept is never more than what is held.

// keep changes the record. The caller has the turn.
func (d *Driver) keep(ctx context.Context, s *subnet, change func(claims)) error {
	const atOnce = datastore.MaxKeys / 2
	if d.o.Kept == nil {
		return nil
	}
	was, err := d.recorded(ctx, s)
	if err != nil {
		return err
	}
	is := maps.Clone(was)
	change(is)
	for some := range slices.Chunk(was.changes(is), atOnce) {
		err := d.o.Kept.Update(ctx, func(tx datastore.Tx) error {
			var errs []error
			for _, p := range some {
				if host, stays := is[p]; stays {
					errs = append(errs, d.blocks(s).Put(tx, p.String(), ipam.Block{Prefix: p, Host: host}))
				} else {
					errs = append(errs, d.blocks(s).Delete(tx, p.String()))
				}
			}
			return errors.Join(errs...)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// changes are the claims in which one record differs from the next: what is lent first, then what is held, then what goes.
func (c claims) changes(next claims) []netip.Prefix {
	var lent, held, gone []netip.Prefix
	for p, host := range next {
		switch was, there := c[p]; {
		case there && was == host:
		case p.IsSingleIP():
			lent = append(lent, p)
		default:
			held = append(held, p)
		}
	}
	for p := range c {
		if _, stays := next[p]; !stays {
			gone = append(gone, p)
		}
	}
	return slices.Concat(lent, held, gone)
}

func (c claims) clear() { clear(c) }

// recorded is what is kept of a subnet.
func (d *Driver) recorded(ctx context.Context, s *subnet) (kept claims, err error) {
	err = d.o.Kept.View(ctx, func(tx datastore.Tx) error {
		kept, _ = d.read(tx, s)
		return nil
	})
	return kept, err
}

// recall begins with what this host held before.
func (d *Driver) recall(ctx context.Context, s *subnet) error {
	if d.o.Kept == nil {
		return d.ranger.SetRanges(s.id, nil)
	}
	kept, err := d.recorded(ctx, s)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err = d.takeOver(ctx, s, kept)
	s.known = false // the store may have more
	return err
}
