package datastore

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Footprint is what one transaction has touched. A store keeps one for each and asks it before every access, so that all stores
// refuse the same things. A refusal is kept: a transaction that met one cannot be committed, even if its function went on.
//
// The zero value serves an Update. It is not safe for concurrent use.
type Footprint struct {
	ReadOnly bool // serves a View: nothing may be written, and as much read as one likes

	touched []touch
	bytes   int
	err     error
}

type touch struct {
	name  string
	dir   bool
	bytes int // written
}

// Read notes that key is read. InvalidArgument for a bad key and for one too many.
func (f *Footprint) Read(key string) error {
	if f.err != nil {
		return f.err
	}
	if err := checkKey(key); err != nil {
		return f.refuse(err)
	}
	_, err := f.touch(key, false)
	return err
}

// Write notes that key is written, or deleted when value is nil. InvalidArgument as for Read, for an oversized value and for too many
// bytes in all, FailedPrecondition in a View.
func (f *Footprint) Write(key string, value []byte) error {
	if f.err != nil {
		return f.err
	}
	if f.ReadOnly {
		return f.refuse(fmt.Errorf("write %s: %w: a View only reads: use Update", key, errdefs.ErrFailedPrecondition))
	}
	if len(value) > MaxValue {
		return f.refuse(fmt.Errorf("put %s: %w: %d bytes, at most %d", key, errdefs.ErrInvalidArgument, len(value), MaxValue))
	}
	if err := checkKey(key); err != nil {
		return f.refuse(err)
	}
	t, err := f.touch(key, false)
	if err != nil {
		return err
	}
	f.bytes += len(value) - t.bytes
	t.bytes = len(value)
	if f.bytes > MaxUpdate {
		return f.refuse(fmt.Errorf("put %s: %w: more than %d bytes of values in one Update: make it several", key, errdefs.ErrInvalidArgument,
			MaxUpdate))
	}
	return nil
}

// List notes that the directory dir is listed.
func (f *Footprint) List(dir string) error {
	if f.err != nil {
		return f.err
	}
	if dir != "" {
		if err := checkKey(dir); err != nil {
			return f.refuse(err)
		}
	}
	_, err := f.touch(dir, true)
	return err
}

// Fail keeps an error of the store that surfaces at the end, as one of List does.
func (f *Footprint) Fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

// Err is the first refusal or failure, nil when the transaction may be committed.
func (f *Footprint) Err() error { return f.err }

func (f *Footprint) refuse(err error) error {
	f.err = err
	return err
}

// touch finds or makes the note of a name. A View needs none.
func (f *Footprint) touch(name string, dir bool) (*touch, error) {
	if f.ReadOnly {
		return nil, nil
	}
	for i := range f.touched {
		if t := &f.touched[i]; t.name == name && t.dir == dir {
			return t, nil
		}
	}
	if len(f.touched) == MaxKeys {
		return nil, f.refuse(fmt.Errorf("%w: more than %d keys and directories in one Update, %q is the next: make it several",
			errdefs.ErrInvalidArgument, MaxKeys, name))
	}
	if f.touched == nil {
		f.touched = make([]touch, 0, MaxKeys) // pointers into it stay good
	}
	f.touched = append(f.touched, touch{name: name, dir: dir})
	return &f.touched[len(f.touched)-1], nil
}
