package vm

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// Kernel is a Linux image with its modules.
type Kernel struct {
	Image   string            // the file that is booted
	modules map[string]string // files by name of the module
	builtin map[string]bool   // modules that the image has in itself
}

// OpenKernel finds the kernel in a directory into which a distribution's package was unpacked: boot/vmlinuz-… and lib/modules/….
func OpenKernel(dir string) (*Kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return nil, fmt.Errorf("kernel in %s: %d images in boot, want one (%w)", dir, len(images), fs.ErrNotExist)
	}
	k := &Kernel{Image: images[0], modules: make(map[string]string), builtin: make(map[string]bool)}
	return k, filepath.WalkDir(filepath.Join(dir, "lib", "modules"), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case filepath.Ext(path) == ".ko":
			k.modules[moduleName(path)] = path
		case d.Name() == "modules.builtin":
			list, err := os.ReadFile(filepath.Clean(path))
			for line := range strings.Lines(string(list)) {
				k.builtin[moduleName(strings.TrimSpace(line))] = true
			}
			return err
		}
		return nil
	})
}

// moduleName is the name under which others depend on a module's file.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// modulesDir is where Init finds modules; by name they are in the order of loading.
const modulesDir = "/modules"

// Modules adds modules of a kernel, and those that they need, for Init to load.
func (i *Image) Modules(k *Kernel, names ...string) error {
	ordered, err := k.ordered(names)
	for n, name := range ordered {
		if data, readErr := os.ReadFile(k.modules[name]); readErr != nil {
			return readErr
		} else {
			i.File(fmt.Sprintf("%s/%03d-%s.ko", modulesDir, n, name), data)
		}
	}
	return err
}

// ordered puts modules after those that they need.
func (k *Kernel) ordered(names []string) (all []string, err error) {
	met := maps.Clone(k.builtin)
	var visit func(name string) error
	visit = func(name string) error {
		if met[name] {
			return nil
		}
		met[name] = true
		path := k.modules[name]
		if path == "" {
			return fmt.Errorf("kernel %s has no module %s", filepath.Base(k.Image), name)
		}
		needs, err := k.needs(path)
		if err != nil {
			return err
		}
		for _, need := range needs {
			if err := visit(need); err != nil {
				return err
			}
		}
		all = append(all, name)
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// needs are the modules that must be there before this one, "depends=", or had better be if the kernel has them, "softdep=pre:".
func (k *Kernel) needs(path string) (names []string, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", path, err)
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("module %s says nothing about itself", path)
	}
	info, err := section.Data()
	for _, says := range strings.Split(string(info), "\x00") {
		if list, is := strings.CutPrefix(says, "depends="); is {
			for name := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' }) {
				names = append(names, moduleName(name))
			}
		}
		if list, is := strings.CutPrefix(says, "softdep=pre:"); is {
			list, _, _ = strings.Cut(list, "post:")
			for name := range strings.FieldsSeq(list) {
				if name = moduleName(name); k.modules[name] != "" {
					names = append(names, name)
				}
			}
		}
	}
	return names, err
}
