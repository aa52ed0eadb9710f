package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/datastore"
	"github.com/sealane/sealane/internal/servertest"
)

func TestStoreURL(t *testing.T) {
	for _, c := range []struct {
		url  string
		want storeURL
	}{
		{"bolt", storeURL{scheme: "bolt"}},
		{"consul://127.0.0.1:8500", storeURL{"consul", []string{"127.0.0.1:8500"}, ""}},
		{"consul://[2001:db8::1]:8500/a/b", storeURL{"consul", []string{"[2001:db8::1]:8500"}, "a/b"}},
		{"consul://a:8500,[2001:db8::1]:8500/x", storeURL{"consul", []string{"a:8500", "[2001:db8::1]:8500"}, "x"}},
		{"etcd://a:2379,b:2379/x", storeURL{"etcd", []string{"a:2379", "b:2379"}, "x"}},
	} {
		got, err := storeFlags{url: c.url}.parse()
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, %v, want %v", c.url, got, err, c.want)
		}
	}
	for _, url := range []string{"", "consul", "bolt://x", "redis://a:1", "consul://", "consul://a", "consul://a:1,b", "etcd://a:1,", "etcd://:1",
		"etcd://a:1/../x", "etcd://u:secret@a:1"} {
		if got, err := (storeFlags{url: url}).parse(); !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "secret@") {
			t.Errorf("%s: got %v, %v, want InvalidArgument without the secret", url, got, err)
		}
	}
}

// What stands in files reaches the store, and a bad file is found before anything is done.
func TestStoreFiles(t *testing.T) {
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	files := servertest.NewTLS(t)
	for _, f := range []storeFlags{
		{url: "consul://a:1", ca: files.CA, cert: files.Cert, key: files.Key, tokenFile: file("token", "t\n")},
		{url: "etcd://a:1", ca: files.CA, user: "u", passwordFile: file("password", "p")},
	} {
		s, err := f.open()
		if err != nil {
			t.Fatalf("%+v: %v", f, err)
		}
		if _, ok := s.(datastore.Presence); !ok {
			t.Errorf("%s announces nothing", f.url)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, f := range []storeFlags{
		{url: "consul://a:1", tokenFile: file("token", "two\nlines\n")},
		{url: "consul://a:1", tokenFile: file("token", "\n")},
		{url: "etcd://a:1", user: "u", passwordFile: "missing"},
		{url: "consul://a:1", ca: file("ca", "no certificate")},
		{url: "consul://a:1", cert: files.Cert, key: files.CA},
		{url: "consul://a:1", cert: files.Cert},
		{url: "consul://a:1", user: "u", passwordFile: "f"},
		{url: "etcd://a:1", tokenFile: "f"},
		{url: "bolt", ca: files.CA},
	} {
		if _, err := f.open(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: got %v, want InvalidArgument", f, err)
		}
	}
	if s, err := (storeFlags{url: "bolt"}).open(); s != nil || err != nil {
		t.Errorf("bolt: got %v, %v, want no store", s, err)
	}
}
