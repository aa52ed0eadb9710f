package block

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	"github.com/go-json-experiment/json"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/ipam"
)

// wish asks the holder of a block for an address of it. The holder answers in the same record, and with a grant claims the address for
// who asks in one Update. Who asked takes the record away.
type wish struct {
	Host    string // who asks
	Pool    ipam.PoolID
	Address netip.Addr // zero: any
	Granted netip.Addr
	Refused string
}

// wishes are what a host is asked for: its mailbox.
func wishes(host string) datastore.Table[wish] {
	return datastore.Table[wish]{Dir: datastore.Key("wish", host)}
}

// errWithdrawn says that who asked has gone away.
var errWithdrawn = errors.New("the wish was withdrawn")

// borrow asks the other holders, one after the other, for any address. The caller does not have the turn: two hosts may ask each other.
func (d *Driver) borrow(ctx context.Context, s *subnet, found claims) (netip.Addr, error) {
	asked := map[string]bool{d.o.Host: true, "": true}
	var silent error
	for p, host := range found {
		if asked[host] || !s.isBlock(p) {
			continue
		}
		asked[host] = true
		a, err := d.ask(ctx, s, host, p, netip.Addr{})
		switch {
		case err == nil:
			return a, nil
		case !errdefs.IsAlreadyExists(err):
			silent = errors.Join(silent, err)
		}
	}
	if silent != nil {
		return netip.Addr{}, silent
	}
	return netip.Addr{}, fmt.Errorf("%w: no address is left", errdefs.ErrResourceExhausted)
}

// ask asks a host for an address of its block; zero: any. AlreadyExists when it says no, Unavailable when it says nothing.
func (d *Driver) ask(ctx context.Context, s *subnet, holder string, around netip.Prefix, a netip.Addr) (netip.Addr, error) {
	name := make([]byte, 8)
	rand.Read(name) // never fails
	key := hex.EncodeToString(name)
	w := wish{Host: d.o.Host, Pool: s.id, Address: a}
	if err := d.o.Store.Update(ctx, func(tx datastore.Tx) error { return wishes(holder).Put(tx, key, w) }); err != nil {
		return netip.Addr{}, err
	}
	d.await(ctx, holder, key)
	var answer wish
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.o.Patience)
	defer cancel()
	err := d.o.Store.Update(end, func(tx datastore.Tx) (err error) {
		answer, err = wishes(holder).Get(tx, key)
		return errors.Join(err, wishes(holder).Delete(tx, key))
	})
	switch {
	case err != nil:
		return netip.Addr{}, err
	case answer.Refused != "":
		return netip.Addr{}, fmt.Errorf("%w: host %s has %s and says: %.200s", errdefs.ErrAlreadyExists, holder, around, answer.Refused)
	case !answer.Granted.IsValid():
		return netip.Addr{}, fmt.Errorf("%w: host %s has %s and does not answer; if it is dead, `sealane host rm %s` frees it",
			errdefs.ErrUnavailable, holder, around, holder)
	case a.IsValid() && answer.Granted != a, !s.all.Contains(answer.Granted):
		return netip.Addr{}, fmt.Errorf("%w: host %s answers with %s", errdefs.ErrInternal, holder, answer.Granted)
	}
	return answer.Granted, d.look(ctx, s)
}

// await returns when a wish has an answer or the other host's time is over.
func (d *Driver) await(ctx context.Context, holder, key string) {
	ctx, cancel := context.WithTimeout(ctx, d.o.Patience)
	defer cancel()
	for batch := range d.o.Store.Watch(ctx, wishes(holder).Dir) {
		var w wish
		if value, is := batch.Put[key]; is && json.Unmarshal(value, &w) == nil && (w.Refused != "" || w.Granted.IsValid()) {
			return
		}
	}
}

// Serve answers the wishes of other hosts until ctx ends, which is nil. A host that does not serve can lend nothing. retry tries to grant one,
// and once more when it is refused while addresses are on their way back to the pool and those are there.
func (d *Driver) Serve(ctx context.Context, retry func(ctx context.Context, try func() error) error) error {
	for batch, err := range d.o.Store.Watch(ctx, wishes(d.o.Host).Dir) {
		if err != nil {
			if errdefs.IsUnavailable(err) {
				continue // and the watch goes on
			}
			return fmt.Errorf("watch the wishes of other hosts: %w", err)
		}
		for name, value := range batch.Put {
			var w wish
			if json.Unmarshal(value, &w) != nil || w.Host == "" || w.Host == d.o.Host || w.Granted.IsValid() || w.Refused != "" {
				continue
			}
			d.answer(ctx, name, w, retry)
		}
	}
	return nil
}

// answer grants a wish or says why not. When the store does not take the answer, who asked runs out of patience.
func (d *Driver) answer(ctx context.Context, name string, w wish, retry func(context.Context, func() error) error) {
	ctx, cancel := context.WithTimeout(ctx, d.o.Patience)
	defer cancel()
	err := retry(ctx, func() error { return d.grant(ctx, name, w) })
	if err == nil || errors.Is(err, errWithdrawn) {
		return
	}
	_ = d.o.Store.Update(ctx, func(tx datastore.Tx) error {
		was, err := wishes(d.o.Host).Get(tx, name)
		if err != nil || was.Granted.IsValid() {
			return err
		}
		was.Refused = refusal
		return wishes(d.o.Host).Put(tx, name, was)
	})
}

// refusal is all that another host is told.
const refusal = "it is in use, or none is left"

// grant gives an address of ours to another host: taken from the pool first, so that it is nobody's here.
func (d *Driver) grant(ctx context.Context, name string, w wish) error {
	s := d.subnet(w.Pool)
	if s == nil {
		return fmt.Errorf("pool %s: %w", w.Pool, errdefs.ErrNotFound)
	}
	over, err := s.turn(ctx)
	if err != nil {
		return err
	}
	defer over()
	taken, err := d.o.Pool.RequestAddress(ctx, ipam.AddressRequest{Pool: s.id, Address: w.Address, Owner: lender})
	if err != nil {
		return err
	}
	a := taken.Prefix.Addr()
	if err = d.keep(ctx, s, func(kept claims) { kept[alone(a)] = w.Host }); err == nil {
		err = d.o.Store.Update(ctx, func(tx datastore.Tx) error { return d.write(tx, s, name, a) })
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && !s.lent[a] && !datastore.IsUncertain(err) { // else the next look tells
		_ = d.o.Pool.ReleaseAddress(ctx, s.id, a)
		return errors.Join(err, d.keep(ctx, s, func(kept claims) { delete(kept, alone(a)) }))
	}
	delete(s.held, alone(a))
	s.lent[a] = true
	return err
}

// write claims an address of ours for who asked, with the answer.
func (d *Driver) write(tx datastore.Tx, s *subnet, name string, a netip.Addr) error {
	w, err := wishes(d.o.Host).Get(tx, name)
	if err != nil {
		return errWithdrawn
	}
	if w.Granted == a {
		return nil // this Update's own earlier success
	}
	found, _ := d.read(tx, s)
	if around, holder := found.around(a); holder != d.o.Host && holder != "" { // nobody's: it was claimed alone, and given back
		return fmt.Errorf("%w: %s is host %s's", errdefs.ErrConflict, around, holder)
	}
	if err := d.mayClaim(tx, s); err != nil {
		return err
	}
	w.Granted = a
	return errors.Join(uses(w.Host).Put(tx, s.network, true), d.blocks(s).Put(tx, alone(a).String(), ipam.Block{Prefix: alone(a), Host: w.Host}),
		wishes(d.o.Host).Put(tx, name, w))
}
