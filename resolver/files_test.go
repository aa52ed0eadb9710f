package resolver_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

const box = sandbox.ID("box")

// kept are the files of a sandbox.
type kept struct {
	resolver.Directory
	t *testing.T
}

func files(t *testing.T) kept {
	return kept{resolver.Directory{Path: filepath.Join(t.TempDir(), "sandboxes"), Etc: t.TempDir()}, t}
}

func (k kept) path(name string) string { return filepath.Join(k.Path, string(box), name) }

func (k kept) write(conf string, hosts ...string) {
	k.t.Helper()
	if err := k.Write(k.t.Context(), box, resolver.Texts{Hosts: hosts, Hostname: "web", ResolvConf: conf}); err != nil {
		k.t.Fatal(err)
	}
}

func (k kept) wants(name, want string) {
	k.t.Helper()
	if text, err := os.ReadFile(k.path(name)); err != nil || string(text) != want {
		k.t.Errorf("%s: %q, %v, want %q", name, text, err, want)
	}
}

// edit does what a shell in the sandbox would.
func (k kept) edit(name, text string, flags int) {
	k.t.Helper()
	f, err := os.OpenFile(k.path(name), os.O_WRONLY|flags, 0)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err != nil {
		k.t.Fatal(err)
	}
	f.Close()
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Sys().(*syscall.Stat_t).Ino
}

// Files that are mounted stay the same files, and say what is wanted.
func TestWriteInPlace(t *testing.T) {
	k := files(t)
	k.write("nameserver 192.0.2.1\n", "127.0.0.1\tlocalhost")
	was := map[string]uint64{}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		was[name] = inode(t, k.path(name))
		if st, _ := os.Stat(k.path(name)); st.Mode() != 0o644 {
			t.Errorf("%s: mode %v", name, st.Mode())
		}
	}
	k.wants("hosts", "127.0.0.1\tlocalhost\n")
	k.wants("hostname", "web\n")
	k.wants("resolv.conf", "nameserver 192.0.2.1\n")

	k.write("nameserver 127.0.0.11\noptions ndots:0\n", "127.0.0.1\tlocalhost", "10.1.0.2\tweb", "10.2.0.2\tweb")
	k.wants("hosts", "127.0.0.1\tlocalhost\n10.1.0.2\tweb\n10.2.0.2\tweb\n")
	k.wants("resolv.conf", "nameserver 127.0.0.11\noptions ndots:0\n")
	k.write("nameserver ::1\n", "127.0.0.1\tlocalhost", "10.2.0.2\tweb")
	k.wants("hosts", "127.0.0.1\tlocalhost\n10.2.0.2\tweb\n")
	k.wants("resolv.conf", "nameserver ::1\n")
	for name, ino := range was {
		if inode(t, k.path(name)) != ino {
			t.Errorf("%s is another file", name)
		}
	}
	for range 2 {
		if err := k.Remove(t.Context(), box); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(k.path("")); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}

// What somebody in the sandbox wrote is left alone: lines of hosts, the others as a whole.
func TestUserEditsStay(t *testing.T) {
	k := files(t)
	k.write("nameserver 192.0.2.1\n", "127.0.0.1\tlocalhost", "10.1.0.2\tweb")
	k.edit("hosts", "192.0.2.9 mine\n", os.O_APPEND)
	k.edit("resolv.conf", "options rotate\n", os.O_APPEND)
	k.edit("hostname", "other\n", os.O_TRUNC)
	k.write("nameserver 127.0.0.11\n", "127.0.0.1\tlocalhost", "10.1.0.3\tweb")
	k.wants("hosts", "127.0.0.1\tlocalhost\n192.0.2.9 mine\n10.1.0.3\tweb\n")
	k.wants("resolv.conf", "nameserver 192.0.2.1\noptions rotate\n")
	k.wants("hostname", "other\n")

	k.edit("resolv.conf", "", os.O_TRUNC) // emptied is edited too
	k.write("nameserver 127.0.0.11\n", "127.0.0.1\tlocalhost")
	k.wants("resolv.conf", "")
	k.edit("hosts", "10.1.0.3\tweb", os.O_TRUNC) // without an end of line, and one that we struck out
	k.write("nameserver 127.0.0.11\n", "127.0.0.1\tlocalhost", "10.1.0.4\tweb")
	k.wants("hosts", "10.1.0.3\tweb\n10.1.0.4\tweb\n")
	k.edit("hosts", "192.0.2.9 mine\n", os.O_TRUNC) // a line of ours that was taken away stays away
	k.write("nameserver 127.0.0.11\n", "127.0.0.1\tlocalhost", "10.1.0.9\tweb")
	k.wants("hosts", "192.0.2.9 mine\n10.1.0.9\tweb\n")
	k.edit("hosts", strings.Repeat("#", 1<<20)+"\n", os.O_TRUNC)
	k.write("nameserver 127.0.0.11\n", "127.0.0.1\tlocalhost", "10.1.0.4\tweb")
	if st, err := os.Stat(k.path("hosts")); err != nil || st.Size() != 1<<20+1 {
		t.Errorf("a file longer than ours can be was changed: %v, %v", st, err)
	}
}

// What was cut short after the new text and before the end of the old one was cut off is ours, and is finished.
func TestInterruptedWriteIsFinished(t *testing.T) {
	k := files(t)
	k.write("nameserver 192.0.2.1\nsearch example.org\n", "127.0.0.1\tlocalhost")
	k.write("nameserver 127.0.0.11\n", "127.0.0.1\tlocalhost")
	k.edit("resolv.conf", "nameserver 127.0.0.11\n"+strings.Repeat("\n", 19), os.O_TRUNC)
	k.write("nameserver 192.0.2.2\n", "127.0.0.1\tlocalhost")
	k.wants("resolv.conf", "nameserver 192.0.2.2\n")
}

// What was to be written when we were interrupted is written by the next call; a file that was taken away is made again.
func TestInterruptedLineIsWritten(t *testing.T) {
	k := files(t)
	k.write("", "127.0.0.1\tlocalhost", "10.1.0.2\tweb")
	ledger, err := os.ReadFile(k.path(".written"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(ledger))
	lines[len(lines)-1] = "+" + lines[len(lines)-1]
	k.edit(".written", strings.Join(lines, "\n")+"\n", os.O_TRUNC)
	k.edit("hosts", "127.0.0.1\tlocalhost\n", os.O_TRUNC)
	k.write("", "127.0.0.1\tlocalhost", "10.1.0.2\tweb")
	k.wants("hosts", "127.0.0.1\tlocalhost\n10.1.0.2\tweb\n")
	if err := os.Remove(k.path("hostname")); err != nil {
		t.Fatal(err)
	}
	k.write("", "127.0.0.1\tlocalhost", "10.1.0.2\tweb")
	k.wants("hostname", "web\n")
}

// No reader finds a file empty, as one does that is cut off first and written then.
func TestReaderFindsNoEmptyFile(t *testing.T) {
	k := files(t)
	long, short := "nameserver 192.0.2.1\nsearch "+strings.Repeat("example.org ", 20)+"\n", "nameserver 192.0.2.2\n"
	k.write(short, "127.0.0.1\tlocalhost")
	done := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			text, err := os.ReadFile(k.path("resolv.conf"))
			if err != nil || !strings.HasPrefix(string(text), "nameserver 192.0.2.") {
				t.Errorf("read %q, %v", text, err)
				return
			}
		}
	})
	for range 200 {
		k.write(long, "127.0.0.1\tlocalhost")
		k.write(short, "127.0.0.1\tlocalhost")
	}
	close(done)
	readers.Wait()
}

// Behaviour 71: concurrent writers lose nothing, neither callers of ours nor somebody who appends in the sandbox.
func TestBehaviour71ConcurrentWriters(t *testing.T) {
	k := files(t)
	k.write("", "127.0.0.1\tlocalhost")
	const many = 50
	var all sync.WaitGroup
	all.Go(func() {
		for i := range many {
			k.edit("hosts", fmt.Sprintf("192.0.2.%d mine%d\n", i, i), os.O_APPEND)
		}
	})
	lines := []string{"127.0.0.1\tlocalhost"}
	for i := range many {
		lines = append(lines, fmt.Sprintf("10.1.0.%d\tweb%d", i, i))
		k.write("", lines...)
	}
	all.Wait()
	for i := range 4 {
		all.Go(func() { k.write("", append(slices.Clone(lines), fmt.Sprintf("10.2.0.%d\tweb", i))...) })
	}
	all.Wait()
	text, err := os.ReadFile(k.path("hosts"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range many {
		for _, line := range []string{fmt.Sprintf("192.0.2.%d mine%d\n", i, i), fmt.Sprintf("10.1.0.%d\tweb%d\n", i, i)} {
			if strings.Count(string(text), line) != 1 {
				t.Errorf("%q is there %d times", line, strings.Count(string(text), line))
			}
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	k := files(t)
	for what, texts := range map[string]resolver.Texts{
		"a line in a line of hosts": {Hosts: []string{"10.1.0.2\tweb\n10.9.9.9\tbank.example"}},
		"a line in the hostname":    {Hostname: "web\nroot"},
		"NUL in resolv.conf":        {ResolvConf: "nameserver 192.0.2.1\x00\n"},
		"a carriage return":         {Hosts: []string{"10.1.0.2\tweb\r10.9.9.9\tbank"}},
	} {
		if err := k.Write(t.Context(), box, texts); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, id := range []sandbox.ID{"", ".", "..", "a/b", "../x"} {
		if err := k.Write(t.Context(), id, resolver.Texts{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("id %q: %v", id, err)
		}
		if err := k.Remove(t.Context(), id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("remove id %q: %v", id, err)
		}
	}
	if _, err := os.Stat(k.Path); !os.IsNotExist(err) {
		t.Errorf("something was written: %v", err)
	}
}

// Where a file should be, nothing else is written to.
func TestNoLinkIsFollowed(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "shadow")
	if err := os.WriteFile(elsewhere, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]func(path string) error{
		"a symbolic link": func(path string) error { return os.Symlink(elsewhere, path) },
		"a FIFO":          func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a directory":     func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		for _, file := range []string{"hosts", "hostname", "resolv.conf", ".written"} {
			k := files(t)
			k.write("", "127.0.0.1\tlocalhost")
			if err := os.Remove(k.path(file)); err != nil {
				t.Fatal(err)
			}
			if err := put(k.path(file)); err != nil {
				t.Fatal(err)
			}
			if err := k.Write(t.Context(), box, resolver.Texts{Hosts: []string{"10.1.0.2\tweb"}}); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("%s in the place of %s: %v", name, file, err)
			}
		}
	}
	if text, _ := os.ReadFile(elsewhere); string(text) != "secret\n" {
		t.Errorf("it was written to: %q", text)
	}
}

func TestHostsOwnFiles(t *testing.T) {
	k := files(t)
	ctx := t.Context()
	if conf, err := k.Conf(ctx); err != nil || len(conf.Servers) > 0 {
		t.Errorf("no file: %v, %v", conf, err)
	}
	if lines, err := k.Hosts(ctx); err != nil || len(lines) > 0 {
		t.Errorf("no file: %q, %v", lines, err)
	}
	for name, text := range map[string]string{"resolv.conf": "nameserver 192.0.2.1\n", "hosts": "127.0.0.1 localhost\n\n# mine\n192.0.2.9 mine"} {
		if err := os.WriteFile(filepath.Join(k.Etc, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if conf, err := k.Conf(ctx); err != nil || fmt.Sprint(conf.Servers) != "[192.0.2.1]" {
		t.Errorf("%v, %v", conf, err)
	}
	if lines, err := k.Hosts(ctx); err != nil || fmt.Sprintf("%q", lines) != `["127.0.0.1 localhost" "" "# mine" "192.0.2.9 mine"]` {
		t.Errorf("%q, %v", lines, err)
	}
	name, err := k.Hostname(ctx)
	if want, _ := os.Hostname(); err != nil || name != want {
		t.Errorf("%q, %v", name, err)
	}
}
