package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel reads what cpio reads.
func TestImage(t *testing.T) {
	var i Image
	i.File("/etc/deep/name", []byte("text"))
	i.File("/empty", nil)
	i.Link("/bin/link", "../etc/deep/name")
	if err := i.Program("/bin/busybox", busybox(t)); err != nil {
		t.Fatal(err)
	}
	file, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := i.Save(file); err != nil {
		t.Fatal(err)
	}
	archive, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	extract := exec.Command(busybox(t), "cpio", "-i")
	extract.Dir, extract.Stdin = dir, archive
	if out, err := extract.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]string{"etc/deep/name": "text", "empty": "", "bin/link": "text"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != want || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	got, err1 := os.ReadFile(filepath.Join(dir, "bin/busybox"))
	want, err2 := os.ReadFile(busybox(t))
	if !bytes.Equal(got, want) || err1 != nil || err2 != nil {
		t.Error("busybox is not what it was", err1, err2)
	}
	if info, err := os.Stat(filepath.Join(dir, "bin/busybox")); err != nil || info.Mode() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// A program comes with what its loader needs: it runs where nothing else is.
func TestProgramWithLibraries(t *testing.T) {
	var i Image
	if err := i.Program("/bin/ping", "/usr/bin/ping"); err != nil {
		t.Fatal(err)
	}
	loader, err := interpreter("/usr/bin/ping")
	if err != nil || i.files[loader].mode != program {
		t.Errorf("loader %q is not there: %v", loader, err)
	}
	if !slices.ContainsFunc(libraries("\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\t/lib64/ld.so (0x2)\n"), func(p string) bool { return p == "/lib/libc.so.6" }) {
		t.Error("a listed library is not found")
	}
	for name := range i.files {
		if strings.Contains(name, "libc.so") {
			return
		}
	}
	t.Error("there is no libc")
}

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	k := kernel(t)
	all, err := k.ordered([]string{"vxlan", "nft_masq", "crc32c_generic"})
	if err != nil {
		t.Fatal(err)
	}
	for n, name := range all {
		before, err := k.needs(k.modules[name])
		if err != nil {
			t.Fatal(err)
		}
		for _, need := range before {
			if at := slices.Index(all, need); (at < 0 || at > n) && !k.builtin[need] {
				t.Errorf("%s needs %s: %v", name, need, all)
			}
		}
	}
	if !slices.Contains(all, "udp_tunnel") {
		t.Error("vxlan needs udp_tunnel, which is not there:", all)
	}
	if _, err := k.ordered([]string{"nonsense"}); err == nil || !strings.Contains(err.Error(), "no module nonsense") {
		t.Error(err)
	}
	if _, err := OpenKernel(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestMachine(t *testing.T) {
	m, wire, err := boot(t.Context(), t, image(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
		says string // of the error
	}{
		{args: []string{"echo", "a  b"}, want: "a  b"},
		{args: []string{"sh", "-c", "echo seen; exit 3"}, want: "seen", says: "exit status 3: seen"},
		{args: []string{"sh", "-c", "kill -9 $$"}, says: "exit status 137"},
		{args: []string{"nonsense"}, says: "not found"},
		{args: nil, says: "nothing to run"},
		{args: []string{"sh", "-c", "seq 20000 | tail -n 1; seq 20000 | wc -c"}, want: "20000\n108894"},
		{args: []string{"sh", "-c", "printf '%0100000d' 7 | tr 0 x"}, want: strings.Repeat("x", 99_999) + "7"}, // a long answer
		// What is left running is nobody's, and when it has ended the first process buries it.
		{args: []string{"sh", "-c", "sh -c 'sleep 0.1; echo over >/run/over' & while ! grep -q over /run/over 2>/dev/null; do sleep 0.1; done; echo gone"}, want: "gone"},
		{args: []string{"sh", "-c", "while grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do sleep 0.1; done"}},
	} {
		got, err := m.Run(t.Context(), c.args...)
		if got != c.want || c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%q: %.100q, %v", c.args, got, err)
		}
	}
	seen := make(chan []byte, 1)
	wire.Listen(func(frame []byte) {
		select {
		case seen <- bytes.Clone(frame):
		default:
		}
	})
	if _, err := m.Run(t.Context(), "ip", "link", "set", "eth0", "up"); err != nil { // IPv6 says something at once
		t.Error(err)
	}
	if frame := <-seen; !bytes.Equal(frame[6:12], []byte{0x52, 0x54, 0, 0, 0, 1}) {
		t.Errorf("a frame that is not from the machine's card: %x", frame)
	}
	brief, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := m.Run(brief, "sleep", "10000"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	pid := m.qemu.Process.Pid
	if err := errors.Join(m.Close(), wire.Close()); err != nil {
		t.Error(err)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("QEMU is still there: %v", err)
	}
}

// A machine that does not come up is an error with the kernel's last words, and no machine.
func TestMachineThatDoesNotComeUp(t *testing.T) {
	var i Image
	i.File("/etc/nothing", nil)
	file := filepath.Join(t.TempDir(), "image")
	if err := i.Save(file); err != nil {
		t.Fatal(err)
	}
	if _, _, err := boot(t.Context(), t, file); err == nil || !strings.Contains(err.Error(), "Kernel panic") {
		t.Error(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := boot(over, t, file); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func kernel(t *testing.T) *Kernel {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	k, err := OpenKernel(filepath.Join(cache, "sealane", "kernel"))
	if err != nil {
		t.Fatalf("scripts/kernel has not been run: %v", err)
	}
	return k
}

func busybox(t *testing.T) string {
	t.Helper()
	name, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// image is of a machine with a shell and a network card.
func image(t *testing.T) (file string) {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "./testdata/init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var i Image
	file = filepath.Join(dir, "image")
	err := errors.Join(i.Program("/init", filepath.Join(dir, "init")), i.Program("/bin/busybox", busybox(t)),
		i.Modules(kernel(t), "virtio_pci", "virtio_net"))
	for _, applet := range []string{"sh", "echo", "seq", "sleep", "grep", "ip", "tail", "wc", "tr"} {
		i.Link("/bin/"+applet, "busybox")
	}
	if err := errors.Join(err, i.Save(file)); err != nil {
		t.Fatal(err)
	}
	return file
}

// boot boots an image with an end of a wire; who gets a machine closes both.
func boot(ctx context.Context, t *testing.T, image string) (*Machine, *Wire, error) {
	t.Helper()
	wire, err := NewWire()
	if err != nil {
		t.Fatal(err)
	}
	m, err := Boot(ctx, Options{Kernel: kernel(t).Image, Initrd: image, Memory: 256, Wire: wire, Console: filepath.Join(t.TempDir(), "console")})
	if err != nil {
		return nil, nil, errors.Join(err, wire.Close())
	}
	return m, wire, nil
}
