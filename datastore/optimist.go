package datastore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
)

// An Attempt is one run of the function of a View or an Update against a store with other writers. It is used by one goroutine. Versions
// grow with every write; 0 is that of a key that is absent and of a directory in which there is nothing.
type Attempt interface {
	// Get reads a key.
	Get(ctx context.Context, key string) (value []byte, version uint64, err error)

	// List reads a directory, sorted by name, with its version, which every transaction moves that writes in it.
	List(ctx context.Context, dir string) (entries []Entry, version uint64, err error)

	// Valid says whether there was a moment, not before the reads, at which all of them were so.
	Valid(ctx context.Context, reads []Read) (bool, error)

	// Commit makes all changes if all reads are still so at that moment, else none; ok says which.
	Commit(ctx context.Context, reads []Read, changes Changes) (ok bool, err error)
}

// Entry is a record in a directory.
type Entry struct {
	Name  string
	Value []byte
}

// Read is a key or a directory, as an Attempt saw it.
type Read struct {
	Name    string
	Dir     bool
	Version uint64
}

// Write is a key with its new value; nil deletes it.
type Write struct {
	Key   string
	Value []byte
}

// Changes is what a transaction does.
type Changes struct {
	Writes  []Write  // each key once
	Touched []string // directories in which is written, whose version must move
	Emptied []string // directories that were read and in which nothing is then, some of Touched among them: they need no version any more
}

// ErrOutdated is what an Attempt returns that can read no more of the state that it began with. The function is run again.
var ErrOutdated = errors.New("the state that was read is gone")

// Optimist is View and Update of a store whose other writers are elsewhere: fn runs without any lock, what it read is remembered and must
// still be so when what it wrote is committed. Keys that seem not to change are not asked for at the first try of an Update: what they were
// is taken for what they are, and leads to nothing but a commit, which checks it. It is safe for concurrent use.
type Optimist struct {
	Begin func(readOnly bool) Attempt
	// Closed, unless it is nil, ends all calls with FailedPrecondition from when it is closed.
	Closed <-chan struct{}
	// Pause is the longest wait after a first conflict, doubled with each that follows, up to 100 times; 0: 50 µs. It should be about what a
	// commit takes.
	Pause time.Duration

	steady recollection
}

// View is Store.View.
func (o *Optimist) View(ctx context.Context, fn func(Tx) error) error { return o.run(ctx, fn, true) }

// Update is Store.Update.
func (o *Optimist) Update(ctx context.Context, fn func(Tx) error) error { return o.run(ctx, fn, false) }

// Forget is for a store that was restored from a backup: what was known of its keys is of another history.
func (o *Optimist) Forget() { o.steady.forgetAll() }

// Ended is nil until the store is closed, and then FailedPrecondition, which every call returns.
func (o *Optimist) Ended() error {
	if over(o.Closed) {
		return fmt.Errorf("%w: the store is closed", errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (o *Optimist) run(ctx context.Context, fn func(Tx) error, readOnly bool) error {
	ctx, cancel := bind(ctx, o.Closed)
	defer cancel()
	for attempt := 0; ; attempt++ {
		if err := o.Ended(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: given up after %d conflicts: %w", errdefs.ErrAborted, attempt, err)
		}
		tx := &optimistTx{ctx: ctx, attempt: o.Begin(readOnly)}
		tx.footprint.ReadOnly = readOnly
		if !readOnly {
			tx.steady, tx.guesses = &o.steady, attempt == 0
		}
		done, err := tx.finish(fn(tx))
		if err != nil && over(o.Closed) {
			err = fmt.Errorf("%w: the store was closed: %w", errdefs.ErrFailedPrecondition, err)
		}
		if done {
			return err
		}
		if !tx.guessed { // else nobody need have been in the way
			o.pause(ctx, attempt)
		}
	}
}

// bind gives a context that ends when closed is, too.
func bind(ctx context.Context, closed <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if closed != nil {
		go func() {
			select {
			case <-closed:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	return ctx, cancel
}

func over(closed <-chan struct{}) bool {
	select {
	case <-closed:
		return true
	default:
		return false
	}
}

// pause waits a random time that grows with the attempts, so that writers of one directory fall out of step.
func (o *Optimist) pause(ctx context.Context, attempt int) {
	longest := max(o.Pause, 50*time.Microsecond) * time.Duration(min(1<<min(attempt, 7), 100))
	t := time.NewTimer(rand.N(longest))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
