package holder_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/sealane/sealane/internal/holder"
	"golang.org/x/sys/unix"
)

// The test binary is the process when it is told so.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "hold" {
		if err := holder.Serve(3, os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func process(t *testing.T, path string) *holder.Process {
	p := holder.NewProcess(path, "/proc/self/exe", "hold", path)
	t.Cleanup(func() { p.Close() })
	return p
}

// pipe is a descriptor whose other end says when nobody has it any more.
func pipe(t *testing.T) (kept int, other *os.File) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	other = os.NewFile(uintptr(ends[0]), "other end")
	t.Cleanup(func() { other.Close() })
	return ends[1], other
}

// ends waits until nobody has the kept end.
func ends(t *testing.T, other *os.File) {
	t.Helper()
	if n, err := other.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d, %v", n, err)
	}
}

func TestProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	first := process(t, path)
	if kept, err := first.Kept(); err != nil || len(kept) != 0 {
		t.Fatalf("nothing runs, and %v, %v is kept", kept, err)
	}
	a, otherA := pipe(t)
	b, otherB := pipe(t)
	for name, fd := range map[string]int{"a": a, "b": b} {
		if err := first.Keep(name, fd); err != nil {
			t.Fatal(err)
		}
	}
	first.Close()
	unix.Close(a)
	unix.Close(b)

	second := process(t, path)
	kept, err := second.Kept()
	if err != nil || len(kept) != 2 || len(kept["a"]) != 1 || len(kept["b"]) != 1 {
		t.Fatalf("kept %v, %v", kept, err)
	}
	if _, err := unix.Write(kept["a"][0], []byte("x")); err != nil {
		t.Error(err)
	}
	if n, err := otherA.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("it is another pipe: %d, %v", n, err)
	}
	unix.Close(kept["a"][0])
	unix.Close(kept["b"][0])
	if err := second.Drop("a"); err != nil {
		t.Error(err)
	}
	ends(t, otherA)
	if err := second.Drop("b"); err != nil { // the last: it ends
		t.Error(err)
	}
	ends(t, otherB)
	c, otherC := pipe(t)
	if err := second.Keep("c", c); err != nil { // in a new one
		t.Fatal(err)
	}
	unix.Close(c)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	ends(t, otherC) // it ended with its file
}

// What systemd is told is what sd_notify(3) says, and what it hands over is taken by name.
func TestSystemd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(socket, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(socket)
	rest := process(t, filepath.Join(t.TempDir(), "socket"))
	if _, able := holder.NewSystemd("x-", nil, rest); able {
		t.Error("there is a store without systemd")
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("FDSTORE", "1") // for what was stored: the plugin's is of a socket unit
	fd, _ := pipe(t)
	defer unix.Close(fd)
	theirs, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	other := os.NewFile(uintptr(theirs), "plugin")
	defer other.Close()
	again, err := unix.Dup(fd)
	if err != nil {
		t.Fatal(err)
	}
	s, able := holder.NewSystemd("x-", []*os.File{other, os.NewFile(uintptr(again), "x-a")}, rest)
	if !able {
		t.Fatal("there is no store")
	}
	kept, err := s.Kept()
	if err != nil || len(kept) != 1 || len(kept["a"]) != 1 {
		t.Fatalf("kept %v, %v", kept, err)
	}
	unix.Close(kept["a"][0])
	if _, err := other.Stat(); err != nil {
		t.Errorf("what has another name: %v", err)
	}
	// What is in the store stays there untouched; what does not fit is the process's.
	c, otherC := pipe(t)
	for _, err := range []error{s.Keep("a", fd), s.Drop("a"), s.Keep("a", fd), s.Keep("c", c), s.Drop("c"), s.Drop("a")} {
		if err != nil {
			t.Error(err)
		}
	}
	unix.Close(c)
	ends(t, otherC)
	if s.Keep("a:b", fd) == nil {
		t.Error("a name with a colon is kept")
	}
	const add, remove = "FDSTORE=1\nFDPOLL=0\nFDNAME=x-a", "FDSTOREREMOVE=1\nFDNAME=x-a"
	for _, want := range []string{remove, add, remove} {
		buf, oob := make([]byte, 512), make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := unix.Recvmsg(socket, buf, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		if err != nil || string(buf[:max(n, 0)]) != want || (oobn > 0) != (want == add) {
			t.Errorf("told %q with %d bytes of descriptors, %v; want %q", buf[:max(n, 0)], oobn, err, want)
		}
	}
	if n, _, err := unix.Recvfrom(socket, make([]byte, 512), unix.MSG_DONTWAIT); err == nil {
		t.Errorf("told %d bytes more", n)
	}
}
