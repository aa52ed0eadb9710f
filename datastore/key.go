package datastore

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// MaxKey is the length in bytes of the longest key that every store accepts.
const MaxKey = 1 << 10

const upperHex = "0123456789ABCDEF"

// Key joins path segments with slashes. Each is escaped, so that an opaque id or a name with a slash or two dots stays one
// segment: ASCII letters, digits and "-_.:" stand for themselves, any other byte is written %XX in capitals, "." is %2E, ".." is
// %2E%2E, and an empty segment is a lone "%". Different segments never make the same key; Segments undoes it.
func Key(segments ...string) string {
	var b strings.Builder
	for i, s := range segments {
		if i > 0 {
			b.WriteByte('/')
		}
		escape(&b, s)
	}
	return b.String()
}

func escape(b *strings.Builder, segment string) {
	if segment == "" {
		b.WriteByte('%')
		return
	}
	dots := segment == "." || segment == ".."
	done := 0 // bytes written as they stand, or escaped
	for i := range len(segment) {
		c := segment[i]
		if plain(c) && !dots {
			continue
		}
		b.WriteString(segment[done:i])
		done = i + 1
		b.WriteByte('%')
		b.WriteByte(upperHex[c>>4])
		b.WriteByte(upperHex[c&15])
	}
	b.WriteString(segment[done:])
}

// Segments gives back what Key was given, of a whole key or of a name that List or Watch yields. InvalidArgument when Key does not
// make such a text.
func Segments(key string) ([]string, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	segments := strings.Split(key, "/")
	for i, s := range segments {
		segments[i] = unescape(s)
	}
	return segments, nil
}

// unescape undoes escape; checkSegment has passed.
func unescape(segment string) string {
	if strings.IndexByte(segment, '%') < 0 {
		return segment
	}
	b := make([]byte, 0, len(segment))
	for i := 0; i < len(segment); i++ {
		c := segment[i]
		if c == '%' {
			if len(segment) == 1 {
				return ""
			}
			c = unhex(segment[i+1])<<4 | unhex(segment[i+2])
			i += 2
		}
		b = append(b, c)
	}
	return string(b)
}

// checkKey refuses what Key cannot have made: a segment that was not escaped is found at its first use.
func checkKey(key string) error {
	if len(key) > MaxKey {
		return fmt.Errorf("key %.40q…: %w: %d bytes, at most %d", key, errdefs.ErrInvalidArgument, len(key), MaxKey)
	}
	rest, segment, more := key, "", true
	for more {
		segment, rest, more = strings.Cut(rest, "/")
		if !checkSegment(segment) {
			return fmt.Errorf("key %q: %w: make keys with datastore.Key", key, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func checkSegment(s string) bool {
	switch s {
	case "", ".", "..":
		return false
	case "%", "%2E", "%2E%2E":
		return true
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			if !plain(s[i]) {
				return false
			}
			continue
		}
		if i+2 >= len(s) || !capitalHex(s[i+1]) || !capitalHex(s[i+2]) || plain(unhex(s[i+1])<<4|unhex(s[i+2])) {
			return false
		}
		i += 2
	}
	return true
}

// plain says which bytes stand for themselves in a segment.
func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || c == '-' || c == '_' || c == '.' || c == ':'
}

func capitalHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c - 'A' + 10
}

// Split cuts a key at its last slash into its directory and its name there. The directory of a key without a slash is "".
func Split(key string) (dir, name string) {
	i := strings.LastIndexByte(key, '/')
	if i < 0 {
		return "", key
	}
	return key[:i], key[i+1:]
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
