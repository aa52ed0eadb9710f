package bolt_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/bolt"
)

// specimen is a file with what real ones have: branches, records over several pages, pages freed and used again.
func specimen(t testing.TB) (file []byte, records map[string]string) {
	path := filepath.Join(memory(t), "store.db")
	s := open(t, path, bolt.Options{NoSync: true})
	records = map[string]string{}
	value := func(i, size int) string { return strings.Repeat(fmt.Sprintf(`{"n":%d}`, i), size/8) }
	for i := range 40 {
		for dir, size := range map[string]int{"ep": 700, "sb": 300, "lease": 80} {
			key := dir + "/" + strconv.Itoa(i)
			put(t, s, key, value(i, size))
			records[key] = value(i, size)
			if i%3 == 0 {
				remove(t, s, key)
				delete(records, key)
			}
		}
	}
	for i := range 3 {
		key := "net/" + strconv.Itoa(i)
		put(t, s, key, value(i, 5000))
		records[key] = value(i, 5000)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return file[:(len(bytes.TrimRight(file, "\x00"))+4095)&^4095], records // without the hole that it grew by
}

var damages = map[string]func(file []byte, at int) []byte{
	"truncate": func(file []byte, at int) []byte { return file[:at] },
	"flip": func(file []byte, at int) []byte {
		file[at] ^= 1 << rand.N(8)
		return file
	},
	"zero": func(file []byte, at int) []byte {
		at &^= 511
		clear(file[at:min(at+512, len(file))])
		return file
	},
	"random": func(file []byte, at int) []byte { // a sector that never was written
		at &^= 511
		for i := at; i < min(at+512, len(file)); i++ {
			file[i] = byte(rand.Uint32())
		}
		return file
	},
}

// Whatever happened to a file that is not open: either all records are there as they were written, also after writing on, or Open
// says that it is damaged.
func TestDamagedFile(t *testing.T) {
	offsets := 1000
	if testing.Short() {
		offsets = 100
	}
	file, records := specimen(t)
	path := filepath.Join(memory(t), "store.db")
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			told := 0
			for i := range offsets {
				at := i * len(file) / offsets
				if err := os.WriteFile(path, damage(append([]byte{}, file...), at), 0o600); err != nil {
					t.Fatal(err)
				}
				s, err := bolt.Open(path, bolt.Options{NoSync: true})
				if err != nil {
					var corrupt *bolt.Corrupt
					if !errors.As(err, &corrupt) || !errdefs.IsDataLoss(err) || corrupt.Path != path {
						t.Fatalf("at %d: Open: got %v, want Corrupt", at, err)
					}
					told++
					continue
				}
				check(t, s, at, records)
				put(t, s, "new/k", "1")
				remove(t, s, "new/k")
				check(t, s, at, records)
				if err := s.Close(); err != nil {
					t.Fatalf("at %d: Close: %v", at, err)
				}
			}
			t.Logf("%d of %d told, the others harmless", told, offsets)
			if told == 0 || name == "truncate" && told < offsets {
				t.Errorf("only %d of %d told", told, offsets)
			}
		})
	}
}

func check(t *testing.T, s *bolt.Store, at int, want map[string]string) {
	t.Helper()
	got, err := content(s, "ep", "sb", "lease", "net")
	if err != nil || !maps.Equal(got, want) {
		t.Fatalf("at %d: Open was content, but %d of %d records are right: %v", at, len(got), len(want), err)
	}
}

// Bits of the pages that say where things are, more closely: both metas, the root and the branches.
func TestBitsOfTheTree(t *testing.T) {
	file, records := specimen(t)
	path := filepath.Join(memory(t), "store.db")
	step := 9 // no multiple of 8: all bits have their turn
	if testing.Short() {
		step = 31
	}
	var pages []int
	for at := 0; at < len(file); at += 4096 {
		const branch = 1
		if at < 2*4096 || binary.NativeEndian.Uint16(file[at+8:]) == branch || bytes.Contains(file[at:at+4096], []byte("records")) {
			pages = append(pages, at)
		}
	}
	if len(pages) < 4 {
		t.Fatal("the specimen has no branch")
	}
	for _, page := range pages {
		for bit := 0; bit < 250*8; bit += step {
			at := page + bit/8
			damaged := append([]byte{}, file...)
			damaged[at] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := bolt.Open(path, bolt.Options{NoSync: true})
			if err != nil {
				if !errdefs.IsDataLoss(err) {
					t.Fatalf("at %d: %v", at, err)
				}
				continue
			}
			check(t, s, at, records)
			put(t, s, "ep/0", "1", "lease/9", "1", "net/0", "1") // next to what is there, in leaves all over the tree
			remove(t, s, "ep/0", "lease/9", "net/0")
			rest := maps.Clone(records)
			maps.DeleteFunc(rest, func(key, _ string) bool { return key == "ep/0" || key == "lease/9" || key == "net/0" })
			check(t, s, at, rest)
			s.Close()
		}
	}
}

// Whatever was written and removed, in whatever order, is no damage.
func TestNothingWrittenIsDamage(t *testing.T) {
	path := filepath.Join(memory(t), "store.db")
	records := map[string]string{}
	for round := range 150 {
		s, err := bolt.Open(path, bolt.Options{NoSync: true})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		check(t, s, round, records)
		for range 1 + rand.N(20) {
			var pairs, gone []string
			for range 1 + rand.N(6) {
				key := []string{"ep", "sb", "lease", "net"}[rand.N(4)] + "/" + strconv.Itoa(rand.N(200))
				if rand.N(5) < 2+round/25%3 { // it grows, and shrinks again
					if records[key] != "" {
						gone = append(gone, key)
						delete(records, key)
					}
					continue
				}
				records[key] = strings.Repeat("v", 1+rand.N(1500))
				pairs = append(pairs, key, records[key])
			}
			if len(pairs) > 0 {
				put(t, s, pairs...)
			}
			if gone = slices.DeleteFunc(gone, func(key string) bool { return records[key] != "" }); len(gone) > 0 {
				remove(t, s, gone...)
			}
		}
		s.Close()
	}
}

// The last commit must not vanish because its meta page is bad: bbolt would go back to the one before.
func TestLostMetaPageIsTold(t *testing.T) {
	file, _ := specimen(t)
	path := filepath.Join(memory(t), "store.db")
	for page := range 2 {
		damaged := append([]byte{}, file...)
		clear(damaged[page*4096 : page*4096+512])
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := bolt.Open(path, bolt.Options{NoSync: true}); !errdefs.IsDataLoss(err) {
			t.Errorf("meta page %d: got %v, want DataLoss", page, err)
		}
	}
}

func TestQuarantine(t *testing.T) {
	path := filepath.Join(memory(t), "store.db")
	s := open(t, path, bolt.Options{})
	put(t, s, "d/k", "1")
	s.Close()
	if moved, err := bolt.Quarantine(path); !errdefs.IsFailedPrecondition(err) {
		t.Fatalf("of a good file: got %q, %v", moved, err)
	}
	for n := range 3 {
		if err := os.WriteFile(path, []byte("damage "+strconv.Itoa(n)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := bolt.Open(path, bolt.Options{}); !errdefs.IsDataLoss(err) {
			t.Fatalf("Open: got %v, want DataLoss", err)
		}
		moved, err := bolt.Quarantine(path)
		if want := path + ".corrupt-" + strconv.Itoa(n+1); err != nil || moved != want {
			t.Fatalf("got %q, %v, want %q", moved, err, want)
		}
		if b, err := os.ReadFile(moved); err != nil || string(b) != "damage "+strconv.Itoa(n) {
			t.Fatalf("what was moved: %q, %v", b, err)
		}
		s := open(t, path, bolt.Options{})
		if got, err := content(s, "d"); err != nil || len(got) != 0 {
			t.Fatalf("a fresh store holds %v, %v", got, err)
		}
		s.Close()
	}
}

// A file that is damaged under a running process ends in errors, not in a crash.
func TestDamagedInUse(t *testing.T) {
	for name, damage := range map[string]func(*testing.T, string){
		"truncated to nothing": func(t *testing.T, path string) { truncate(t, path, 0) },
		"truncated to metas":   func(t *testing.T, path string) { truncate(t, path, 2*4096) },
		"truncated by half":    func(t *testing.T, path string) { truncate(t, path, 48*1024) },
		"zeroed after metas": func(t *testing.T, path string) {
			overwrite(t, path, 2*4096, make([]byte, 100*1024))
		},
		"records flipped": func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, path, 2*4096, []byte(strings.ReplaceAll(string(b[2*4096:]), `{"n":`, `{"m":`)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			file, records := specimen(t)
			path := filepath.Join(memory(t), "store.db")
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, path, bolt.Options{NoSync: true})
			check(t, s, 0, records)
			damage(t, path)
			ctx := context.Background()
			told := 0
			tell := func(err error) {
				if err == nil {
					return
				}
				if told++; !errdefs.IsDataLoss(err) {
					t.Errorf("got %v, want DataLoss", err)
				}
			}
			for key, want := range records {
				tell(s.View(ctx, func(tx datastore.Tx) error {
					got, err := tx.Get(key)
					if err == nil && string(got) != want {
						t.Errorf("%s: read back changed", key)
					}
					return err
				}))
			}
			tell(s.View(ctx, func(tx datastore.Tx) error {
				for range tx.List("ep") {
				}
				return nil
			}))
			tell(s.Update(ctx, func(tx datastore.Tx) error { return tx.Put("ep/1", []byte("new")) }))
			if told == 0 {
				t.Error("nobody was told")
			}
			if err := s.Close(); err != nil && !errdefs.IsDataLoss(err) {
				t.Errorf("Close: %v", err)
			}
			moved, err := bolt.Quarantine(path) // the lock is free again
			if err != nil {
				t.Fatalf("Quarantine: %q, %v", moved, err)
			}
		})
	}
}

func truncate(t *testing.T, path string, size int64) {
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func overwrite(t *testing.T, path string, at int64, b []byte) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(b, at)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
