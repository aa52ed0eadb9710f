package sealane

import (
	"context"
	"sync"
)

// lookout has those who want to see what the host contains look together: an observation costs with all that is there, and after a start
// beside plugins, or when somebody deleted a bridge, hundreds want one at once. Who asks is given one that begins after that.
type lookout struct {
	looking sync.Mutex // held by who looks
	mu      sync.Mutex // guards next
	next    *look      // that has not begun; nil: nobody wants one
}

type look struct {
	over chan struct{} // closed when what is below is there
	seen observation
	err  error
}

// share is what look sees, or what somebody else's look does that begins after this call. Nobody changes it but for spaces, which are each
// caller's own.
func (l *lookout) share(ctx context.Context, see func(context.Context) (observation, error)) (*observation, error) {
	l.mu.Lock()
	mine, first := l.next, l.next == nil
	if first {
		mine = &look{over: make(chan struct{})}
		l.next = mine
	}
	l.mu.Unlock()
	if first {
		l.looking.Lock()
		l.mu.Lock()
		l.next = nil // who comes from now on is too late for this one
		l.mu.Unlock()
		mine.seen, mine.err = see(context.WithoutCancel(ctx)) // for the others too
		l.looking.Unlock()
		close(mine.over)
	}
	select {
	case <-mine.over:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if mine.err != nil {
		return nil, mine.err
	}
	seen := mine.seen
	return &seen, nil
}
