package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestResolvers(t *testing.T) {
	real := filepath.Join(t.TempDir(), "real")
	if err := os.WriteFile(real, []byte("nameserver 192.0.2.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"":                                   "[]",
		"# nameserver 192.0.2.1\nsearch a b": "[]",
		"nameserver 192.0.2.1\n nameserver\t2001:db8::1 # second\nnameserver\nnameserver bogus": "[192.0.2.1 2001:db8::1]",
		"nameserver fe80::1%eth0":                        "[fe80::1%eth0]",
		"nameserver 127.0.0.53":                          "[192.0.2.53]",
		"nameserver 127.0.0.53\nnameserver 192.0.2.1":    "[127.0.0.53 192.0.2.1]",
		"nameserver 127.0.0.1":                           "[127.0.0.1]",
		"options edns0\nnameserver 127.0.0.54\nsearch .": "[192.0.2.53]",
	} {
		file := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := resolvers(file, real)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v; want %s", text, got, err, want)
		}
	}
	if got, err := resolvers(filepath.Join(t.TempDir(), "none"), real); err != nil || got != nil {
		t.Errorf("no file: %v, %v", got, err)
	}
}
