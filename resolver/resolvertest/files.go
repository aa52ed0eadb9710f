package resolvertest

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/sealane/sealane/resolver"
	"github.com/sealane/sealane/sandbox"
)

// Files are files of sandboxes in memory, that nobody else changes. The zero value is ready. Safe for concurrent use.
type Files struct {
	// Fault, if not nil, is asked before each deed with what is about to be done, as in "write sb/1"; its error is returned.
	Fault func(op string) error
	// HostConf is the host's resolv.conf.
	HostConf resolver.ResolvConf

	mu    sync.Mutex // guards texts
	texts map[sandbox.ID]resolver.Texts
}

var _ resolver.Files = (*Files)(nil)

func (f *Files) begin(ctx context.Context, op string) error { return begin(ctx, &f.mu, f.Fault, op) }

// Conf implements resolver.Files.
func (f *Files) Conf(ctx context.Context) (resolver.ResolvConf, error) { return f.HostConf, ctx.Err() }

// Hosts implements resolver.Files.
func (f *Files) Hosts(ctx context.Context) ([]string, error) {
	return []string{"127.0.0.1\tlocalhost", "192.0.2.1\thost"}, ctx.Err()
}

// Hostname implements resolver.Files.
func (f *Files) Hostname(ctx context.Context) (string, error) { return "host", ctx.Err() }

// Write implements resolver.Files.
func (f *Files) Write(ctx context.Context, id sandbox.ID, t resolver.Texts) error {
	if err := f.begin(ctx, "write sb/"+string(id)); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if f.texts == nil {
		f.texts = map[sandbox.ID]resolver.Texts{}
	}
	t.Hosts = slices.Clone(t.Hosts)
	f.texts[id] = t
	return nil
}

// Remove implements resolver.Files.
func (f *Files) Remove(ctx context.Context, id sandbox.ID) error {
	if err := f.begin(ctx, "remove sb/"+string(id)); err != nil {
		return err
	}
	defer f.mu.Unlock()
	delete(f.texts, id)
	return nil
}

// Sweep implements resolver.Files.
func (f *Files) Sweep(ctx context.Context, keep []sandbox.ID) error {
	if err := f.begin(ctx, "sweep"); err != nil {
		return err
	}
	defer f.mu.Unlock()
	maps.DeleteFunc(f.texts, func(id sandbox.ID, _ resolver.Texts) bool { return !slices.Contains(keep, id) })
	return nil
}

// Texts are what a sandbox sees; false when there are no files for it.
func (f *Files) Texts(id sandbox.ID) (resolver.Texts, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, there := f.texts[id]
	return t, there
}
