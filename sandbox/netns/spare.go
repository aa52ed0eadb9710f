package netns

import (
	"fmt"
	"slices"
	"sync"

	"github.com/sealane/sealane/internal/nsthread"
	"golang.org/x/sys/unix"
)

// Kind is what socket(2) makes.
type Kind struct{ Domain, Type, Protocol int }

// spare is a socket made with a namespace, for whoever asks for one inside first: a thread that goes in costs more than all sockets.
type spare struct {
	Kind
	fd int
}

// open makes a socket in the namespace of this thread.
func (k Kind) open() (int, error) {
	fd, err := unix.Socket(k.Domain, k.Type|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, k.Protocol)
	if err != nil {
		return -1, fmt.Errorf("open a socket: %w", err)
	}
	return fd, nil
}

// spares are those of the namespaces made last. They keep namespaces alive, so there are not many, and none of what was removed.
type spares struct {
	mu   sync.Mutex
	last []string // paths, the oldest first
	of   map[string][]spare
}

// spareSpaces is more than are made before what comes with the first of them has taken its sockets.
const spareSpaces = 8

func (s *spares) put(path string, all []spare) {
	if len(all) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[string][]spare{}
	}
	if len(s.last) == spareSpaces {
		s.drop(s.last[0])
	}
	s.last, s.of[path] = append(s.last, path), all
}

// take gives one to keep, or -1.
func (s *spares) take(path string, k Kind) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.of[path]
	i := slices.IndexFunc(all, func(one spare) bool { return one.Kind == k })
	if i < 0 {
		return -1
	}
	fd := all[i].fd
	if s.of[path] = slices.Delete(all, i, i+1); len(s.of[path]) == 0 {
		s.drop(path)
	}
	return fd
}

// remove closes what a namespace that goes still has.
func (s *spares) remove(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(path)
}

func (s *spares) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.last) > 0 {
		s.drop(s.last[0])
	}
}

// drop forgets and closes. The lock is held.
func (s *spares) drop(path string) {
	closeSpares(s.of[path])
	delete(s.of, path)
	s.last = slices.DeleteFunc(s.last, func(p string) bool { return p == path })
}

func closeSpares(all []spare) {
	for _, one := range all {
		unix.Close(one.fd) // of a socket that was never used
	}
}

// Socket opens a socket in the namespace whose file is path, "" for the host's, close-on-exec and non-blocking. Of a namespace that was just
// made it gives one of those made with it. The caller closes it.
func (p *Provider) Socket(path string, k Kind) (fd int, err error) {
	if path == "" {
		path = p.host
	}
	if fd = p.spares.take(path, k); fd >= 0 {
		return fd, nil
	}
	err = nsthread.Do(path, func() (err error) {
		fd, err = k.open()
		return err
	})
	return fd, kind(err)
}
