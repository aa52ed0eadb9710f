// Package bolt keeps a datastore.Store in one file of this host, with go.etcd.io/bbolt. The run store (on tmpfs) and the root store
// (on disk) are both of it.
//
// A file belongs to one process at a time. Nothing that stands in a damaged file is ever handed out as a record: Open reads the
// whole file before bbolt sees it, and each read checks its record again.
package bolt

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/sealane/sealane/datastore"
)

// Options of Open.
type Options struct {
	// NoSync leaves flushing to the kernel: right for a file that dies with the boot anyway. A killed process loses nothing; after a
	// power cut the file may be damaged, which Open tells.
	NoSync bool
}

// Store is a datastore.Store in a file. Its Updates run one after the other, so fn runs once.
type Store struct {
	path   string
	file   *os.File // bbolt's, to look at its size
	db     *bbolt.DB
	writer chan struct{} // holds a token while an Update runs
	feed   datastore.Feed
	broken atomic.Pointer[Corrupt] // damage met while in use: nothing more is read or written
	size   atomic.Int64            // what the file must hold at least
	close  func() error
}

var _ datastore.Store = (*Store)(nil)

const (
	// mapped is address space, not memory. While the file fits, bbolt need not map it anew, which would wait for every View.
	mapped = 64 << 20
	// growth is how much a file grows at a time, as a hole.
	growth = 256 << 10
)

// Open opens the store in the file path, creating it with mode 0600 if there is none. FailedPrecondition when another process has
// it, *Corrupt (DataLoss) when it is damaged: see Quarantine.
func Open(path string, o Options) (*Store, error) {
	f, err := lock(path)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	if err := verify(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("open store: %w", damage(path, err))
	}
	s := &Store{path: path, file: f, writer: make(chan struct{}, 1)}
	s.close = sync.OnceValue(s.shut)
	err = s.guard(func() (err error) {
		s.db, err = bbolt.Open(path, fileMode, s.options(o))
		return err
	})
	if err != nil {
		_ = unlock(f)
		return nil, fmt.Errorf("open store %s: %w", path, kind(err))
	}
	s.db.AllocSize = growth
	return s, nil
}

func (s *Store) options(o Options) *bbolt.Options {
	return &bbolt.Options{
		OpenFile:        func(string, int, os.FileMode) (*os.File, error) { return s.file, nil },
		Timeout:         time.Second, // never waited for: the lock is held already
		InitialMmapSize: mapped,
		PageSize:        pageSize,
		NoSync:          o.NoSync,
		NoFreelistSync:  true, // verify has read the tree anyway, and a commit writes a page less
		FreelistType:    bbolt.FreelistArrayType,
		NoStatistics:    true,
	}
}

// View implements datastore.Store.
func (s *Store) View(ctx context.Context, fn func(datastore.Tx) error) error {
	if err := ended(ctx); err != nil {
		return err
	}
	t, err := s.begin(false)
	if err != nil {
		return err
	}
	defer t.rollback()
	if err := fn(t); err != nil {
		return err
	}
	return t.footprint.Err()
}

// Update implements datastore.Store. One Update is one commit of the file; one that changes nothing is none.
func (s *Store) Update(ctx context.Context, fn func(datastore.Tx) error) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.leave()
	t, err := s.begin(true)
	if err != nil {
		return err
	}
	defer t.rollback()
	if err := fn(t); err != nil {
		return err
	}
	if err := t.footprint.Err(); err != nil || len(t.written) == 0 {
		return err
	}
	err = t.commit()
	if err == nil || datastore.IsUncertain(err) {
		s.feed.Publish(maps.All(t.written))
	}
	return err
}

// Watch implements datastore.Store: this process is the only writer.
func (s *Store) Watch(ctx context.Context, dir string) iter.Seq2[datastore.Batch, error] {
	return s.feed.Watch(ctx, dir, func(attach func()) (map[string][]byte, error) {
		if err := s.enter(ctx); err != nil { // no commit and no Close meanwhile
			return nil, err
		}
		defer s.leave()
		full := map[string][]byte{}
		err := s.View(ctx, func(tx datastore.Tx) error {
			for name, value := range tx.List(dir) {
				full[name] = value
			}
			attach()
			return nil
		})
		return full, err
	})
}

// Close implements datastore.Store. It waits for the transactions that run.
func (s *Store) Close() error { return s.close() }

func (s *Store) shut() error {
	s.writer <- struct{}{}
	defer s.leave()
	s.feed.Close()
	if s.broken.Load() != nil {
		// bbolt may have been left holding a lock of its own; its map stays behind.
		return unlock(s.file)
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close store %s: %w", s.path, kind(err))
	}
	return nil
}

// enter waits for the writer's turn.
func (s *Store) enter(ctx context.Context) error {
	if err := ended(ctx); err != nil {
		return err
	}
	select {
	case s.writer <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ended(ctx)
	}
}

func (s *Store) leave() { <-s.writer }

func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrAborted, err)
	}
	return nil
}

// guard runs what touches bbolt's map. When the file is damaged while it is mapped, bbolt panics or its reads fault; either ends
// here and not the process, and the store is not used again.
func (s *Store) guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = s.fail(fmt.Sprintf("damaged while in use: %v", r))
		}
	}()
	return do()
}

func (s *Store) fail(reason string) error {
	s.broken.CompareAndSwap(nil, &Corrupt{Path: s.path, Reason: reason})
	return s.broken.Load()
}

// intact refuses a store that met damage, and a file that was cut shorter meanwhile before bbolt touches what is missing.
func (s *Store) intact() error {
	if c := s.broken.Load(); c != nil {
		return c
	}
	least := s.size.Load() // before the look: a commit meanwhile grows both
	st, err := s.file.Stat()
	if err != nil {
		return nil // closed: bbolt says so
	}
	if st.Size() < least {
		return s.fail(fmt.Sprintf("cut to %d bytes while in use", st.Size()))
	}
	return nil
}

// kind gives an error of bbolt or of the system its kind.
func kind(err error) error {
	switch {
	case errors.Is(err, berrors.ErrDatabaseNotOpen), errors.Is(err, berrors.ErrInvalidMapping), errors.Is(err, os.ErrClosed):
		return fmt.Errorf("%w: the store is closed", errdefs.ErrFailedPrecondition)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", errdefs.ErrResourceExhausted, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: %w", errdefs.ErrPermissionDenied, err)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	case errors.Is(err, errdefs.ErrDataLoss), errors.Is(err, errdefs.ErrFailedPrecondition):
		return err
	}
	return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
}
