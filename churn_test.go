package sealane_test

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/sealane/sealane"
	"github.com/sealane/sealane/endpoint"
	"github.com/sealane/sealane/internal/nstest"
	"github.com/sealane/sealane/sandbox"
	"go.etcd.io/bbolt"
)

var cycles = flag.Int("cycles", 500, "create and delete cycles of TestChurnLeavesNothing")

// churn is a world in which sandboxes come and go while calls are cancelled and the Controller is closed and opened again.
type churn struct {
	*world
	gate   sync.RWMutex // held for reading during a call, for writing while there is no Controller
	epoch  context.Context
	end    context.CancelFunc
	opened chan struct{} // closed when the next Controller is there
	given  []*bound      // one a worker: namespaces that live on

	joined, cancelled, touched atomic.Int64
}

// call makes one call on the Controller of the moment. Some are cancelled soon; those that are under way when it closes are too.
func (c *churn) call(r *rand.Rand, fn func(ctx context.Context) error) error {
	c.gate.RLock()
	for c.epoch.Err() != nil {
		opened := c.opened
		c.gate.RUnlock()
		<-opened
		c.gate.RLock()
	}
	defer c.gate.RUnlock()
	ctx, cancel := context.WithCancel(c.epoch)
	defer cancel()
	if r != nil && r.IntN(5) == 0 {
		ctx, cancel = context.WithTimeout(c.epoch, time.Duration(r.IntN(3000))*time.Microsecond)
		defer cancel()
	}
	if err := fn(ctx); err != nil {
		if ctx.Err() != nil {
			c.cancelled.Add(1)
			return errCancelled
		}
		return err
	}
	return nil
}

var errCancelled = errors.New("cancelled")

// restart closes the Controller under the calls and opens the next.
func (c *churn) restart() {
	c.end()
	c.gate.Lock()
	defer c.gate.Unlock()
	c.world.restart()
	close(c.opened)
	c.open()
}

func (c *churn) open() {
	c.epoch, c.end = context.WithCancel(context.Background())
	c.opened = make(chan struct{})
}

// cycle makes a sandbox with its endpoints, uses it and deletes it.
func (c *churn) cycle(r *rand.Rand, worker int) {
	raw := make([]byte, 64)
	for i := range raw {
		raw[i] = byte(r.Uint32())
	}
	spec := sandbox.Spec{ID: sandbox.ID(hex.EncodeToString(raw[:32])), Name: fmt.Sprintf("s-%x", raw[:8])}
	if r.IntN(3) == 0 {
		spec.Namespace.Path = c.given[worker].path
	}
	var box sandbox.Sandbox
	err := c.call(r, func(ctx context.Context) (err error) { box, err = c.CreateSandbox(ctx, spec); return err })
	for _, on := range []string{"blue", "red"}[:1+r.IntN(2)] {
		if err != nil {
			break
		}
		err = c.attach(r, spec.ID, on, box)
	}
	if err != nil && !errors.Is(err, errCancelled) {
		c.t.Errorf("%s: %v", spec.Name, err)
	}
	c.remove(spec.ID)
}

func (c *churn) attach(r *rand.Rand, id sandbox.ID, on string, box sandbox.Sandbox) error {
	s := endpoint.Spec{Name: string(id)[:12], For: id}
	if r.IntN(2) == 0 {
		s.Publish = ports(c.t, "80", "53/udp")
	}
	var e endpoint.Endpoint
	err := c.call(r, func(ctx context.Context) error {
		n, err := c.Network(ctx, on)
		if err == nil {
			e, err = n.CreateEndpoint(ctx, s)
		}
		return err
	})
	if err != nil {
		return err
	}
	again := func(do func(context.Context, endpoint.Endpoint) error) error {
		return c.call(r, func(ctx context.Context) error { // the handle may be a closed Controller's
			n, err := c.Network(ctx, on)
			if err != nil {
				return err
			}
			if e, err = n.Endpoint(ctx, string(e.ID())); err != nil {
				return err
			}
			return do(ctx, e)
		})
	}
	err = again(func(ctx context.Context, e endpoint.Endpoint) error { return e.Join(ctx, box) })
	if err != nil {
		return err
	}
	c.joined.Add(1)
	if r.IntN(4) == 0 {
		c.touch(e)
	}
	if r.IntN(4) == 0 {
		return again(func(ctx context.Context, e endpoint.Endpoint) error { return e.Leave(ctx) })
	}
	return nil
}

// touch leaves flows in connection tracking.
func (c *churn) touch(e endpoint.Endpoint) {
	var info endpoint.Info
	if err := c.call(nil, func(ctx context.Context) (err error) { info, err = e.Info(ctx); return err }); err != nil {
		return // deleted, or asked of a Controller that closed
	}
	for _, p := range info.Addresses {
		if conn, err := c.host.Dial("udp", netip.AddrPortFrom(p.Addr(), 9).String()); err == nil {
			conn.Write([]byte("x"))
			conn.Close()
			c.touched.Add(1)
		}
	}
}

// remove deletes a sandbox until it is gone.
func (c *churn) remove(id sandbox.ID) {
	for range 100 {
		err := c.call(nil, func(ctx context.Context) error {
			s, err := c.Sandbox(ctx, string(id))
			if err == nil {
				err = s.Delete(ctx)
			}
			return err
		})
		switch {
		case err == nil, errdefs.IsNotFound(err):
			return
		case !errors.Is(err, errCancelled):
			c.t.Errorf("delete %s: %v", id, err)
			return
		}
	}
	c.t.Errorf("%s cannot be deleted", id)
}

// records are the keys of both stores, read from their files. Nothing has them open.
func (c *churn) records() []string {
	c.t.Helper()
	var keys []string
	for _, file := range []string{"run.db", "root.db"} {
		db, err := bbolt.Open(filepath.Join(c.dir, file), 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
		if err != nil {
			c.t.Fatal(err)
		}
		err = db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
				return b.ForEach(func(k, _ []byte) error {
					keys = append(keys, fmt.Sprintf("%s %s %q", file, name, k))
					return nil
				})
			})
		})
		if err := errors.Join(err, db.Close()); err != nil {
			c.t.Fatal(err)
		}
	}
	return keys
}

// sizes are those of the files in the run directory.
func (c *churn) sizes() map[string]int64 {
	c.t.Helper()
	sizes := map[string]int64{}
	err := filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sizes[path] = info.Size()
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return sizes
}

// run does n cycles with 8 workers, and restarts in between.
func (c *churn) run(n, restarts int) {
	work := make(chan int)
	var wg sync.WaitGroup
	for worker := range c.given {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), uint64(n)))
			for range work {
				c.cycle(r, worker)
			}
		})
	}
	for i := range n {
		work <- i
		if restarts > 0 && i%(n/restarts) == n/restarts/2 {
			c.restart()
		}
	}
	close(work)
	wg.Wait()
}

// rested is what the world contains when nothing is under way.
func (c *churn) rested() (all []string, goroutines, fds int) {
	c.t.Helper()
	c.rest()
	all = c.everything()
	for _, b := range c.given {
		out, err := exec.Command("nsenter", "--net="+b.path, "ip", "-o", "link").Output()
		if err != nil {
			c.t.Error(err)
		}
		for l := range strings.Lines(string(out)) {
			all = append(all, "given "+strings.Fields(l)[1])
		}
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		flows, err := c.host.Try("conntrack", "-L", "-f", family)
		if err != nil {
			c.t.Error(err, flows)
		}
		for l := range strings.Lines(flows) {
			if strings.Contains(l, "=10.") || strings.Contains(l, "=fd00:") {
				all = append(all, "flow "+l)
			}
		}
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		c.t.Error(err)
	}
	return all, runtime.NumGoroutine(), len(open)
}

// Sandboxes come and go by the hundred, eight at a time, in namespaces of ours and of others that live on, with published ports and flows,
// while calls are cancelled and the Controller is closed and opened: then nothing is left of them anywhere.
func TestChurnLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.network(sealane.NetworkSpec{Name: "blue", IPv6: true, IPAM: subnets("10.1.0.0/16", "fd00:1::/64")})
	w.network(sealane.NetworkSpec{Name: "red", IPAM: subnets("10.2.0.0/16")})
	c := &churn{world: w}
	c.open()
	defer func() { c.end() }()
	for range 8 {
		c.given = append(c.given, newBound(t))
	}
	c.run(*cycles/10, 1) // what grows once: tables, files, pools of the runtime
	before, goroutines, fds := c.rested()
	c.stop()
	keys, sizes := c.records(), c.sizes()
	c.start()
	began := time.Now()
	c.run(*cycles, *cycles/25)
	took := time.Since(began)
	var after []string
	var goroutinesNow, fdsNow int
	nstest.Eventually(t, "nothing is left", func() bool {
		after, goroutinesNow, fdsNow = c.rested()
		return slices.Equal(before, after) && goroutinesNow <= goroutines && fdsNow <= fds
	})
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("left behind (-before +after):\n%s", d)
	}
	c.stop()
	if d := cmp.Diff(keys, c.records()); d != "" {
		t.Errorf("records left behind (-before +after):\n%s", d)
	}
	if d := cmp.Diff(sizes, c.sizes()); d != "" {
		t.Errorf("files (-before +after):\n%s", d)
	}
	c.start()
	t.Logf("%d cycles and %d restarts in %v: %d joined, %d calls cancelled, %d flows; goroutines %d, then %d; descriptors %d, then %d",
		*cycles, *cycles/25, took.Round(time.Millisecond), c.joined.Load(), c.cancelled.Load(), c.touched.Load(), goroutines, goroutinesNow, fds, fdsNow)
	if c.joined.Load() < int64(*cycles)/4 || c.cancelled.Load() == 0 || c.touched.Load() == 0 {
		t.Error("too little happened to show anything")
	}
}
