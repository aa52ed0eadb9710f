package netns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// warden waits for namespaces of others to end, without holding anything that keeps them alive: by a pidfd for those of processes, by
// the directory of their file for the others. One epoll serves all.
type warden struct {
	epoll  *os.File
	fd     int // of epoll
	notify int // inotify

	mu        sync.Mutex
	watched   map[string]uint64 // key → cookie
	processes map[int32]string  // pidfd → key
	files     map[string]string // real path → key
	dirs      map[int32]string  // inotify watch → directory
}

func newWarden() (*warden, error) {
	w := &warden{watched: map[string]uint64{}, processes: map[int32]string{}, files: map[string]string{}, dirs: map[int32]string{}}
	var err error
	if w.notify, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
		return nil, fmt.Errorf("watch namespaces: %w", err)
	}
	if w.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		unix.Close(w.notify)
		return nil, fmt.Errorf("watch namespaces: %w", err)
	}
	err = errors.Join(w.poll(w.notify), unix.SetNonblock(w.fd, true))
	w.epoll = os.NewFile(uintptr(w.fd), "namespaces")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch namespaces: %w", err), w.close())
	}
	return w, nil
}

func (w *warden) poll(fd int) error {
	return unix.EpollCtl(w.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (w *warden) close() error {
	errs := []error{w.epoll.Close(), unix.Close(w.notify)}
	for fd := range w.processes {
		errs = append(errs, unix.Close(int(fd)))
	}
	return errors.Join(errs...)
}

// watch has the end of a namespace told. Once is enough.
func (w *warden) watch(key string, cookie uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watched[key] == cookie {
		return nil
	}
	var pid int
	var err error
	if n, _ := fmt.Sscanf(key, "/proc/%d/", &pid); n == 1 {
		err = w.watchProcess(key, pid)
	} else {
		err = w.watchFile(key)
	}
	if err != nil {
		return fmt.Errorf("watch namespace %s: %w", key, err)
	}
	w.watched[key] = cookie
	return nil
}

func (w *warden) watchProcess(key string, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	if err := w.poll(fd); err != nil {
		unix.Close(fd)
		return err
	}
	w.processes[int32(fd)] = key
	return nil
}

// watchFile watches the directory: the file of a namespace is a mount, and what happens to its name is told there only.
func (w *warden) watchFile(key string) error {
	real, err := filepath.EvalSymlinks(key)
	if err != nil {
		return err
	}
	dir := filepath.Dir(real)
	wd, err := unix.InotifyAddWatch(w.notify, dir, unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_DELETE_SELF|unix.IN_ONLYDIR)
	if err != nil {
		return err
	}
	w.dirs[int32(wd)], w.files[real] = dir, key
	return nil
}

// Gone yields the keys of namespaces that were opened by path or pid and have ended, also before it was called, until ctx ends. One at a
// time may run.
func (p *Provider) Gone(ctx context.Context) iter.Seq[string] {
	return func(yield func(string) bool) {
		w := p.warden
		if err := w.epoll.SetReadDeadline(time.Time{}); err != nil {
			return
		}
		defer context.AfterFunc(ctx, func() { w.epoll.SetReadDeadline(time.Unix(1, 0)) })()
		raw, err := w.epoll.SyscallConn()
		if err != nil || ctx.Err() != nil {
			return
		}
		for {
			var ended []string
			err := raw.Read(func(uintptr) bool {
				ended = w.ended()
				return len(ended) > 0
			})
			for _, key := range ended {
				if !yield(key) {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
}

// ended takes what has happened and gives the keys that lead to their namespace no more.
func (w *warden) ended() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var events [16]unix.EpollEvent
	n, err := unix.EpollWait(w.fd, events[:], 0)
	if err != nil {
		return nil
	}
	var keys []string
	for _, e := range events[:n] {
		if e.Fd == int32(w.notify) {
			keys = append(keys, w.unlinked()...)
			continue
		}
		keys = append(keys, w.processes[e.Fd])
		delete(w.watched, w.processes[e.Fd])
		delete(w.processes, e.Fd)
		unix.Close(int(e.Fd))
	}
	return keys
}

// unlinked reads which names have gone and gives those of them that were watched. A name that leads to its namespace again has not ended.
func (w *warden) unlinked() []string {
	var keys []string
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Read(w.notify, buf)
		if err != nil || n <= 0 {
			return keys
		}
		for p := buf[:n]; len(p) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(p))
			end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(p[12:]))
			keys = append(keys, w.check(w.dirs[wd], unix.ByteSliceToString(p[unix.SizeofInotifyEvent:end]))...)
			if binary.NativeEndian.Uint32(p[4:])&unix.IN_IGNORED != 0 {
				delete(w.dirs, wd)
			}
			p = p[end:]
		}
	}
}

// check gives the watched namespaces under a name in a directory, "" any, that are not there any more. Where the kernel had to drop news it
// names neither (IN_Q_OVERFLOW).
func (w *warden) check(dir, name string) []string {
	var keys []string
	for real, key := range w.files {
		if dir != "" && filepath.Dir(real) != dir || name != "" && filepath.Base(real) != name {
			continue
		}
		if c, err := identify(key); err == nil && c == w.watched[key] {
			continue
		}
		delete(w.watched, key)
		delete(w.files, real)
		keys = append(keys, key)
	}
	return keys
}
