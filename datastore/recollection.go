package datastore

import "sync"

// recollection is what a few keys were found to be, of which some seem not to change. The zero value is ready. It is safe for concurrent use.
type recollection struct {
	mu            sync.Mutex
	recent, older map[string]recalled // by key; older goes when recent is full
}

// recalled is a key with its version, and whether it was found so twice: what changes between two reads is better asked for.
type recalled struct {
	value   []byte
	version uint64
	steady  bool
}

// recollectionSize is how many keys recent takes: those of a few verbs at work.
const recollectionSize = 32

func (r *recollection) of(key string) (value []byte, version uint64, steady bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, known := r.recent[key]
	if !known {
		if was, known = r.older[key]; known {
			r.add(key, was)
		}
	}
	return was.value, was.version, was.steady
}

// found notes what a key was found to be.
func (r *recollection) found(key string, value []byte, version uint64) {
	if version == 0 {
		return // what is absent comes to be
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	was, known := r.recent[key]
	if !known {
		was = r.older[key]
	}
	r.add(key, recalled{value, version, was.version == version})
}

// outdate is told of a commit: what was written is not as it was, and when it failed something that was read is not either.
func (r *recollection) outdate(reads []Read, writes []Write, done bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range writes {
		r.forget(w.Key)
	}
	for _, read := range reads {
		if !done {
			r.forget(read.Name)
		}
	}
}

func (r *recollection) forget(key string) {
	delete(r.recent, key)
	delete(r.older, key)
}

func (r *recollection) forgetAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recent, r.older = nil, nil
}

func (r *recollection) add(key string, is recalled) {
	if r.recent == nil || len(r.recent) == recollectionSize {
		r.recent, r.older = make(map[string]recalled, recollectionSize), r.recent
	}
	r.recent[key] = is
}
