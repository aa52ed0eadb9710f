package bolt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

const fileMode = 0o600

// Corrupt is the error of a store whose file is damaged. Its kind is DataLoss.
type Corrupt struct {
	Path   string
	Reason string // what was found, and where
}

func (e *Corrupt) Error() string {
	return fmt.Sprintf("%s is damaged: %s: move it away (bolt.Quarantine) to begin with an empty one", e.Path, e.Reason)
}

// Unwrap gives the kind.
func (e *Corrupt) Unwrap() error { return errdefs.ErrDataLoss }

// Quarantine renames the damaged file path to <path>.corrupt-<n>, n being the lowest free number from 1, and returns that name.
// FailedPrecondition when the file is not damaged or another process has it: nothing is moved then.
func Quarantine(path string) (moved string, err error) {
	f, err := lock(path)
	if err != nil {
		return "", fmt.Errorf("quarantine store %s: %w", path, err)
	}
	defer f.Close()
	if verify(f) == nil {
		return "", fmt.Errorf("quarantine store %s: %w: it is not damaged: open it", path, errdefs.ErrFailedPrecondition)
	}
	for n := 1; ; n++ {
		moved = path + ".corrupt-" + strconv.Itoa(n)
		err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, moved, unix.RENAME_NOREPLACE)
		switch {
		case err == nil:
			return moved, syncDir(path)
		case !errors.Is(err, unix.EEXIST):
			return "", fmt.Errorf("quarantine store %s: %w", path, kind(err))
		}
	}
}

// lock opens the file of a store, made before if there is none, for this process alone.
func lock(path string) (*os.File, error) {
	for range 10 { // until nobody moves the file away between opening and locking
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
		if errors.Is(err, os.ErrNotExist) {
			if err := create(path); err != nil {
				return nil, kind(err)
			}
			continue
		}
		if err != nil {
			return nil, kind(err)
		}
		current, err := lockOpened(f, path)
		if err == nil && current {
			return f, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: the file comes and goes", errdefs.ErrUnavailable)
}

// lockOpened locks f and says whether it still is the file at path.
func lockOpened(f *os.File, path string) (current bool, err error) {
	opened, err := f.Stat()
	if err != nil {
		return false, kind(err)
	}
	if !opened.Mode().IsRegular() {
		return false, fmt.Errorf("%w: not a regular file", errdefs.ErrFailedPrecondition)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, fmt.Errorf("%w: another process has this file: stop that daemon, or choose another directory", errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return false, kind(err)
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(opened, there), nil
}

// unlock closes f. Closing alone keeps the lock while the file is mapped.
func unlock(f *os.File) error {
	return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close())
}

// create makes an empty store. It is complete before it gets its name: whatever less is found under that name is damage.
func create(path string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(f.Name(), fileMode, &bbolt.Options{PageSize: pageSize, NoFreelistSync: true})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte(recordsBucket))
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncDir(path)
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
