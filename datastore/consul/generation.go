package consul

import (
	"slices"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/hashicorp/consul/api"

	"github.com/sealane/sealane/datastore"
)

// generation is the value of a directory's generation, which every transaction replaces that writes there. The same value would be no write
// to Consul: nobody's check would fail and no watch end. One whose transaction checked that it comes right after another says what is
// different, so that a watch which knows the directory as of the other need not read it.
type generation struct {
	Is     string            // never the same twice
	After  string            `json:",omitzero"` // Is of the other; "": the directory is to be read
	Put    map[string][]byte `json:",omitzero"`
	Delete []string          `json:",omitzero"`
}

// told is how many bytes a generation may tell of. What is larger is read from its records.
const told = 4 << 10

// parseGeneration takes what is no generation of ours, as one that was written by hand, for its own name.
func parseGeneration(text []byte) (g generation) {
	if err := json.Unmarshal(text, &g); err != nil || g.Is == "" {
		return generation{Is: string(text)}
	}
	return g
}

// next is the generation of a directory after a transaction that comes right after the generation after; nil: after any.
func next(dir string, writes []datastore.Write, after *point) generation {
	g := generation{Is: string(datastore.NewGeneration())}
	if after == nil {
		return g
	}
	g.After, g.Put = after.is, map[string][]byte{}
	for _, w := range writes {
		switch in, name := datastore.Split(w.Key); {
		case in != dir:
		case w.Value == nil:
			g.Delete = append(g.Delete, name)
		default:
			g.Put[name] = w.Value
		}
	}
	return g
}

// move gives a directory a generation.
func (s *Store) move(dir string, to generation) *api.TxnOp {
	text, err := json.Marshal(to)
	if err != nil { // it is strings and bytes
		text = []byte(to.Is)
	}
	return &api.TxnOp{KV: &api.KVTxnOp{Verb: api.KVSet, Key: s.layout.Generation(dir), Value: text}}
}

// followed are the directories that a store's own watches follow: of those it knows the last generation, and can say that a write of its own
// comes right after it. It is safe for concurrent use.
type followed struct {
	mu   sync.Mutex
	dirs map[string]point
}

// point is a generation and where it stands in Consul's order of all writes.
type point struct {
	is    string
	index uint64
}

// at notes what a watch knows; index 0 that it knows of none, or has ended.
func (f *followed) at(dir string, p point) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dirs == nil {
		f.dirs = map[string]point{}
	}
	if p.index == 0 {
		delete(f.dirs, dir)
	} else if p.index > f.dirs[dir].index {
		f.dirs[dir] = p
	}
}

// wrote notes what a write of ours made of a directory, if a watch follows it.
func (f *followed) wrote(dir string, p point) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if was, watched := f.dirs[dir]; watched && p.index > was.index {
		f.dirs[dir] = p
	}
}

// after are the generations that those may come after which a transaction makes, and say what it changes.
func (f *followed) after(changes datastore.Changes) map[string]*point {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]*point{}
	for _, dir := range changes.Touched {
		if p, watched := f.dirs[dir]; watched && !slices.Contains(changes.Emptied, dir) && size(dir, changes.Writes) <= told {
			all[dir] = &p
		}
	}
	return all
}

func size(dir string, writes []datastore.Write) (bytes int) {
	for _, w := range writes {
		if in, name := datastore.Split(w.Key); in == dir {
			bytes += len(name) + len(w.Value)
		}
	}
	return bytes
}
