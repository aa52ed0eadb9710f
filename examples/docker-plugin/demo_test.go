package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The test binary is a host's first process too.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == holding {
		if err := hold(); err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// built has sealane built, and finds the other programs.
func built(t *testing.T) programs {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	tools := programs{sealane: filepath.Join(t.TempDir(), "sealane"), consul: filepath.Join(cache, "sealane", "bin", "consul")}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", tools.sealane, "../../cmd/sealane").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := tools.find(); err != nil {
		t.Fatal(err)
	}
	return tools
}

// What the demo shows is so: each of its steps fails when it is not.
func TestDemo(t *testing.T) {
	tools := built(t)
	t.Setenv("TMPDIR", t.TempDir())
	if err := run(t.Context(), tools); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
}
