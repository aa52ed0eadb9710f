// Package vm boots small Linux machines in QEMU, for demos and tests that want kernels of their own: a distribution's kernel, an initramfs
// made here, and a cable between them that can be listened to.
//
// Nothing is installed in a machine and no disk is used. Image gathers what it starts with; Boot starts it and waits until it is up; Run runs
// a program there. Init is the first process inside, which the program that is booted calls when it finds that it is process 1. Machines are
// emulated (QEMU's tcg), so that they run wherever QEMU does, inside other machines too.
package vm
