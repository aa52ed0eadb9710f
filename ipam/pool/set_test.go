package pool

import (
	"testing"

	"pgregory.net/rapid"
)

// A set does what a map does, over dense and sparse keys of any size.
func TestSetIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bases := []key{{0, 0}, {0, 4096 - 3}, {0, 1<<32 - 70}, {0xfd00 << 48, 0}, {0xfd00 << 48, ^uint64(0) - 100}, {^uint64(0), ^uint64(0) - 130}}
		pick := rapid.Custom(func(t *rapid.T) key {
			base := rapid.SampledFrom(bases).Draw(t, "base")
			k := base.plus(key{0, rapid.Uint64Range(0, 130).Draw(t, "offset")})
			if rapid.IntRange(0, 9).Draw(t, "far") == 0 {
				k = k.plus(key{rapid.Uint64().Draw(t, "hi"), rapid.Uint64().Draw(t, "lo")})
			}
			return k
		})
		var s set
		model := map[key]uint64{}
		check := func(keep bool) {
			if s.taken != uint64(len(model)) {
				t.Fatalf("taken: got %d, want %d", s.taken, len(model))
			}
			from := pick.Draw(t, "from")
			want, ok := from, true
			for {
				if _, taken := model[want]; !taken {
					break
				}
				if want = want.next(); want == (key{}) {
					ok = false
					break
				}
			}
			got, gotOK := s.claim(from, 9)
			if gotOK != ok || ok && got != want {
				t.Fatalf("claim(%x): got %x %v, want %x %v", from, got, gotOK, want, ok)
			}
			if ok && keep {
				model[got] = 9
			} else if ok {
				s.free(got)
			}
			in := span{from, from.plus(key{0, 200})}
			n := uint64(0)
			for k := range model {
				if in.has(k) {
					n++
				}
			}
			if got := s.count(in); got != n {
				t.Fatalf("count(%x): got %d, want %d", in, got, n)
			}
		}
		for step := range rapid.IntRange(1, 150).Draw(t, "steps") {
			k := pick.Draw(t, "key")
			owner, taken := s.owner(k)
			if want, in := model[k]; in != taken || in && want != owner {
				t.Fatalf("owner(%x): got %d %v, want %d %v", k, owner, taken, want, in)
			}
			if taken {
				s.free(k)
				s.free(k) // nothing more
				delete(model, k)
			} else {
				s.take(k, uint64(step))
				model[k] = uint64(step)
			}
			if step%16 == 0 { // whole leaves, and more
				for i := range rapid.Uint64Range(0, 200).Draw(t, "run") {
					k := k.plus(key{0, i})
					if _, taken := model[k]; !taken {
						s.take(k, 7)
						model[k] = 7
					}
				}
			}
			if step%8 == 0 {
				check(step%16 == 0)
			}
		}
		for k := range model {
			s.free(k)
		}
		if s.root != nil || s.taken != 0 {
			t.Fatalf("an empty set has %d keys and a root %v", s.taken, s.root)
		}
	})
}

// Whole runs, so that nodes fill up on every floor.
func TestSetFills(t *testing.T) {
	var s set
	base := key{1, ^uint64(0) - 5000} // over an edge of 64 bits
	const n = 3 * 4096
	for i := range uint64(n) {
		k, ok := s.claim(base, i)
		if want := base.plus(key{0, i}); !ok || k != want {
			t.Fatalf("claim: got %x %v, want %x", k, ok, want)
		}
	}
	for i := uint64(0); i < n; i += 100 {
		k := base.plus(key{0, n - 1 - i})
		s.free(k)
		if got, _ := s.claim(base, 1); got != k {
			t.Fatalf("claim: got %x, want %x", got, k)
		}
		s.free(k)
	}
}
