package nstest

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
)

// ProcessesOf are the processes that belong to a directory: it is named in their arguments, or they live in a root below it, as an
// engine's containers do, which outlive it.
func ProcessesOf(dir string) (pids []int) {
	below := []byte(dir + "/")
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		mounts, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "mountinfo"))
		root, _, _ := bytes.Cut(mounts, []byte("\n"))
		if bytes.Contains(line, below) || bytes.Contains(root, below) {
			pids = append(pids, pid)
		}
	}
	return pids
}
