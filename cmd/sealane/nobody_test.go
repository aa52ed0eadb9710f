package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A user who is not root is told so at once, by what cannot be done and by whom.
func TestNobody(t *testing.T) {
	const nobody = 65534
	dir, err := os.MkdirTemp("/tmp", "sealane-nobody-") // t.TempDir is below a directory of root's alone
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "sealane")
	whole, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(program, whole, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(l.Addr().String(), 0o600); err != nil {
		t.Fatal(err)
	}
	for command, says := range map[string]string{
		"serve":         "permission denied: it makes network namespaces, links and firewall rules: run it as root",
		"network ls":    "permission denied: it is root's and of the group that serve was given",
		"run -- true":   "permission denied: it is root's and of the group that serve was given",
		"sandbox ls -q": "permission denied: it is root's",
	} {
		c := exec.CommandContext(t.Context(), program, append([]string{"--run", dir}, strings.Fields(command)...)...)
		c.Dir, c.SysProcAttr = dir, &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := c.CombinedOutput()
		if err == nil || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), says) {
			t.Errorf("%s: %v: %s, want one line with %q", command, err, out, says)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("%v, %v are left", left, err)
	}
}
