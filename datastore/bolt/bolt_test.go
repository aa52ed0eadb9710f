package bolt_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/datastore/bolt"
	"github.com/sealane/sealane/datastore/storetest"
)

func TestStore(t *testing.T) {
	for name, o := range map[string]bolt.Options{"Run": {NoSync: true}, "Root": {}} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t testing.TB) (a, b datastore.Store) {
				s := open(t, filepath.Join(memory(t), "store.db"), o)
				return s, s
			})
		})
	}
}

// memory is a directory on tmpfs.
func memory(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "bolt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func open(t testing.TB, path string, o bolt.Options) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, s datastore.Store, pairs ...string) {
	t.Helper()
	err := s.Update(context.Background(), func(tx datastore.Tx) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := tx.Put(pairs[i], []byte(pairs[i+1])); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, s datastore.Store, keys ...string) {
	t.Helper()
	err := s.Update(context.Background(), func(tx datastore.Tx) error {
		for _, key := range keys {
			if err := tx.Delete(key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// content reads the directories by listing them.
func content(s datastore.Store, dirs ...string) (map[string]string, error) {
	m := map[string]string{}
	err := s.View(context.Background(), func(tx datastore.Tx) error {
		for _, dir := range dirs {
			for name, value := range tx.List(dir) {
				m[dir+"/"+name] = string(value)
			}
		}
		return nil
	})
	return m, err
}

func TestRecordsOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := open(t, path, bolt.Options{})
	put(t, s, "d/k", "1", "d/gone", "2")
	remove(t, s, "d/gone")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode() != 0o600 {
		t.Errorf("mode: got %v, %v, want 0600", st.Mode(), err)
	}
	got, err := content(open(t, path, bolt.Options{}), "d")
	if err != nil || len(got) != 1 || got["d/k"] != "1" {
		t.Errorf("after opening again: got %v, %v", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
}

// The second process is this test again, told to open the file.
func TestSecondProcess(t *testing.T) {
	if path := os.Getenv("BOLT_TEST_OPEN"); path != "" {
		_, err := bolt.Open(path, bolt.Options{NoSync: true})
		fmt.Printf("%t %v\n", errdefs.IsFailedPrecondition(err), err)
		return
	}
	path := filepath.Join(memory(t), "store.db")
	s := open(t, path, bolt.Options{NoSync: true})
	check := func(what string, err error) {
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "stop that daemon") {
			t.Errorf("%s: got %v, want FailedPrecondition with the file and the way out", what, err)
		}
	}
	_, err := bolt.Open(path, bolt.Options{NoSync: true})
	check("a second Open", err)
	_, err = bolt.Quarantine(path)
	check("Quarantine of a file in use", err)

	second := exec.Command(os.Args[0], "-test.run=^TestSecondProcess$")
	second.Env = append(os.Environ(), "BOLT_TEST_OPEN="+path)
	out, err := second.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "true ") || !strings.Contains(string(out), path) {
		t.Errorf("a second process: %v\n%s", err, out)
	}
	put(t, s, "d/k", "1") // the first is not disturbed
}

func TestOpenRefuses(t *testing.T) {
	dir := memory(t)
	fifo, loop := filepath.Join(dir, "fifo"), filepath.Join(dir, "loop")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Symlink("nothing", loop)); err != nil {
		t.Fatal(err)
	}
	for path, is := range map[string]func(error) bool{
		fifo:                            errdefs.IsFailedPrecondition,
		"/dev/null":                     errdefs.IsFailedPrecondition,
		dir:                             errdefs.IsUnavailable,
		loop:                            errdefs.IsUnavailable,
		filepath.Join(dir, "no", "dir"): errdefs.IsNotFound,
	} {
		if _, err := bolt.Open(path, bolt.Options{}); err == nil || !is(err) || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s): got %v", path, err)
		}
	}
}

// Ten openers of a file that is not there: one makes it and has it.
func TestOpenAtOnce(t *testing.T) {
	path := filepath.Join(memory(t), "store.db")
	results := make(chan error)
	for range 10 {
		go func() {
			s, err := bolt.Open(path, bolt.Options{NoSync: true})
			if err == nil {
				t.Cleanup(func() { s.Close() })
			}
			results <- err
		}()
	}
	opened := 0
	for range 10 {
		if err := <-results; err == nil {
			opened++
		} else if !errdefs.IsFailedPrecondition(err) {
			t.Errorf("got %v", err)
		}
	}
	if opened != 1 {
		t.Errorf("%d openers have the file", opened)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
}

// The file does not grow with the number of changes, only with what is there.
func TestFileIsBounded(t *testing.T) {
	path := filepath.Join(memory(t), "store.db")
	s := open(t, path, bolt.Options{NoSync: true})
	value := strings.Repeat("v", 700)
	cycle := func(n int) int64 {
		for i := range n {
			id := strconv.Itoa(i)
			put(t, s, "ep/"+id, value, "lease/"+id, "x")
			if i >= 20 {
				old := strconv.Itoa(i - 20)
				remove(t, s, "ep/"+old, "lease/"+old)
			}
		}
		for i := max(0, n-20); i < n; i++ {
			id := strconv.Itoa(i)
			remove(t, s, "ep/"+id, "lease/"+id)
		}
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	first := cycle(500)
	if after := cycle(10_000); after > first {
		t.Errorf("%d bytes after 500 cycles, %d after 10,000 more", first, after)
	}
	got, err := content(s, "ep", "lease")
	if err != nil || len(got) != 0 {
		t.Errorf("left: %d records, %v", len(got), err)
	}
}

// A file that grows under many readers is not taken for one that was cut.
func TestGrowsUnderReaders(t *testing.T) {
	value := strings.Repeat("v", 8<<10)
	for range 5 { // each growth is one chance
		s := open(t, filepath.Join(memory(t), "store.db"), bolt.Options{NoSync: true})
		done := make(chan struct{})
		var readers errgroup.Group
		for range 8 {
			readers.Go(func() error {
				for {
					select {
					case <-done:
						return nil
					default:
						if _, err := content(s, "none"); err != nil {
							return err
						}
					}
				}
			})
		}
		for i := range 200 {
			put(t, s, "ep/"+strconv.Itoa(i), value)
		}
		close(done)
		if err := readers.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// A full file system refuses the Update and nothing else.
func TestNoSpace(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("mount a small tmpfs (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "store.db")
	s := open(t, path, bolt.Options{NoSync: true})
	value := strings.Repeat("v", 30<<10)
	kept := 0
	for ; ; kept++ {
		err := s.Update(context.Background(), func(tx datastore.Tx) error { return tx.Put("d/"+strconv.Itoa(kept), []byte(value)) })
		if err != nil {
			if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), path) {
				t.Fatalf("got %v, want ResourceExhausted naming the file", err)
			}
			break
		}
	}
	for range 2 { // as it is, and opened again
		got, err := content(s, "d")
		if err != nil || len(got) != kept {
			t.Fatalf("%d records, %v, want %d", len(got), err, kept)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, path, bolt.Options{NoSync: true})
	}
	remove(t, s, "d/0")
	put(t, s, "d/new", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, present := range []int{0, 1000} {
		for name, dir := range map[string]string{"tmpfs": memory(b), "disk": b.TempDir()} {
			b.Run(fmt.Sprintf("%s/%d", name, present), func(b *testing.B) {
				s := open(b, filepath.Join(dir, strconv.Itoa(present)), bolt.Options{NoSync: name == "tmpfs"})
				value := make([]byte, 700)
				ctx := context.Background()
				write := func(i int) {
					value[0], value[1], value[2] = byte(i), byte(i>>8), byte(i>>16)
					if err := s.Update(ctx, func(tx datastore.Tx) error {
						return tx.Put("ep/"+strconv.Itoa(i%max(present, 1)), value)
					}); err != nil {
						b.Fatal(err)
					}
				}
				for i := range present {
					write(i)
				}
				i := 0
				for b.Loop() {
					i++
					write(i)
				}
				s.Close()
			})
		}
	}
}

func BenchmarkGet(b *testing.B) {
	s := open(b, filepath.Join(memory(b), "store.db"), bolt.Options{NoSync: true})
	for i := range 1000 {
		put(b, s, "ep/"+strconv.Itoa(i), strings.Repeat("v", 700))
	}
	ctx := context.Background()
	for b.Loop() {
		if err := s.View(ctx, func(tx datastore.Tx) error { _, err := tx.Get("ep/500"); return err }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen is a restart with a thousand endpoints.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(memory(b), "store.db")
	s := open(b, path, bolt.Options{NoSync: true})
	for i := range 3000 {
		put(b, s, "ep/"+strconv.Itoa(i), strings.Repeat("v", 700))
	}
	s.Close()
	for b.Loop() {
		s, err := bolt.Open(path, bolt.Options{NoSync: true})
		if err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
