package datastore_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
)

func TestKey(t *testing.T) {
	for _, c := range []struct {
		key      string
		segments []string
	}{
		{"net/blue", []string{"net", "blue"}},
		{"name/net/a%2Fb", []string{"name", "net", "a/b"}},
		{"x/%2E/%2E%2E/...", []string{"x", ".", "..", "..."}},
		{"%/x/%", []string{"", "x", ""}},
		{"%25/%2541", []string{"%", "%41"}},
		{"pool/LocalDefault%2F10.0.0.0%2F24", []string{"pool", "LocalDefault/10.0.0.0/24"}},
		{"fd00::1/%C3%A9%00%0A%20%FF", []string{"fd00::1", "é\x00\n \xff"}},
	} {
		if got := datastore.Key(c.segments...); got != c.key {
			t.Errorf("Key(%q): got %q, want %q", c.segments, got, c.key)
		}
		got, err := datastore.Segments(c.key)
		if err != nil || !slices.Equal(got, c.segments) {
			t.Errorf("Segments(%q): got %q, %v, want %q", c.key, got, err, c.segments)
		}
	}
}

func TestSegmentsRefuses(t *testing.T) {
	for _, key := range []string{"", "/", "a/", "/a", "a//b", ".", "a/..", "a b", "%41", "%2f", "%2", "a%", "%%", "é", "%2E%2E%2E", "a%2E",
		strings.Repeat("a", datastore.MaxKey+1)} {
		if got, err := datastore.Segments(key); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Segments(%q): got %q, %v, want InvalidArgument", key, got, err)
		}
	}
}

// Every list of segments has its own key, and every accepted key its own segments.
func FuzzKey(f *testing.F) {
	f.Add("net", "a/b", "%")
	f.Add("", ".", "..")
	f.Add("%2E", "%", "\x00/")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if len(a)+len(b)+len(c) < datastore.MaxKey/3-2 {
			key := datastore.Key(a, b, c)
			got, err := datastore.Segments(key)
			if err != nil || !slices.Equal(got, []string{a, b, c}) {
				t.Fatalf("Segments(Key(%q, %q, %q)): got %q, %v", a, b, c, got, err)
			}
			if strings.Count(key, "/") != 2 {
				t.Fatalf("Key(%q, %q, %q) = %q is not three segments", a, b, c, key)
			}
		}
		if segments, err := datastore.Segments(a); err == nil && datastore.Key(segments...) != a {
			t.Fatalf("Key(Segments(%q)) = %q", a, datastore.Key(segments...))
		}
	})
}
