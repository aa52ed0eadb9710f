package netns

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
)

// Where more names go than the kernel tells of, none of those that are watched is missed.
func TestMoreNamesGoThanAreTold(t *testing.T) {
	w, err := newWarden()
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	dir := t.TempDir()
	key := filepath.Join(dir, "watched")
	text, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.Atoi(string(text[:len(text)-1]))
	if err != nil {
		t.Fatal(err)
	}
	gone := func(path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	made := func(path string) {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made(key)
	if err := w.watch(key, 1); err != nil {
		t.Fatal(err)
	}
	for i := range most { // one name twice in a row would be told once
		path := filepath.Join(dir, strconv.Itoa(i%2))
		made(path)
		gone(path)
	}
	gone(key)
	if ended := w.ended(); !slices.Contains(ended, key) {
		t.Errorf("ended: %q", ended)
	}
}
