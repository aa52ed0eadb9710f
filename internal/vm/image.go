package vm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Image is the files that a machine starts with. The zero Image has none. Not for concurrent use.
type Image struct {
	files map[string]file // by absolute path, directories included
}

// file is contents, what a symbolic link says, or nothing of a directory.
type file struct {
	mode uint32 // type and permissions, as in inode(7)
	data []byte
}

const (
	directory = 0o040755
	program   = 0o100755
	plain     = 0o100644
	symlink   = 0o120777
)

// Dir adds a directory, with those above it.
func (i *Image) Dir(name string) { i.add(name, file{mode: directory}) }

// File adds a file with contents.
func (i *Image) File(name string, data []byte) { i.add(name, file{plain, data}) }

// Link adds a symbolic link.
func (i *Image) Link(name, target string) { i.add(name, file{symlink, []byte(target)}) }

// Program adds a program of this machine, and the libraries that its loader would load, in the places where they are here.
func (i *Image) Program(name, source string) error {
	if err := i.copy(name, source); err != nil {
		return err
	}
	loader, err := interpreter(source)
	if loader == "" || err != nil {
		return err
	}
	out, err := exec.Command(loader, "--list", source).CombinedOutput()
	if err != nil {
		return fmt.Errorf("libraries of %s: %w: %s", source, err, out)
	}
	errs := []error{i.copy(loader, loader)}
	for _, library := range libraries(string(out)) {
		errs = append(errs, i.copy(library, library))
	}
	return errors.Join(errs...)
}

// Foreign adds a program of another Debian for amd64, whose packages are unpacked below root, with the libraries that it would load there.
func (i *Image) Foreign(root, name string) error {
	const where = "/usr/lib/x86_64-linux-gnu"
	loader, err := interpreter(root + name)
	if err != nil {
		return err
	}
	theirs := filepath.Join(root, "usr", loader) // /lib64 is /usr/lib64
	out, err := exec.Command(theirs, "--library-path", root+where+":"+root+where+"/systemd", "--list", root+name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("libraries of %s: %w: %s", name, err, out)
	}
	errs := []error{i.copy(name, root+name), i.copy(loader, theirs)}
	for _, library := range libraries(string(out)) {
		errs = append(errs, i.copy(path.Join(where, path.Base(library)), library))
	}
	return errors.Join(errs...)
}

// interpreter is the loader that a program names; "" for a static one.
func interpreter(source string) (string, error) {
	f, err := elf.Open(source)
	if err != nil {
		return "", fmt.Errorf("%s: %w", source, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name, err := io.ReadAll(p.Open())
			return string(bytes.TrimRight(name, "\x00")), err
		}
	}
	return "", nil
}

// libraries are the paths in what a loader lists: "libc.so.6 => /lib/…/libc.so.6 (0x…)".
func libraries(listed string) (paths []string) {
	for line := range strings.Lines(listed) {
		if _, found, ok := strings.Cut(line, " => "); ok {
			found, _, _ = strings.Cut(found, " (")
			paths = append(paths, strings.TrimSpace(found))
		}
	}
	return paths
}

func (i *Image) copy(name, source string) error {
	data, err := os.ReadFile(source)
	if err == nil {
		i.add(name, file{program, data})
	}
	return err
}

func (i *Image) add(name string, f file) {
	if i.files == nil {
		i.files = make(map[string]file)
	}
	name = path.Clean("/" + name)
	i.files[name] = f
	if above := path.Dir(name); above != "/" {
		if _, is := i.files[above]; !is {
			i.Dir(above)
		}
	}
}

// Save writes the image to a file that Boot takes.
func (i *Image) Save(name string) error {
	f, err := os.Create(filepath.Clean(name))
	if err != nil {
		return err
	}
	return errors.Join(i.write(f), f.Close())
}

// write writes the image as the kernel reads it: cpio's format "newc", by name, so that a directory comes before what is in it.
// https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
func (i *Image) write(w io.Writer) error {
	for number, name := range slices.Sorted(maps.Keys(i.files)) {
		if err := writeEntry(w, number+1, name[1:], i.files[name]); err != nil {
			return err
		}
	}
	return writeEntry(w, 0, "TRAILER!!!", file{})
}

// writeEntry writes a header of thirteen numbers in hex, the name with a zero byte, and the contents, each filled up to four bytes.
func writeEntry(w io.Writer, number int, name string, f file) error {
	const magic, fill = "070701", 4
	header := magic
	for _, field := range []int{number, int(f.mode), 0, 0, 1, 0, len(f.data), 0, 0, 0, 0, len(name) + 1, 0} {
		header += fmt.Sprintf("%08X", field)
	}
	head := append([]byte(header+name), 0)
	for _, part := range [][]byte{head, f.data} {
		if _, err := w.Write(part); err != nil {
			return err
		}
		if _, err := w.Write(make([]byte, -len(part)&(fill-1))); err != nil {
			return err
		}
	}
	return nil
}
