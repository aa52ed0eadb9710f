package dns

import "sync"

// queue lets a number of jobs run at once and shares that out: who has many waiting gets as many turns as who has one.
type queue struct {
	most, each int

	mu     sync.Mutex // guards what follows, and every turn
	active int
	ring   []*turn // who has something waiting; the first is next
}

// turn is one sandbox's share.
type turn struct {
	active  int
	waiting []func()
}

func newQueue(most, each int) *queue { return &queue{most: most, each: each} }

// submit has a job run now or later, on a goroutine of its own; false when too many of this one wait already.
func (q *queue) submit(t *turn, job func()) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active < q.most && t.active < q.each && len(t.waiting) == 0 {
		q.start(t, job)
		return true
	}
	if len(t.waiting) >= waitEach {
		return false
	}
	if t.waiting = append(t.waiting, job); len(t.waiting) == 1 {
		q.ring = append(q.ring, t)
	}
	return true
}

// start runs a job. The lock is held.
func (q *queue) start(t *turn, job func()) {
	q.active++
	t.active++
	go func() {
		job()
		q.mu.Lock()
		defer q.mu.Unlock()
		q.active--
		t.active--
		q.next()
	}()
}

// next starts what may run. The lock is held.
func (q *queue) next() {
	for passed := 0; q.active < q.most && passed < len(q.ring); {
		t := q.ring[0]
		q.ring = q.ring[1:]
		if t.active >= q.each {
			q.ring = append(q.ring, t)
			passed++
			continue
		}
		job := t.waiting[0]
		t.waiting[0] = nil
		if t.waiting = t.waiting[1:]; len(t.waiting) > 0 {
			q.ring = append(q.ring, t)
		}
		q.start(t, job)
		passed = 0
	}
}
