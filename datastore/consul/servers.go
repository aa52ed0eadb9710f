package consul

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/consul/api"
)

// servers are those of one cluster, each of which answers for all, or an agent alone, which knows them itself. One is asked as long as it
// answers. It is safe for concurrent use.
type servers struct {
	clients []*api.Client // one at least
	silent  atomic.Bool   // the last time none answered

	mu    sync.Mutex
	asked int
	moved chan struct{} // closed when another one is asked
}

// now is who is asked, until moved is closed.
func (s *servers) now() (who int, moved <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked, s.moved
}

// row is all of them, who is asked now first.
func (s *servers) row() []int {
	first, _ := s.now()
	var all []int
	for who := range s.clients {
		all = append(all, who)
	}
	return slices.Concat(all[first:], all[:first])
}

// answered has from followed by who answered.
func (s *servers) answered(from, who int) {
	s.silent.Store(false)
	s.move(from, who)
}

// move has another one asked from now on, unless somebody did so already.
func (s *servers) move(from, to int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from == to || from != s.asked {
		return
	}
	s.asked = to
	close(s.moved)
	s.moved = make(chan struct{})
}

// leave is move to the next one. It says whether there is one.
func (s *servers) leave(who int) bool {
	s.move(who, (who+1)%len(s.clients))
	return len(s.clients) > 1
}
