package resolver

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/sealane/sealane/sandbox"
)

// Files keeps what sandboxes see as /etc/hosts, /etc/hostname and /etc/resolv.conf, where a runtime can mount it. Rooms: Directory. Safe
// for concurrent use; calls for one sandbox queue.
type Files interface {
	// Conf is what the host's own resolv.conf says: behind systemd-resolved, what that asks. Empty when there is none.
	Conf(ctx context.Context) (ResolvConf, error)
	// Hosts are the lines of the host's own hosts file, and Hostname is its name.
	Hosts(ctx context.Context) ([]string, error)
	Hostname(ctx context.Context) (string, error)
	// Write makes the files of a sandbox say what is wanted. What somebody else changed stays: a line of hosts, hostname or
	// resolv.conf as a whole.
	Write(ctx context.Context, id sandbox.ID, t Texts) error
	// Remove ends them; nil when there are none. Sweep removes those of all other sandboxes than these.
	Remove(ctx context.Context, id sandbox.ID) error
	Sweep(ctx context.Context, keep []sandbox.ID) error
}

// Texts are the files of one sandbox.
type Texts struct {
	Hosts      []string // lines, without their ends
	Hostname   string   // a line, without its end
	ResolvConf string   // see ResolvConf.Text
}

// Directory is Files in a directory of its own for each sandbox, named after its id. A file that is there is changed in place: its inode
// may be mounted. Beside them a ledger says, by digest, what we wrote, or may have written when we were interrupted.
type Directory struct {
	Path string // above those of the sandboxes; made when it is needed
	Etc  string // of the host's own files; "": /etc
}

var _ Files = Directory{}

const (
	hostsFile    = "hosts"
	hostnameFile = "hostname"
	confFile     = "resolv.conf"
	ledgerFile   = ".written"
)

// largest is how long a file may be to be changed by us. A longer one is somebody else's doing.
const largest = 1 << 20

// Conf implements Files.
func (d Directory) Conf(context.Context) (ResolvConf, error) {
	text, err := readOwn(d.etc(confFile))
	if err != nil {
		return ResolvConf{}, fmt.Errorf("read the host's resolv.conf: %w", err)
	}
	r := ParseResolvConf(text)
	if r.Stub() {
		if real, err := readOwn(StubConf); err == nil && len(real) > 0 {
			r = ParseResolvConf(real)
		}
	}
	return r, nil
}

// Hosts implements Files.
func (d Directory) Hosts(context.Context) ([]string, error) {
	text, err := readOwn(d.etc(hostsFile))
	if err != nil {
		return nil, fmt.Errorf("read the host's hosts: %w", err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if printable(line) {
			lines = append(lines, strings.TrimRight(line, "\r\n"))
		}
	}
	return lines, nil
}

// Hostname implements Files.
func (d Directory) Hostname(context.Context) (string, error) { return os.Hostname() }

func (d Directory) etc(name string) string { return filepath.Join(cmp.Or(d.Etc, "/etc"), name) }

// readOwn reads the beginning of a file of the host's; nothing when there is none.
func readOwn(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, largest))
}

// dir is where a sandbox's files are.
func (d Directory) dir(id sandbox.ID) (string, error) {
	if name := string(id); name != "." && filepath.IsLocal(name) && filepath.Base(name) == name {
		return filepath.Join(d.Path, name), nil
	}
	return "", fmt.Errorf("%w: %.80q is no id", errdefs.ErrInvalidArgument, id)
}

// Write implements Files.
func (d Directory) Write(_ context.Context, id sandbox.ID, t Texts) error {
	dir, err := d.dir(id)
	if err == nil {
		err = t.check()
	}
	if err == nil {
		err = t.write(dir)
	}
	if err != nil {
		return fmt.Errorf("files of sandbox %.12s: %w", id, err)
	}
	return nil
}

// write changes the files between writing down what may be in them and what is.
func (t Texts) write(dir string) error {
	l, err := openLedger(dir, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := t.create(dir); !errors.Is(err, fs.ErrExist) {
			return err
		}
		l, err = openLedger(dir, os.O_CREATE) // somebody was faster, or the ledger was taken away
	}
	if err != nil {
		return err
	}
	defer l.Close()
	units := t.units()
	if l.isAsWanted(units) && allThere(dir) {
		return nil
	}
	if err := l.add(units); err != nil {
		return err
	}
	hosts := func(text string, there bool) string {
		if !there {
			return t.hosts()
		}
		want := unrepeated(t.Hosts)
		new := slices.DeleteFunc(slices.Clone(want), func(line string) bool { return slices.Contains(l.lines, digest(hostsFile, line)) })
		return MergeHosts(text, func(line string) bool { return l.has(hostsFile, line) }, want, new)
	}
	err = errors.Join(change(dir, hostsFile, hosts), change(dir, hostnameFile, l.whole(hostnameFile, t.Hostname+"\n")),
		change(dir, confFile, l.whole(confFile, t.ResolvConf)))
	if err != nil {
		return err
	}
	return l.keep(units)
}

// hosts is the whole file.
func (t Texts) hosts() string { return strings.Join(append(slices.Clone(t.Hosts), ""), "\n") }

// create makes a directory with all in it appear at once. ErrExist: there is one.
func (t Texts) create(dir string) error {
	above, name := filepath.Split(dir)
	unfinished, err := os.MkdirTemp(above, "."+name+"-")
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(above, 0o755); err == nil {
			unfinished, err = os.MkdirTemp(above, "."+name+"-")
		}
	}
	if err != nil {
		return err
	}
	err = os.Chmod(unfinished, 0o755)
	for _, f := range []struct{ name, text string }{
		{ledgerFile, strings.Join(t.units(), "\n") + "\n"}, {hostsFile, t.hosts()}, {hostnameFile, t.Hostname + "\n"}, {confFile, t.ResolvConf},
	} {
		if err == nil {
			err = writeNew(filepath.Join(unfinished, f.name), f.text)
		}
	}
	if err == nil {
		err = syscall.Rename(unfinished, dir)
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.ENOTEMPTY) {
		err = fs.ErrExist
	}
	return errors.Join(err, os.RemoveAll(unfinished))
}

// writeNew makes a file that everybody may read. It is called several times an attach, and spares what the package os would ask of the
// kernel beside.
func writeNew(path, text string) error {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	n, err := syscall.Write(fd, []byte(text))
	if err == nil && n < len(text) {
		err = io.ErrShortWrite
	}
	if err = errors.Join(err, syscall.Fchmod(fd, 0o644), syscall.Close(fd)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// Remove implements Files.
func (d Directory) Remove(_ context.Context, id sandbox.ID) error {
	dir, err := d.dir(id)
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("files of sandbox %.12s: %w", id, err)
	}
	return nil
}

// Sweep implements Files.
func (d Directory) Sweep(ctx context.Context, keep []sandbox.ID) error {
	all, err := os.ReadDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("files of sandboxes: %w", err)
	}
	kept := make(map[sandbox.ID]bool, len(keep))
	for _, id := range keep {
		kept[id] = true
	}
	var errs []error
	for _, e := range all {
		if id := sandbox.ID(e.Name()); !kept[id] {
			errs = append(errs, d.Remove(ctx, id))
		}
	}
	return errors.Join(errs...)
}

// check is the last look at what is written: one line more would be an entry that nobody asked for.
func (t Texts) check() error {
	lines := append(slices.Clone(t.Hosts), t.Hostname)
	for line := range strings.Lines(t.ResolvConf) {
		lines = append(lines, strings.TrimSuffix(line, "\n"))
	}
	for _, line := range lines {
		if strings.Contains(line, "\n") || !printable(line) {
			return fmt.Errorf("line %.80q: %w: it has control characters", line, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// units are what stands or falls as one, as the ledger knows it.
func (t Texts) units() []string {
	units := []string{digest(hostnameFile, t.Hostname+"\n"), digest(confFile, t.ResolvConf)}
	for _, line := range t.Hosts {
		units = append(units, digest(hostsFile, line))
	}
	return unrepeated(units)
}

// digest of a line of hosts, or of a whole file. Empty lines at the end do not count: see rewrite.
func digest(file, text string) string {
	sum := sha256.Sum256([]byte(file + "\x00" + strings.TrimRight(text, "\n")))
	return hex.EncodeToString(sum[:16])
}

func unrepeated(all []string) []string {
	var kept []string
	for _, s := range all {
		if !slices.Contains(kept, s) {
			kept = append(kept, s)
		}
	}
	return kept
}

// allThere says that nobody took a file away.
func allThere(dir string) bool {
	for _, name := range []string{hostsFile, hostnameFile, confFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// ledger is a sandbox's list of digests, open and locked: of what was written, and behind a "+" of what may have been. What was written and
// is not there any more was taken away by somebody, and stays so.
type ledger struct {
	*os.File
	lines []string
}

// openLedger locks it until it is closed.
func openLedger(dir string, flags int) (*ledger, error) {
	path := filepath.Join(dir, ledgerFile)
	f, err := openPlain(path, flags)
	if err != nil {
		return nil, err
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(f)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &ledger{f, strings.Fields(string(text))}, nil
}

const pending = "+"

func (l *ledger) has(file, text string) bool {
	d := digest(file, text)
	return slices.Contains(l.lines, d) || slices.Contains(l.lines, pending+d)
}

// isAsWanted says that all was written, and nothing else.
func (l *ledger) isAsWanted(units []string) bool {
	return len(l.lines) == len(units) && !slices.ContainsFunc(units, func(u string) bool { return !slices.Contains(l.lines, u) })
}

// add writes down what may be there from now on.
func (l *ledger) add(units []string) error {
	was := len(l.lines)
	for _, u := range units {
		if !slices.Contains(l.lines, u) && !slices.Contains(l.lines, pending+u) {
			l.lines = append(l.lines, pending+u)
		}
	}
	if len(l.lines) == was {
		return nil
	}
	return rewrite(l.File, strings.Join(l.lines, "\n")+"\n")
}

// keep says what was written, and strikes out the rest.
func (l *ledger) keep(units []string) error {
	if l.isAsWanted(units) {
		return nil
	}
	l.lines = units
	return rewrite(l.File, strings.Join(units, "\n")+"\n")
}

// whole replaces a file as long as it is as we wrote it.
func (l *ledger) whole(file, want string) func(string, bool) string {
	return func(text string, there bool) string {
		if there && !l.has(file, text) {
			return text
		}
		return want
	}
}

// change makes a file what to makes of it; one that is not there comes to be as a whole.
func change(dir, name string, to func(text string, there bool) string) error {
	path := filepath.Join(dir, name)
	f, err := openPlain(path, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return restore(dir, name, to("", false))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, largest+1))
	if err != nil || len(text) > largest {
		return err
	}
	want := to(string(text), true)
	if more, only := strings.CutPrefix(want, string(text)); only {
		return grow(path, more)
	}
	return rewrite(f, want)
}

// restore lets nobody see half of a file that was taken away.
func restore(dir, name, text string) error {
	unfinished := filepath.Join(dir, "."+name)
	if err := os.Remove(unfinished); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeNew(unfinished, text); err != nil {
		return err
	}
	return os.Rename(unfinished, filepath.Join(dir, name))
}

// grow adds lines to a file at the end that it has by then: somebody in the sandbox may be adding too.
func grow(path, more string) error {
	if more == "" {
		return nil
	}
	f, err := openPlain(path, os.O_APPEND)
	if err != nil {
		return err
	}
	_, err = f.WriteString(more)
	return errors.Join(err, f.Close())
}

// rewrite changes what a file says. No reader finds it empty, and who is interrupted leaves either text whole: what is shorter is written
// with empty lines up to the old length, which are then cut off.
func rewrite(f *os.File, text string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	padded := text + strings.Repeat("\n", max(0, int(st.Size())-len(text)))
	if _, err := f.WriteAt([]byte(padded), 0); err != nil {
		return err
	}
	return f.Truncate(int64(len(text)))
}

// openPlain opens a regular file for reading and writing, and nothing that somebody put in its place.
func openPlain(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|flags, 0o600)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENXIO) {
		return nil, fmt.Errorf("%s: %w: it is no regular file; remove it", path, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s: %w: it is no regular file; remove it", path, errdefs.ErrFailedPrecondition), err, f.Close())
	}
	return f, nil
}
