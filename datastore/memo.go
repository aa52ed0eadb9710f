package datastore

import "sync"

// Memo remembers what the last few texts decoded to, for readers that meet the same records again and again. What a text means does not
// change, so nothing in a Memo grows stale: it says nothing about what a store holds. What it gives out is shared by all who asked, and
// nobody changes what it points to. The zero value is ready; a nil one decodes each time anew. It is safe for concurrent use.
type Memo[T any] struct {
	mu            sync.Mutex
	recent, older map[string]T // by text; older goes when recent is full
}

// memoSize is how many texts recent takes: those of a few verbs at work, which the memory of a daemon does not show.
const memoSize = 16

// Get is Table.Get.
func (m *Memo[T]) Get(tx Tx, t Table[T], id string) (T, error) {
	key := t.key(id)
	text, err := tx.Get(key)
	if err != nil {
		var zero T
		return zero, err
	}
	if m == nil {
		return decode[T](key, text)
	}
	if v, ok := m.find(text); ok {
		return v, nil
	}
	v, err := decode[T](key, text)
	if err == nil {
		m.keep(string(text), v)
	}
	return v, err
}

// Put is Table.Put, and remembers v as what its text means: who reads it next is given v, in which an empty list may be where decoding leaves
// nil. Nobody changes what v points to from now on.
func (m *Memo[T]) Put(tx Tx, t Table[T], id string, v T) error {
	text, err := t.put(tx, id, v)
	if err == nil && m != nil {
		m.keep(string(text), v)
	}
	return err
}

func (m *Memo[T]) find(text []byte) (T, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.recent[string(text)]; ok {
		return v, true
	}
	v, ok := m.older[string(text)]
	if ok {
		m.add(string(text), v)
	}
	return v, ok
}

func (m *Memo[T]) keep(text string, v T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.add(text, v)
}

func (m *Memo[T]) add(text string, v T) {
	if m.recent == nil || len(m.recent) == memoSize {
		m.recent, m.older = make(map[string]T, memoSize), m.recent
	}
	m.recent[text] = v
}
