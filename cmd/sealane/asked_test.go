package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// asked CONTAINER SERVER NAME WANT succeeds when a container that asks a server for a name, over DNS, is told what is wanted.
func asked() {
	out, err := exec.Command("docker", "exec", os.Args[1], "busybox", "nslookup", os.Args[3], os.Args[2]).CombinedOutput()
	_, answer, _ := strings.Cut(string(out), "\n\n") // the server's own address comes first
	if err == nil && !strings.Contains(answer, os.Args[4]) {
		err = fmt.Errorf("%s is not among the answers", os.Args[4])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v: %s", err, out)
		os.Exit(1)
	}
}
