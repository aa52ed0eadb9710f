package servertest

import (
	"os/exec"
	"runtime"
	"syscall"
)

// startTied starts a program that the kernel ends with us. It does so when the thread ends that started it: this goroutine keeps that to
// itself, and must not end before the program.
func startTied(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.Start()
}
