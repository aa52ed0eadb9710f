package remote

import (
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// breaker keeps callers from waiting, one after the other, for a plugin that does not answer: after a call that got no reply it refuses
// calls for a while, then lets one through to find out.
type breaker struct {
	mu     sync.Mutex // guards what is below
	failed int        // calls without a reply in a row
	until  time.Time  // calls are refused before
	asking bool       // one is finding out
	why    error
}

// The pause doubles from shortest to longest.
const (
	shortest = 500 * time.Millisecond
	longest  = 10 * time.Second
)

// enter says whether a call may be made.
func (b *breaker) enter(now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == 0 {
		return nil
	}
	if now.Before(b.until) || b.asking {
		return fmt.Errorf("%w: it did not answer and is asked again later: %w", errdefs.ErrUnavailable, b.why)
	}
	b.asking = true
	return nil
}

// answered closes the breaker: the plugin replies, whatever it says.
func (b *breaker) answered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed, b.asking, b.why = 0, false, nil
}

// silent opens it.
func (b *breaker) silent(now time.Time, why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.until = now.Add(min(shortest<<min(b.failed, 10), longest))
	b.failed++
	b.asking, b.why = false, why
}

// givenUp is the end of a call whose caller did not wait: nothing was learnt.
func (b *breaker) givenUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asking = false
}
