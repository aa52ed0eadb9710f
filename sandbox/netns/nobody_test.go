package netns_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sealane/sealane/sandbox/netns"
)

// A user who is not root is told so at once, and nothing is made. The test runs itself as one.
func TestNobody(t *testing.T) {
	const inside = "SEALANE_TEST_NOBODY"
	if run := os.Getenv(inside); run != "" {
		if _, err := netns.New(netns.Options{Run: run}); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "run it as root") {
			t.Errorf("got %v", err)
		}
		if left, err := os.ReadDir(run); err != nil || len(left) > 0 {
			t.Errorf("%v, %v were left", left, err)
		}
		return
	}
	const nobody = 65534
	dir, err := os.MkdirTemp("/tmp", "sealane-nobody-") // t.TempDir is below a directory of root's alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	run, program := filepath.Join(dir, "run"), filepath.Join(dir, "test")
	whole, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, whole, 0o755)
	}
	if err == nil {
		err = os.Mkdir(run, 0o755)
	}
	for _, path := range []string{dir, run} {
		if err == nil {
			err = os.Chown(path, nobody, nobody)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), program, "-test.run=^TestNobody$", "-test.count=1")
	c.Dir, c.Env = dir, append(os.Environ(), inside+"="+run)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
