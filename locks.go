package sealane

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/semaphore"
)

// everyone is the weight of an exclusive hold: more than all shared ones together.
const everyone = 1 << 30

// locks are reader-writer locks by name, kept only while somebody holds or awaits them. Waiting ends with the context, and those who
// wait are served in order.
type locks struct {
	mu   sync.Mutex // guards held and the fields of its entries
	held map[string]*lock
}

type lock struct {
	users   int // holders and waiters: the entry goes with the last
	calling int // holders inside a driver that acts
	gate    *semaphore.Weighted
}

// exclusive waits until nobody else holds name. While a driver that acts is being called about name it answers Conflict at once: the
// caller may be that driver, calling back about its own subject, and would wait for itself.
func (l *locks) exclusive(ctx context.Context, name string) (unlock func(), err error) {
	return l.acquire(ctx, name, everyone)
}

// shared waits until nobody holds name exclusively.
func (l *locks) shared(ctx context.Context, name string) (unlock func(), err error) {
	return l.acquire(ctx, name, 1)
}

// try is exclusive that does not wait: false when somebody holds name.
func (l *locks) try(name string) (unlock func(), free bool) {
	k, err := l.enter(name, true)
	if err != nil {
		return nil, false
	}
	if !k.gate.TryAcquire(everyone) {
		l.leave(name, k)
		return nil, false
	}
	return l.release(name, k, everyone), true
}

func (l *locks) acquire(ctx context.Context, name string, weight int64) (unlock func(), err error) {
	k, err := l.enter(name, weight == everyone)
	if err != nil {
		return nil, err
	}
	if err := k.gate.Acquire(ctx, weight); err != nil {
		l.leave(name, k)
		return nil, fmt.Errorf("%s: wait for other calls: %w", name, context.Cause(ctx))
	}
	return l.release(name, k, weight), nil
}

// enter counts a user of name in.
func (l *locks) enter(name string, exclusive bool) (*lock, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	k := l.held[name]
	if k == nil {
		k = &lock{gate: semaphore.NewWeighted(everyone)}
		l.held[name] = k
	}
	if exclusive && k.calling > 0 {
		return nil, fmt.Errorf("%s: %w: a driver is being called about it; try again when that is done", name, errdefs.ErrConflict)
	}
	k.users++
	return k, nil
}

func (l *locks) release(name string, k *lock, weight int64) (unlock func()) {
	return sync.OnceFunc(func() {
		k.gate.Release(weight)
		l.leave(name, k)
	})
}

func (l *locks) leave(name string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, name)
	}
}

// calling marks the held names as being in a driver's hands until done is called.
func (l *locks) calling(names ...string) (done func()) {
	l.count(names, 1)
	return func() { l.count(names, -1) }
}

func (l *locks) count(names []string, by int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		if k := l.held[name]; k != nil {
			k.calling += by
		}
	}
}
