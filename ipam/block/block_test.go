package block_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/storetest"
	"github.com/sealane/sealane/ipam"
	"github.com/sealane/sealane/ipam/block"
	"github.com/sealane/sealane/ipam/ipamtest"
	"github.com/sealane/sealane/ipam/pool"
	"github.com/sealane/sealane/netdriver"
)

// swapped makes the space that hosts share the default one, so that the kit's facts are shown on it. It does not count: how full a shared
// pool is no host can tell.
type swapped struct{ ipam.Driver }

func (s swapped) Capability(ctx context.Context) (ipam.Capability, error) {
	c, err := s.Driver.Capability(ctx)
	c.LocalSpace, c.GlobalSpace = c.GlobalSpace, c.LocalSpace
	return c, err
}

func (s swapped) RequestPool(ctx context.Context, r ipam.PoolRequest) (ipam.Pool, error) {
	if r.Space == "" {
		r.Space = pool.Global
	}
	return s.Driver.RequestPool(ctx, r)
}

// shared is the swapped driver for a kit whose predefined subnets of both spaces are alike.
func shared(t testing.TB) ipam.Driver {
	six := netip.MustParsePrefix("fd00:5ea::/32")
	bases := []pool.Base{{Net: netip.MustParsePrefix("10.64.0.0/10"), Bits: 24}, {Net: six, Bits: 64}}
	return swapped{newHost(t, newStore(t), "a", pool.Options{Global: bases}).Driver}
}

func TestDriver(t *testing.T) { ipamtest.Run(t, shared) }

func TestLocalSpace(t *testing.T) {
	ipamtest.Run(t, func(t testing.TB) ipam.Driver { return newHost(t, newStore(t), "a", pool.Options{}).Driver })
}

func newStore(t testing.TB) datastore.Store {
	s := datastore.NewMemory()
	t.Cleanup(func() { _ = s.Close() })
	for _, n := range []string{"a", "b", "bad", "c", "g", "0", "1", "2", "3", "4", "5", "6", "7"} {
		record(t, s, netdriver.Network{ID: "net/" + "x", Name: n}, n)
	}
	return s
}

func record(t testing.TB, s datastore.Store, n netdriver.Network, key string) {
	t.Helper()
	err := s.Update(context.Background(), func(tx datastore.Tx) error {
		return datastore.Table[netdriver.Network]{Dir: "net"}.Put(tx, key, n)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// host is a driver with a store that can be cut off.
type host struct {
	*block.Driver
	t     testing.TB
	link  *link
	store datastore.Store
	kept  datastore.Store
	id    string

	returning func() // what is on its way back comes back; nil: nothing is
}

func (h *host) retry(_ context.Context, try func() error) error {
	err := try()
	if err == nil || h.returning == nil {
		return err
	}
	h.returning()
	return try()
}

func newHost(t testing.TB, s datastore.Store, id string, o pool.Options) *host {
	t.Helper()
	p, err := pool.New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, kept := &link{Store: s}, datastore.NewMemory()
	d, err := block.New(context.Background(), block.Options{Pool: p, Store: l, Host: id, Kept: kept, Patience: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(context.Background(), func(tx datastore.Tx) error { return tx.Put(datastore.Key("host", id), []byte(`{}`)) })
	if err != nil {
		t.Fatal(err)
	}
	return &host{Driver: d, t: t, link: l, store: s, kept: kept, id: id}
}

// next is the host's daemon when it starts again.
func (h *host) next() *host {
	h.t.Helper()
	p, err := pool.New(pool.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	d, err := block.New(context.Background(), block.Options{Pool: p, Store: h.link, Host: h.id, Kept: h.kept, Patience: 2 * time.Second})
	if err != nil {
		h.t.Fatal(err)
	}
	return &host{Driver: d, t: h.t, link: h.link, store: h.store, kept: h.kept, id: h.id}
}

// serve answers the others until the test ends.
func (h *host) serve() *host {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, h.retry) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			h.t.Error(err)
		}
	})
	return h
}

// link is a store that can be away.
type link struct {
	datastore.Store
	mu      sync.Mutex
	away    bool
	deaf    bool // what is written is written, and the answer lost
	updates int
	views   int
}

var errAway = fmt.Errorf("%w: cut off", errdefs.ErrUnavailable)

func (l *link) cut(away bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = away
}

func (l *link) lose(answers bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deaf = answers
}

func (l *link) touches() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.updates + l.views
}

func (l *link) View(ctx context.Context, fn func(datastore.Tx) error) error {
	l.mu.Lock()
	away := l.away
	l.views++
	l.mu.Unlock()
	if away {
		return errAway
	}
	return l.Store.View(ctx, fn)
}

func (l *link) Update(ctx context.Context, fn func(datastore.Tx) error) error {
	l.mu.Lock()
	away, deaf := l.away, l.deaf
	l.updates++
	l.mu.Unlock()
	if away {
		return errAway
	}
	if err := l.Store.Update(ctx, fn); err != nil || !deaf {
		return err
	}
	return &datastore.Uncertain{Err: errAway}
}

// use opens the network's pool on a host, as it does before its first endpoint there.
func (h *host) use(subnet, sub string) ipam.PoolID {
	h.t.Helper()
	r := ipam.PoolRequest{Space: pool.Global, Subnet: netip.MustParsePrefix(subnet), Owner: "net/a"}
	if sub != "" {
		r.Range = netip.MustParsePrefix(sub)
	}
	p, err := h.RequestPool(h.t.Context(), r)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.RequestAddress(h.t.Context(), ipam.AddressRequest{Pool: p.ID, Address: p.Subnet.Addr().Next(), Gateway: true, Owner: "gateway/a"}); err != nil {
		h.t.Fatal(err)
	}
	return p.ID
}

func (h *host) request(id ipam.PoolID, a string) (netip.Addr, error) {
	r := ipam.AddressRequest{Pool: id, Owner: "ep/" + h.id}
	if a != "" {
		r.Address = netip.MustParseAddr(a)
	}
	got, err := h.RequestAddress(h.t.Context(), r)
	return got.Prefix.Addr(), err
}

func (h *host) must(id ipam.PoolID, a string) netip.Addr {
	h.t.Helper()
	got, err := h.request(id, a)
	if err != nil {
		h.t.Fatalf("host %s: %v", h.id, err)
	}
	return got
}

func (h *host) release(id ipam.PoolID, all ...netip.Addr) {
	h.t.Helper()
	for _, a := range all {
		if err := h.ReleaseAddress(h.t.Context(), id, a); err != nil {
			h.t.Fatal(err)
		}
	}
}

// claims is the directory of a network's blocks as text.
func claims(t testing.TB, s datastore.Store) string {
	t.Helper()
	var lines []string
	err := s.View(context.Background(), func(tx datastore.Tx) error {
		lines = nil
		for b, err := range (datastore.Table[ipam.Block]{Dir: "block/a"}).All(tx) {
			if err != nil {
				return err
			}
			lines = append(lines, b.Prefix.String()+"="+b.Host)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func want(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestHostsClaimBlocks(t *testing.T) {
	s := newStore(t)
	a, b := newHost(t, s, "a", pool.Options{}), newHost(t, s, "b", pool.Options{})
	on := a.use("10.0.0.0/24", "")
	b.use("10.0.0.0/24", "")
	want(t, "nothing is claimed before an address is asked for", claims(t, s), "")
	want(t, "a's first", a.must(on, "").String(), "10.0.0.2")
	want(t, "b's first", b.must(on, "").String(), "10.0.0.16")
	want(t, "claims", claims(t, s), "10.0.0.0/28=a 10.0.0.16/28=b")
	before := a.link.touches()
	var given []netip.Addr
	for range 13 {
		given = append(given, a.must(on, ""))
	}
	if n := a.link.touches() - before; n != 0 {
		t.Errorf("%d touches of the store inside a block", n)
	}
	want(t, "the next block", a.must(on, "").String(), "10.0.0.32")
	if n := a.link.touches() - before; n != 1 {
		t.Errorf("a block is claimed with %d touches", n)
	}
	// What is not in use goes back but for one spare block; the last goes with the pool.
	a.release(on, netip.MustParseAddr("10.0.0.32"))
	want(t, "a spare is kept", claims(t, s), "10.0.0.0/28=a 10.0.0.16/28=b 10.0.0.32/28=a")
	a.release(on, append(given, netip.MustParseAddr("10.0.0.2"))...)
	if got := claims(t, s); strings.Count(got, "=a") != 1 {
		t.Errorf("all released: %s", got)
	}
	for range 2 {
		if err := a.ReleasePool(t.Context(), on); err != nil {
			t.Fatal(err)
		}
	}
	want(t, "a let go of the network", claims(t, s), "10.0.0.16/28=b")
	if _, err := a.request(on, ""); !errdefs.IsNotFound(err) {
		t.Errorf("an address of a released pool: %v", err)
	}
}

// A block that may have gone back is nobody's to give of until the store is read again.
func TestLostAnswerOfGivingBack(t *testing.T) {
	s := newStore(t)
	a, b := newHost(t, s, "a", pool.Options{}), newHost(t, s, "b", pool.Options{})
	on := a.use("10.0.0.0/24", "")
	b.use("10.0.0.0/24", "")
	var given []netip.Addr
	for range 15 { // a block, and one of the next
		given = append(given, a.must(on, ""))
	}
	a.link.lose(true)
	a.release(on, given...)
	a.link.lose(false)
	want(t, "one block went back", strconv.Itoa(strings.Count(claims(t, s), "=a")), "1")
	theirs := b.must(on, "")
	for range 20 {
		if ours := a.must(on, ""); ours == theirs {
			t.Fatalf("%s is given twice", ours)
		}
	}
	if err := a.ReleasePool(t.Context(), on); err != nil {
		t.Fatal(err)
	}
	want(t, "claims", claims(t, s), netip.PrefixFrom(theirs, 28).Masked().String()+"=b")
}

// A block that may have been claimed goes with the pool.
func TestLostAnswerOfClaiming(t *testing.T) {
	s := newStore(t)
	a := newHost(t, s, "a", pool.Options{})
	on := a.use("10.0.0.0/24", "")
	if err := a.ReleaseAddress(t.Context(), on, a.must(on, "10.0.0.200")); err != nil { // now a knows that it holds nothing
		t.Fatal(err)
	}
	a.link.lose(true)
	if got, err := a.request(on, ""); !errdefs.IsUnavailable(err) {
		t.Fatalf("%s, %v", got, err)
	}
	a.link.lose(false)
	want(t, "claimed all the same", claims(t, s), "10.0.0.0/28=a")
	if err := a.ReleasePool(t.Context(), on); err != nil {
		t.Fatal(err)
	}
	want(t, "claims", claims(t, s), "")
}

// An address that its host has let go of and that is not free yet is waited for, in a block, claimed alone, and lent.
func TestAddressesOnTheirWayBack(t *testing.T) {
	s := newStore(t)
	a, b, c := newHost(t, s, "a", pool.Options{}), newHost(t, s, "b", pool.Options{}), newHost(t, s, "c", pool.Options{})
	var on ipam.PoolID
	for _, h := range []*host{a, b, c} {
		on = h.use("10.0.0.0/24", "10.0.0.128/25")
	}
	comesBack := func(from *host, address string) {
		from.returning = func() { from.release(on, netip.MustParseAddr(address)) }
		from.serve()
	}
	a.must(on, "10.0.0.130")
	a.must(on, "")
	b.must(on, "10.0.0.9")
	comesBack(a, "10.0.0.130")
	comesBack(b, "10.0.0.9")
	b.must(on, "10.0.0.130")
	a.must(on, "10.0.0.9")
	want(t, "claims", claims(t, s), "10.0.0.128/29=a 10.0.0.130/32=b 10.0.0.9/32=a")
	b.returning = func() { b.release(on, netip.MustParseAddr("10.0.0.130")) }
	c.must(on, "10.0.0.130") // b, to whom a lent it, gives it back to a
	want(t, "claims", claims(t, s), "10.0.0.128/29=a 10.0.0.130/32=c 10.0.0.9/32=a")
	a.returning = nil
	if _, err := a.request(on, "10.0.0.130"); !errdefs.IsUnavailable(err) {
		t.Errorf("of a host that does not answer: %v", err)
	}
}

// wanted is a pool whose addresses somebody waits for.
type wanted struct {
	*pool.Driver
	released func() // called when one is
}

func (w *wanted) ReleaseAddress(ctx context.Context, id ipam.PoolID, a netip.Addr) error {
	err := w.Driver.ReleaseAddress(ctx, id, a)
	if then := w.released; then != nil {
		w.released = nil
		then()
	}
	return err
}

// An address that is given again as soon as it is free is this host's still when its release is over.
func TestAddressGivenAgainAtOnce(t *testing.T) {
	s := newStore(t)
	p, err := pool.New(pool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &wanted{Driver: p}
	a, b := newHost(t, s, "a", pool.Options{}), newHost(t, s, "b", pool.Options{})
	if a.Driver, err = block.New(t.Context(), block.Options{Pool: w, Store: a.link, Host: "a", Kept: a.kept}); err != nil {
		t.Fatal(err)
	}
	a.serve()
	on := a.use("10.0.0.0/24", "10.0.0.128/25")
	b.use("10.0.0.0/24", "10.0.0.128/25")
	alone := a.must(on, "10.0.0.9")
	w.released = func() { a.must(on, alone.String()) }
	a.release(on, alone)
	want(t, "claims", claims(t, s), "10.0.0.9/32=a")
	if got, err := b.request(on, alone.String()); !errdefs.IsAlreadyExists(err) {
		t.Errorf("both hosts have %s, %v", got, err)
	}
}

func TestStaticAddresses(t *testing.T) {
	s := newStore(t)
	a, b := newHost(t, s, "a", pool.Options{}).serve(), newHost(t, s, "b", pool.Options{}).serve()
	on := a.use("10.0.0.0/24", "10.0.0.128/25")
	b.use("10.0.0.0/24", "10.0.0.128/25")
	a.must(on, "")
	want(t, "blocks are cut from the range", claims(t, s), "10.0.0.128/29=a")
	b.must(on, "10.0.0.9")
	want(t, "outside the range: claimed alone", claims(t, s), "10.0.0.128/29=a 10.0.0.9/32=b")
	if _, err := a.request(on, "10.0.0.9"); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "host b") {
		t.Errorf("b's address: %v", err)
	}
	before := a.link.touches()
	a.must(on, "10.0.0.130")
	if n := a.link.touches() - before; n != 0 {
		t.Errorf("inside an own block: %d touches", n)
	}
	b.must(on, "10.0.0.133") // asked of a, who serves
	want(t, "inside a's block", claims(t, s), "10.0.0.128/29=a 10.0.0.133/32=b 10.0.0.9/32=b")
	if _, err := b.request(on, "10.0.0.130"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("in use by a: %v", err)
	}
	if _, err := a.request(on, "10.0.0.133"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("lent by a: %v", err)
	}
	var all []netip.Addr
	for range 5 {
		all = append(all, a.must(on, ""))
	}
	if slices.Contains(all, netip.MustParseAddr("10.0.0.133")) {
		t.Errorf("a gives what it lent: %v", all)
	}
	b.release(on, netip.MustParseAddr("10.0.0.133"), netip.MustParseAddr("10.0.0.9"))
	if got := claims(t, s); strings.Contains(got, "=b") {
		t.Errorf("claimed alone, not in use: %s", got)
	}
	a.must(on, "10.0.0.133")                // back
	c := newHost(t, s, "c", pool.Options{}) // which does not serve
	c.use("10.0.0.0/24", "10.0.0.128/25")
	c.must(on, "")
	if _, err := a.request(on, "10.0.0.140"); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "host rm c") {
		t.Errorf("inside the block of a host that does not answer: %v", err)
	}
	if left := storetest.Keys(t, s, "wish/a", "wish/b", "wish/c"); len(left) > 0 {
		t.Errorf("wishes left over: %v", left)
	}
}

// Every address of a subnet is given to somebody, and none twice, though the blocks run short.
func TestBorrowing(t *testing.T) {
	s := newStore(t)
	hosts := []*host{newHost(t, s, "a", pool.Options{}).serve(), newHost(t, s, "b", pool.Options{}).serve(), newHost(t, s, "c", pool.Options{}).serve()}
	var on ipam.PoolID
	for _, h := range hosts {
		on = h.use("10.0.0.0/28", "")
	}
	var mu sync.Mutex
	holder := map[netip.Addr]string{}
	var all sync.WaitGroup
	for _, h := range hosts {
		all.Go(func() {
			for {
				a, err := h.request(on, "")
				if errdefs.IsResourceExhausted(err) {
					return
				}
				if err != nil {
					t.Errorf("host %s: %v", h.id, err)
					return
				}
				mu.Lock()
				if other := holder[a]; other != "" {
					t.Errorf("%s is given to %s and %s", a, other, h.id)
				}
				holder[a] = h.id
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(holder) != 13 { // 16 less network, broadcast and gateway
		t.Errorf("%d addresses were given, want 13: %v", len(holder), claims(t, s))
	}
	for a, id := range holder {
		for _, h := range hosts {
			if h.id == id {
				h.release(on, a)
			}
		}
	}
	for _, h := range hosts {
		if err := h.ReleasePool(t.Context(), on); err != nil {
			t.Error(err)
		}
	}
	if left := storetest.Keys(t, s, "block/a", "hostnet/a", "hostnet/b", "hostnet/c", "wish/a", "wish/b", "wish/c"); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestStoreAway(t *testing.T) {
	s := newStore(t)
	a := newHost(t, s, "a", pool.Options{})
	on := a.use("10.0.0.0/24", "")
	a.must(on, "")
	a.link.cut(true)
	for range 13 { // the rest of the block
		a.must(on, "")
	}
	a.release(on, netip.MustParseAddr("10.0.0.5"))
	want(t, "named inside the block", a.must(on, "10.0.0.5").String(), "10.0.0.5")
	for _, foreign := range []string{"", "10.0.0.77"} {
		if _, err := a.request(on, foreign); !errdefs.IsUnavailable(err) {
			t.Errorf("%q with the store away: %v", foreign, err)
		}
	}
	if err := a.ReleasePool(t.Context(), on); !errdefs.IsUnavailable(err) {
		t.Errorf("release with the store away: %v", err)
	}
	a.link.cut(false)
	if err := a.ReleasePool(t.Context(), on); err != nil {
		t.Error(err)
	}
	want(t, "released later", claims(t, s), "")
}

// A daemon that starts while the store is away goes on with what its predecessor held, and gives nothing that this had lent or given back.
func TestStartWithStoreAway(t *testing.T) {
	s := newStore(t)
	a, b := newHost(t, s, "a", pool.Options{}), newHost(t, s, "b", pool.Options{})
	on := a.use("10.0.0.0/27", "") // blocks of 4: 8 of them
	b.use("10.0.0.0/27", "")
	a.serve()
	first := a.must(on, "") // 10.0.0.2, of 10.0.0.0/30
	single := a.must(on, "10.0.0.29")
	lent := b.must(on, "10.0.0.3")
	var more []netip.Addr
	for range 2 { // of the next block
		more = append(more, a.must(on, ""))
	}
	want(t, "before", claims(t, s), "10.0.0.0/30=a 10.0.0.29/32=a 10.0.0.3/32=b 10.0.0.4/30=a")
	a.link.cut(true)
	again := a.next()
	again.use("10.0.0.0/27", "")
	for _, held := range append(more, first, single) {
		again.must(on, held.String())
	}
	if _, err := again.request(on, lent.String()); !errdefs.IsAlreadyExists(err) && !errdefs.IsUnavailable(err) {
		t.Errorf("what is lent: %v", err)
	}
	var rest []string
	for {
		got, err := again.request(on, "")
		if errdefs.IsUnavailable(err) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		rest = append(rest, got.String())
	}
	want(t, "the rest of what is held", strings.Join(rest, " "), "10.0.0.6 10.0.0.7")
	a.link.cut(false)
	for _, p := range append(more, first, single, netip.MustParseAddr("10.0.0.6"), netip.MustParseAddr("10.0.0.7")) {
		again.release(on, p)
	}
	a.link.cut(true)
	third := a.next() // knows of one block, which was kept as a spare
	third.use("10.0.0.0/27", "")
	third.must(on, "")
	if _, err := third.request(on, single.String()); !errdefs.IsUnavailable(err) {
		t.Errorf("given back: %v", err)
	}
	a.link.cut(false)
	if err := third.ReleasePool(t.Context(), on); err != nil {
		t.Error(err)
	}
	if left := storetest.Keys(t, a.kept, "block/a"); len(left) > 0 {
		t.Errorf("kept of a pool that was released: %v", left)
	}
}

// A daemon that starts again finds its blocks, and what replays name is given again.
func TestAdoption(t *testing.T) {
	s := newStore(t)
	a := newHost(t, s, "a", pool.Options{})
	on := a.use("10.0.0.0/24", "")
	first := a.must(on, "")
	single := a.must(on, "10.0.0.200")
	again := newHost(t, s, "a", pool.Options{})
	again.use("10.0.0.0/24", "")
	again.must(on, first.String())
	again.must(on, single.String())
	want(t, "the next of the same block", again.must(on, "").String(), "10.0.0.3")
	want(t, "claims", claims(t, s), "10.0.0.0/28=a 10.0.0.200/32=a")
}

func TestGivenUp(t *testing.T) {
	s := newStore(t)
	a, b := newHost(t, s, "a", pool.Options{}), newHost(t, s, "b", pool.Options{})
	on := a.use("10.0.0.0/24", "")
	b.use("10.0.0.0/24", "")
	first, second := a.must(on, ""), a.must(on, "")
	err := s.Update(t.Context(), func(tx datastore.Tx) error { // as `host rm a` does
		return errors.Join(tx.Delete("host/a"), tx.Delete(datastore.Key("block", "a", "10.0.0.0/28")))
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 12 {
		a.must(on, "") // it has not heard yet, and nobody is told of what it does
	}
	if _, err := a.request(on, ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a claim of a host that was given up: %v", err)
	}
	b.must(on, first.String())
	if err := a.Confirm(t.Context(), on, second); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("confirmed for a host that was given up: %v", err)
	}
	if err := s.Update(t.Context(), func(tx datastore.Tx) error { return tx.Put("host/a", []byte("{}")) }); err != nil {
		t.Fatal(err)
	}
	if err := a.Confirm(t.Context(), on, first); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "host b") {
		t.Errorf("given away: %v", err)
	}
	if err := a.Confirm(t.Context(), on, second); err != nil {
		t.Errorf("not given away: %v", err)
	}
	want(t, "claims", claims(t, s), "10.0.0.2/32=b 10.0.0.3/32=a")
}

func TestDeletedNetwork(t *testing.T) {
	s := newStore(t)
	a := newHost(t, s, "a", pool.Options{})
	on := a.use("10.0.0.0/24", "")
	record(t, s, netdriver.Network{Name: "blue", Deleting: true}, "a")
	if _, err := a.request(on, ""); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "blue") {
		t.Errorf("network on its way out: %v", err)
	}
	if err := s.Update(t.Context(), func(tx datastore.Tx) error { return tx.Delete("net/a") }); err != nil {
		t.Fatal(err)
	}
	if _, err := a.request(on, ""); !errdefs.IsNotFound(err) {
		t.Errorf("network gone: %v", err)
	}
}
