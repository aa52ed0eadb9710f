package datastore

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Layout says where records stand in a flat store that others use too: the record `dir/name` at `prefix/dir/=name`, so that what is in
// a directory, and not what is below it, is one range of keys; beside them, at `prefix/dir/=`, the generation of the directory. Neither
// "=" nor what parts it occurs in keys of ours. The zero value is not valid; see NewLayout.
type Layout struct{ prefix string }

// DefaultPrefix is where records stand when nothing else is said.
const DefaultPrefix = "sealane"

// NewLayout checks a prefix: segments as Key makes them, with slashes between; "" is DefaultPrefix. InvalidArgument otherwise.
func NewLayout(prefix string) (Layout, error) {
	prefix = strings.Trim(prefix, "/")
	if prefix == "" {
		prefix = DefaultPrefix
	}
	if err := checkKey(prefix); err != nil || len(prefix) > MaxKey/4 {
		return Layout{}, fmt.Errorf("prefix %.80q: %w: want letters, digits and -_.: with slashes between", prefix, errdefs.ErrInvalidArgument)
	}
	return Layout{prefix}, nil
}

// Key is where a record stands.
func (l Layout) Key(key string) string {
	dir, name := Split(key)
	return l.Generation(dir) + name
}

// Generation is where the generation of a directory stands. All its records stand below it, in byte order: it is their prefix.
func (l Layout) Generation(dir string) string {
	if dir == "" {
		return l.prefix + "/="
	}
	return l.prefix + "/" + dir + "/="
}

// NewGeneration is a value that no directory had before. It must be another one each time: a store may take the same bytes for no change.
func NewGeneration() []byte {
	b := make([]byte, 9)
	rand.Read(b) // never fails
	return hex.AppendEncode(nil, b)
}

// Root is the prefix of all keys.
func (l Layout) Root() string { return l.prefix + "/" }
